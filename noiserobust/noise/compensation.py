"""Drift compensation: outputs are rescaled to make up for the decay of the conductances.

A read-out right after programming is compared with one now. With perfect inputs and outputs the read-out of one-hot
inputs is mean |w|, so it needs no data:

    factor = mean |w(programmed)| / mean |w(t)|

over a crossbar (``"global"``: Joshi et al., "Accurate deep neural network inference using computational phase-change
memory", Nature Communications 2020, and aihwkit's ``GlobalDriftCompensation``) or over each of its output columns
(``"column"``: aihwkit's ``PerColumnDriftCompensation``). Hardware multiplies a crossbar's outputs by it; here the same
factor is folded into the weights, which is the same where biases are added digitally and no converter lies between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.base import Chip, NoiseModel
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
    if kind == "none" or not now.numel():
        return now
    # Gradients pass straight through, as they do through noise.
    return now + (now * compensation_factor(chip, now, kind) - now).detach()


def compensation_factor(chip: Chip, now: Tensor, kind: Compensation) -> Tensor:
    """What the outputs of the crossbars (or columns) that give ``now`` are multiplied by, spread over the weight."""
    if kind == "none":
        return torch.ones_like(now)
    rows, columns = chip.tile or (now.numel(), now.numel())

    def mean(tile: Tensor) -> Tensor:
        return tile.abs().mean() if kind == "global" else tile.abs().mean(1, keepdim=True)

    then, current = (over_tiles(weight, rows, columns, mean) for weight in (chip.programmed(), now))
    # A column of zeros has nothing to compensate.
    return (then / current.where(current > 0, then)).where(then > 0, 1.0)


@dataclass(frozen=True)
class Compensate(NoiseModel, name="compensate"):
    """Drift compensation: the outputs of a drifted array are scaled back to what they were when it was programmed.

    A stage of a noise model, ``pcm:t=1d+compensate:global``, for what a network sees on a compensated chip: it can be
    trained for one, ``rwp:pcm(t=1d)+compensate(global)``.

    It has no strength of its own and leaves what does not drift as it is. (In evaluation the option ``compensation``
    compares compensations on the same chips.)
    """

    example: ClassVar[str] = "compensate:global"
    strength_field: ClassVar[str | None] = None

    kind: Literal["global", "column"] = "global"

    def __post_init__(self) -> None:
        if self.kind not in ("global", "column"):
            raise UserError(f"compensate: expected global or column, got {self.kind!r}")

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        return CompensatedChip(below, self.kind)


class CompensatedChip(Chip):
    """The chip ``below``, compensated at every read."""

    def __init__(self, below: Chip, kind: Compensation) -> None:
        super().__init__(below.weight)
        self.below, self.kind, self.tile = below, kind, below.tile

    def read(self, stream: Stream, t: float | None = None) -> Tensor:
        return compensated(self.below, stream.child("below"), t, self.kind)

    def programmed(self) -> Tensor:
        return self.below.programmed()
