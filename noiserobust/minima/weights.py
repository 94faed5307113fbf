"""The size of the weights, and how far they have come: no data needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from noiserobust.analog.filters import filter_norms
from noiserobust.analog.vectors import norm
from noiserobust.analog.weight_space import Over
from noiserobust.errors import UserError
from noiserobust.minima.base import Measure, Streams, Values
from noiserobust.minima.perturbations import check_over
from noiserobust.minima.surface import Surface


@dataclass(frozen=True)
class MaxOverRms(Measure, name="max_over_rms"):
    r"""How far the largest weight stands out, :math:`\max|w| / \mathrm{rms}(w)`: the mean over analog tensors.

    Parts: the ``largest``, and each by name (NaN for weights that are all 0, which do not count). Noise is proportional
    to the largest weight: a small sharpness with a large ratio is flatness, with a small one it may only mean that
    there are no outliers. It stands beside every sharpness on the command line. No pass.
    """

    example: ClassVar[str] = "max_over_rms"
    needs_data: ClassVar[bool] = False

    def values(self, surface: Surface, streams: Streams) -> list[Values]:
        ratios = {}
        for weight in surface.noisy.weights:
            w = weight.value().float()
            ratios[weight.name] = (w.abs().amax() / w.square().mean().sqrt()).item()
        known = [ratio for ratio in ratios.values() if not math.isnan(ratio)] or [math.nan]
        return [{"": sum(known) / len(known), "largest": max(known)} | ratios]


@dataclass(frozen=True)
class FilterNorms(Measure, name="filter_norms"):
    r"""Distribution of :math:`\lVert w_k \rVert_2` over the filters k (output channels) of all analog weights.

    The value is the mean; parts are ``std`` (ddof 0), ``min``, ``q05``, ``q25``, ``q50``, ``q75``, ``q95``, ``max``.
    :func:`filter_norms_of` gives all of them. No pass.
    Source: "Efficient Generalization Improvement Guided by Random Weight Perturbation" (arXiv 2211.11489), section 3.4
    and Figure 4.
    """

    example: ClassVar[str] = "filter_norms"
    needs_data: ClassVar[bool] = False

    def values(self, surface: Surface, streams: Streams) -> list[Values]:
        norms = filter_norms_of(surface).double()
        names = ("min", "q05", "q25", "q50", "q75", "q95", "max")
        shares = torch.tensor([0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0], dtype=torch.float64, device=norms.device)
        quantiles = torch.quantile(norms, shares).tolist()
        spread = norms.std(correction=0).item()
        return [{"": norms.mean().item(), "std": spread} | dict(zip(names, quantiles, strict=True))]


@dataclass(frozen=True)
class WeightNorm(Measure, name="weight_norm"):
    r"""The length :math:`\lVert w \rVert_2` of ``all`` trainable parameters, or of the ``analog`` weights. No pass."""

    example: ClassVar[str] = "weight_norm"

    over: Over = "all"
    names_over: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_over(self.name, self.over)

    def values(self, surface: Surface, streams: Streams) -> list[Values]:
        weights = [parameter.detach() for parameter in surface.parameters]
        return [{"": norm(surface.only(weights, self.over)).item()}]  # type: ignore[arg-type]


@dataclass(frozen=True)
class PathLength(Measure, name="path_length"):
    r"""How far training has come: :math:`\sum_t \lVert w_{t+1} - w_t \rVert_2`, t counting epochs.

    Over all trainable parameters; a training log alone knows it. No pass, but a copy of the weights is held.
    Source: "Incorruptible Neural Networks", Figure 8b.
    """

    example: ClassVar[str] = "path_length"
    needs_data: ClassVar[bool] = False

    def values(self, surface: Surface, streams: Streams) -> list[Values]:
        raise UserError("expected a measure of a single network, got path_length, which only a training log knows")


class Path:
    """The way of the parameters from epoch to epoch."""

    def __init__(self, surface: Surface, length: float = 0.0) -> None:
        self.surface, self.length = surface, length
        self.last = self._copies()

    def step(self) -> float:
        """The length up to the present weights."""
        now = self._copies()
        self.length += norm([a - b for a, b in zip(now, self.last, strict=True)]).item()
        self.last = now
        return self.length

    def _copies(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.surface.parameters]


def filter_norms_of(surface: Surface) -> Tensor:
    """The norm of every filter of every analog weight, (filters,)."""
    rows = [weight.as_rows(weight.value()) for weight in surface.noisy.weights]
    return torch.cat([filter_norms(weight.float()).flatten() for weight in rows])
