"""ESAM's selection: the samples that it keeps, beside those that it leaves out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from noiserobust.analog.vectors import Vector, add, clones, inner, norm, scale_to
from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.minima.base import Measure, Streams, Values
from noiserobust.minima.perturbations import Ascent
from noiserobust.minima.surface import Surface


@dataclass(frozen=True)
class ESAMSubset(Measure, name="esam_subset"):
    r"""Losses on the samples B+ that ESAM selects and on the others, B-, and the cosines of their gradients with B's.

    Of every micro-batch B of ``m`` samples, B+ are the max(1, floor(gamma m)) whose loss rises most from w to w + e,
    e being SAM's step of radius ``rho`` up B's gradient. Means over micro-batches, as parts:

    - ``selected_loss``, ``other_loss``: at w; ``selected_perturbed_loss``, ``other_perturbed_loss``: at w + e
    - ``selected_cosine``, ``other_cosine``: :math:`\cos(\nabla L_{B^\pm}(w), \nabla L_B(w))`, and
      ``selected_perturbed_cosine``, ``other_perturbed_cosine``: the same at w + e

    The value itself is the loss at w + e of B+ minus that of B (at least 0: the paper's Eq. 10).
    2 + 2 gamma forward and as many backward passes: B-'s gradient follows from the other two.
    Source: "Efficient Sharpness-aware Minimization", Eq. 7 to 10, Figures 5 and 6.
    """

    example: ClassVar[str] = "esam_subset"

    rho: float = 0.05
    gamma: float = 0.5
    m: int = 128

    def __post_init__(self) -> None:
        Ascent(self.rho, m=self.m)
        if not 0 < self.gamma < 1:
            raise UserError(f"esam_subset: expected gamma in (0, 1), got {self.gamma}: both groups need samples")
        if self.m < 2:
            raise UserError(f"esam_subset: expected micro-batches of m >= 2 samples, got {self.m}")

    @property
    def place(self) -> tuple[str, float]:
        return str(self), self.rho

    def values(self, surface: Surface, streams: Streams) -> list[Values]:
        sums: Values = {}
        for (part,) in surface.parts(self.m):
            # A last sample alone has no others.
            if len(part) > 1:
                for name, value in self._part(surface, part).items():
                    sums[name] = sums.get(name, 0.0) + value * len(part)
        used = surface.images - (surface.images % self.m == 1)
        if not used:
            raise UserError(f"esam_subset: expected 2 or more samples, got {surface.images}")
        return [{name: value / used for name, value in sums.items()}]

    def _part(self, surface: Surface, part: Batch) -> Values:
        losses, gradient = surface.gradient([part])
        with surface.moved(scale_to(clones(gradient), self.rho)):
            there, gradient_there = surface.gradient([part])
            rows = most_risen(there - losses, self.gamma)
            chosen = torch.zeros(len(part), dtype=torch.bool, device=losses.device)
            chosen[rows] = True
            share = surface.units([part[rows]]) / surface.units([part])
            cosines_there = _cosines(surface, part[rows], gradient_there, share)
        cosines = _cosines(surface, part[rows], gradient, share)
        return {
            "": (there[chosen].mean() - there.mean()).item(),
            "selected_loss": losses[chosen].mean().item(),
            "other_loss": losses[~chosen].mean().item(),
            "selected_perturbed_loss": there[chosen].mean().item(),
            "other_perturbed_loss": there[~chosen].mean().item(),
            "selected_cosine": cosines[0],
            "other_cosine": cosines[1],
            "selected_perturbed_cosine": cosines_there[0],
            "other_perturbed_cosine": cosines_there[1],
        }


def _cosines(surface: Surface, selected: Batch, whole: Vector, share: float) -> tuple[float, float]:
    """Cosines of the gradients on the ``selected`` samples and on the others with the ``whole`` one's.

    g_B = share g_B+ + (1 - share) g_B-, so that of the others needs no pass.
    """
    _, gradient = surface.gradient([selected])
    others = add(clones(whole), gradient, -share)
    return _cosine(gradient, whole), _cosine(others, whole)


def _cosine(a: Vector, b: Vector) -> float:
    return (inner(a, b) / (norm(a) * norm(b))).item()


def most_risen(rises: Tensor, gamma: float) -> Tensor:
    """The rows of the max(1, floor(gamma B)) largest of B ``rises``, in order; the first ones among equals.

    >>> most_risen(torch.tensor([0.0, 2.0, 2.0, 1.0, 2.0]), 0.4)
    tensor([1, 2])
    """
    most = torch.sort(rises, descending=True, stable=True).indices[: count_of(gamma, len(rises))]
    return torch.sort(most).values


def count_of(share: float, total: int) -> int:
    """max(1, floor(share total)): 0.29 of 100 is 29, although 0.29 * 100 is 28.999... in floats."""
    return max(1, math.floor(share * total + 1e-9))
