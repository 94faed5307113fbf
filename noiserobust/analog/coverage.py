"""What noise would touch in a network, what it would leave alone, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from noiserobust.analog.weights import LATENT, AnalogWeight, classified
from noiserobust.noise.sharded import whole


@dataclass(frozen=True)
class CoverageRow:
    """What becomes of one parameter: ``reason`` says why it is left digital, and is empty where it is noisy."""

    name: str
    shape: tuple[int, ...]
    noisy: bool
    reason: str
    max_over_rms: float
    """max|w| / rms(w): with noise proportional to the maximum, a layer with outliers is hit hardest."""

    @property
    def weights(self) -> int:
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Coverage:
    """Which parameters are noisy and which are not, layer by layer."""

    rows: tuple[CoverageRow, ...]

    @property
    def noisy(self) -> int:
        """Number of noisy weights."""
        return sum(row.weights for row in self.rows if row.noisy)

    @property
    def total(self) -> int:
        """Number of all weights; one that is computed counts as itself, and not as what it is computed from."""
        return sum(row.weights for row in self.rows if not row.reason.startswith(LATENT))

    @property
    def summary(self) -> str:
        """One line: how many weights of how many were noisy, and what was left out and why."""
        left: dict[str, list[int]] = {}
        for row in self.rows:
            if not row.noisy:
                left.setdefault(row.reason, []).append(row.weights)
        layers = sum(row.noisy for row in self.rows)
        share = 100 * self.noisy / max(1, self.total)
        text = f"{self.noisy:,} of {self.total:,} weights noisy ({share:.1f} %, {layers} tensors)"
        parts = [f"{sum(sizes):,} in {len(sizes)} x {reason}" for reason, sizes in left.items()]
        return text + (f"; digital: {', '.join(parts)}" if parts else "")

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=4)
        lines = [f"{'weight':{width}}  {'shape':>18}  {'max/rms':>7}  noise"]
        for row in self.rows:
            shape = "x".join(map(str, row.shape))
            answer = "yes" if row.noisy else f"no: {row.reason}"
            lines.append(f"{row.name:{width}}  {shape:>18}  {row.max_over_rms:7.2f}  {answer}")
        return "\n".join([*lines, self.summary])


def coverage(model: nn.Module, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Coverage:
    """What noise would touch in ``model``, what it would leave alone, and why (arguments: :func:`analog_weights`)."""
    rows = []
    for weight, reason in classified(model, include, exclude):
        name, parameter = (weight.name, weight.value()) if isinstance(weight, AnalogWeight) else weight
        values = whole(parameter.detach()).float()
        rms = values.square().mean().sqrt()
        known = not values.is_meta and rms > 0  # NaN is not > 0: no weights, no ratio
        ratio = float(values.abs().amax() / rms) if known else float("nan")
        rows.append(CoverageRow(name, tuple(parameter.shape), isinstance(weight, AnalogWeight), reason, ratio))
    return Coverage(tuple(rows))
