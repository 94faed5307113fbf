"""Drift compensation: outputs are rescaled to make up for the decay of the conductances.

A read-out right after programming is compared with one now. With perfect inputs and outputs the read-out of one-hot
inputs is mean |g|, the crossbar's net conductances before the digital scales of its columns, so it needs no data:

    factor = mean |g(programmed)| / mean |g(t)|

over a crossbar (``"global"``: Joshi et al., "Accurate deep neural network inference using computational phase-change
memory", Nature Communications 2020, and aihwkit's ``GlobalDriftCompensation``) or over each of its output columns
(``"column"``: aihwkit's ``PerColumnDriftCompensation``). Hardware multiplies a crossbar's outputs by it, after the
ADC and before the digital bias. Where there are converters or output noise the direct path does so, too; elsewhere the
factor is folded into the weights, which is the same there.
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
    return folded(*read_out(chip, stream, t, kind))


def folded(now: Tensor, factor: Tensor | None) -> Tensor:
    """What a chip gives and its factor, multiplied. Gradients pass straight through, as they do through noise."""
    return now if factor is None else now + (now * factor - now).detach()


def read_out(chip: Chip, stream: Stream, t: float | None, kind: Compensation = "none") -> tuple[Tensor, Tensor | None]:
    """What the arrays give at time ``t``, and what their outputs are multiplied by digitally (None: nothing).

    The factor is spread over the weight. A chip that compensates itself, as a stage of its noise, is taken apart too.
    """
    check_compensation(kind)
    if isinstance(chip, CompensatedChip):
        now, factor = read_out(chip.below, stream.child("below"), t, chip.kind)
    else:
        now, factor = chip.read(stream, t), None
    return rescaled(chip, now, factor, kind)


def rescaled(chip: Chip, now: Tensor, factor: Tensor | None, kind: Compensation) -> tuple[Tensor, Tensor | None]:
    """What ``read_out(chip, ..., kind)`` gives, from what it gave without compensation: ``now`` and ``factor``."""
    if kind == "none" or not now.numel():
        return now, factor
    seen = now if factor is None else now * factor
    further = compensation_factor(chip, seen, kind)
    return now, further if factor is None else factor * further


@torch.no_grad()
def compensation_factor(chip: Chip, now: Tensor, kind: Compensation) -> Tensor:
    """What the outputs of the crossbars (or columns) that give ``now`` are multiplied by, spread over the weight.

    The read-out is the crossbar's own: of its conductances, in units of what is mapped to g_max, before the digital
    scales of its columns.
    """
    if kind == "none":
        return torch.ones_like(now)
    rows, columns = chip.tile or (now.numel(), now.numel())

    def mean(tile: Tensor) -> Tensor:
        return tile.abs().mean() if kind == "global" else tile.abs().mean(1, keepdim=True)

    scale = chip.scale
    units = 1.0 if scale is None else torch.where(scale > 0, 1 / scale, 0.0)
    then, current = (over_tiles(weight * units, rows, columns, mean) for weight in (chip.programmed(), now))
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

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        return CompensatedChip(below, self.kind)


class CompensatedChip(Chip):
    """The chip ``below``, compensated at every read."""

    def __init__(self, below: Chip, kind: Compensation) -> None:
        super().__init__(below.weight)
        self.below, self.kind, self.tile, self.scale = below, kind, below.tile, below.scale

    def read(self, stream: Stream, t: float | None = None) -> Tensor:
        return compensated(self.below, stream.child("below"), t, self.kind)

    def programmed(self) -> Tensor:
        return self.below.programmed()
