"""Drift compensation: what a chip can do about its own conductances' decay by reading its arrays out again.

A read-out right after programming is compared with one now. With perfect inputs and outputs the read-out of one-hot
inputs is mean |w|, so it needs no data:

    factor = mean |w(programmed)| / mean |w(t)|

over a crossbar (``"global"``: Joshi et al., "Accurate deep neural network inference using computational phase-change
memory", Nature Communications 2020, and aihwkit's ``GlobalDriftCompensation``) or over each of its output columns
(``"column"``: aihwkit's ``PerColumnDriftCompensation``). Hardware multiplies a crossbar's outputs by it; here the same
factor is folded into the weights, which is the same where biases are added digitally.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.base import Chip
from noiserobust.noise.reference import over_tiles
from noiserobust.rng import Stream

Compensation = Literal["none", "global", "column"]


def check_compensation(kind: str) -> None:
    """Refuse a compensation that there is none of."""
    if kind not in get_args(Compensation):
        raise UserError(f"expected compensation {', '.join(get_args(Compensation))}, got {kind!r}")


def compensated(chip: Chip, stream: Stream, t: float | None, kind: Compensation) -> Tensor:
    """``chip.read(stream, t)``, every crossbar's (or column's) output rescaled to what it was when programmed."""
    check_compensation(kind)
    now = chip.read(stream, t)
    if kind == "none":
        return now
    rows, columns = chip.tile or (now.numel(), now.numel())

    def mean(tile: Tensor) -> Tensor:
        return tile.abs().mean() if kind == "global" else tile.abs().mean(1, keepdim=True)

    then, current = (over_tiles(weight, rows, columns, mean) for weight in (chip.programmed(), now))
    # A column of zeros has nothing to compensate.
    return now * (then / current.where(current > 0, then)).where(then > 0, 1.0)
