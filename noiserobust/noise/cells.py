"""Several cells per weight, which share its value and average their errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.base import Chip
from noiserobust.noise.wrapper import Assembly, Wrapper, stored
from noiserobust.rng import Stream


@dataclass(frozen=True)
class Cells(Wrapper, name="cells"):
    r"""Several cells (or pairs of them) per weight, each with an error of its own, whose mean is the weight.

    A weight is written ``number`` times, :math:`\hat w = \frac{1}{N} \sum_{i=1}^N \hat w_i`, each copy under a draw of
    ``noise`` of its own: currents of cells that share an input and an output add up. What is independent between
    cells averages: the standard deviation falls as :math:`1 / \sqrt N`. What they have in common, such as the mean of
    drift or the rounding to levels, stays. Source: Boybat et al., "Neuromorphic computing with multi-memristive
    synapses", Nature Communications 9, 2514 (2018); with profiles it is aihwkit's ``NPairConductanceConverter`` of
    equal significances.

    >>> str(Cells.parse("cells(pcm,number=4)"))
    'cells(pcm,number=4)'
    """

    example: ClassVar[str] = "cells(pcm,number=4)"

    number: int

    def __post_init__(self) -> None:
        if isinstance(self.number, bool) or not isinstance(self.number, int) or not 1 <= self.number <= 64:
            raise UserError(f"cells: expected a number of cells from 1 to 64, got {self.number!r}")

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        if self.is_identity:
            return below
        target = stored(below)
        cells = [self.noise.write(Chip(target), clean, stream.child(cell)) for cell in range(self.number)]
        return Assembly(below, target, cells, lambda read: sum(read[1:], read[0]) / self.number)

    @property
    def shards(self) -> bool:
        return self.noise.shards
