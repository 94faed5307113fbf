"""Several cells per weight, which share its value and average their errors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.base import Chip
from noiserobust.noise.reference import Reference, check_reference, reference_scale
from noiserobust.noise.wrapper import Assembly, Wrapper, stored
from noiserobust.rng import Stream

Fill = Literal["equal", "max"]


@dataclass(frozen=True)
class Cells(Wrapper, name="cells"):
    r"""Several cells (or pairs of them) per weight, each with an error of its own, whose mean is the weight.

    Currents of cells that share an input and an output add up: :math:`\hat w = \frac{1}{N} \sum_{i=0}^{N-1} \hat w_i`,
    N = ``number``, with a draw of ``noise`` for each cell.

    - ``fill="equal"``: every cell holds the weight, :math:`w_i = w`. What is independent between cells averages, the
      standard deviation falls as :math:`1 / \sqrt N`; what they have in common, such as the mean of drift, stays.
    - ``fill="max"``: cells are filled one after the other, :math:`w_i = \pm s\,\mathrm{clip}(N |w| / s - i, 0, 1)`, s =
      max|w| of the ``reference`` group (let that of ``noise`` be the same). Small weights leave most cells idle.

    Sources: Boybat et al., "Neuromorphic computing with multi-memristive synapses", Nature Communications 9, 2514
    (2018); Le Gallo et al., Neuromorphic Computing and Engineering 2, 014009 (2022). ``max`` is what aihwkit's
    ``NPairConductanceConverter`` does with equal significances.

    >>> str(Cells.parse("cells(pcm,number=4)"))
    'cells(pcm,number=4)'
    """

    example: ClassVar[str] = "cells(pcm,number=4)"

    number: int
    fill: Fill = "equal"
    reference: Reference = "filter"
    rows: int = 512
    columns: int = 512

    def __post_init__(self) -> None:
        if isinstance(self.number, bool) or not isinstance(self.number, int) or not 1 <= self.number <= 64:
            raise UserError(f"cells: expected a number of cells from 1 to 64, got {self.number!r}")
        if self.fill not in get_args(Fill):
            raise UserError(f"cells: expected fill equal or max, got {self.fill!r}")
        check_reference(self.name, self.reference, self.rows, self.columns)

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        if self.is_identity:
            return below
        target = stored(below)
        of = partial(self._filled, clean=clean) if self.fill == "max" else lambda values: [values] * self.number
        shares = of(target)
        cleans = shares if target is clean else of(clean)  # the scale is that of the clean weight for every stage
        cells = [
            self.noise.write(Chip(share), own, stream.child(cell))
            for cell, (share, own) in enumerate(zip(shares, cleans, strict=True))
        ]
        return Assembly(below, target, cells, lambda read: sum(read[1:], read[0]) / self.number)

    def _filled(self, target: Tensor, clean: Tensor) -> list[Tensor]:
        """What each cell holds when one is filled after the other."""
        scale = reference_scale(clean, self.reference, self.rows, self.columns)
        filled = self.number * target.abs() / scale.where(scale > 0, 1)
        return [target.sign() * scale * (filled - cell).clamp(0, 1) for cell in range(self.number)]

    @property
    def shards(self) -> bool:
        return self.noise.shards and self.fill == "equal"
