"""Faulty memory cells: stuck at zero or at the largest conductance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.base import AlteredChip, Chip, NoiseModel, check_strength
from noiserobust.noise.reference import Reference, check_reference, reference_scale
from noiserobust.rng import Stream


@dataclass(frozen=True)
class Stuck(NoiseModel, name="stuck"):
    r"""Faulty memory cells: a share of them is stuck at zero, another share at the largest conductance.

    A weight is a differential pair of cells, :math:`w = s (g_+ - g_-)`, of which the array below is asked for
    :math:`g_\pm = \max(\pm w, 0) / s`, s = max|w| of the ``reference`` group. Each cell by itself is stuck at 0 with
    probability ``at_zero``, at 1 with probability ``at_max``, or obeys. Which ones is fixed on a chip. So for w > 0

    - active cell at zero: 0; at max: s
    - idle cell at zero: w as it was; at max: w - s

    and a weight of 0 becomes ±s when one of its cells is stuck at max. A weight whose cells both obey is what the chip
    below gives, bit for bit. Of one draw, larger shares stick the same cells and more. ``strength`` multiplies the
    deviation.

    >>> str(Stuck(0.001)), str(Stuck(0.01, at_max=0.002))
    ('stuck:0.001', 'stuck:0.01,at_max=0.002')
    """

    example: ClassVar[str] = "stuck:0.001,at_max=0.0005"
    strength_field: ClassVar[str | None] = "strength"

    at_zero: float
    at_max: float = 0.0
    reference: Reference = "filter"
    rows: int = 512
    columns: int = 512
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not (self.at_zero >= 0 and self.at_max >= 0 and self.at_zero + self.at_max <= 1):
            raise UserError(
                f"stuck: expected shares of cells at_zero, at_max >= 0 with a sum of at most 1, got {self.at_zero} and "
                f"{self.at_max}"
            )
        check_reference(self.name, self.reference, self.rows, self.columns)
        check_strength(self.name, "strength", self.strength, "it multiplies the deviation; 1 is all of it")

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        if self.is_identity:
            return below
        scale = reference_scale(clean, self.reference, self.rows, self.columns).expand_as(clean)
        cells = []
        for cell in ("positive", "negative"):
            u = stream.child(cell).uniform(clean.shape, device=clean.device)
            cells.append((u < self.at_zero, u >= 1 - self.at_max))

        def stuck(w: Tensor, _: Stream | None) -> Tensor:
            positive, negative = (
                (sign * w).clamp(min=0).where(~at_zero, 0).where(~at_max, scale)
                for sign, (at_zero, at_max) in zip((1, -1), cells, strict=True)
            )
            return torch.lerp(w, positive - negative, self.strength)

        return AlteredChip(below, stuck)

    @property
    def is_identity(self) -> bool:
        return self.strength == 0 or self.at_zero == self.at_max == 0
