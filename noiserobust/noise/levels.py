"""Quantised weights: a finite number of levels at which a weight can be stored, or read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.base import AlteredChip, Chip, NoiseModel, check_strength
from noiserobust.noise.reference import Reference, check_reference, reference_scale
from noiserobust.rng import Stream


def quantized(values: Tensor, bound: Tensor | float, bits: int) -> Tensor:
    """``values`` at the nearest of the :math:`2^{bits} - 1` levels k bound / n, k = -n ... n, n = 2^(bits-1) - 1.

    0 is a level, what exceeds ``bound`` saturates, and halves are rounded to the even k. Where ``bound`` (which
    broadcasts) is 0 the only level is 0.
    """
    n = positive_levels(bits)
    bound = torch.as_tensor(bound, dtype=values.dtype, device=values.device)
    relative = (values / bound.where(bound > 0, 1)).clamp(-1, 1)
    return (relative * n).round() / n * bound


def positive_levels(bits: int) -> int:
    """n = 2^(bits-1) - 1: levels on either side of 0."""
    return 2 ** (bits - 1) - 1


def check_bits(name: str, bits: int) -> None:
    """Refuse fewer bits than three levels need, and more than float32 can tell apart."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 24:
        raise UserError(f"{name}: expected 2 to 24 bits, got {bits}; b bits are 2^b - 1 levels from -max to max")


@dataclass(frozen=True)
class Quantize(NoiseModel, name="quantize"):
    r"""Weights rounded to a finite number of levels.

    There are :math:`2^{bits} - 1` equally spaced levels from -s to s, s = max|w| of the ``reference`` group. With
    :math:`n = 2^{bits-1} - 1` levels on either side of 0, :math:`w \mapsto s\,\mathrm{round}(n w / s) / n`, halves to
    the even level; what lies beyond ±s saturates. A differential pair of cells of c bits each (2^c conductances from 0
    to g_max, one cell of the pair at 0) has 2^(c+1) - 1 levels: it is ``bits`` = c + 1.

    It acts on what lies below it: ``quantize:6+pcm`` programs devices to quantised targets,
    ``gaussian:0.02+quantize:6`` quantises what is read back. Nothing about it is random. ``strength`` goes from the
    value below (0) to the level (1), and beyond.

    >>> str(Quantize(6)), str(Quantize(4, reference="layer"))
    ('quantize:6', 'quantize:4,reference=layer')
    """

    example: ClassVar[str] = "quantize:6"
    strength_field: ClassVar[str | None] = "strength"

    bits: int
    reference: Reference = "filter"
    rows: int = 512
    columns: int = 512
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_bits(self.name, self.bits)
        check_reference(self.name, self.reference, self.rows, self.columns)
        check_strength(self.name, "strength", self.strength, "it multiplies the deviation; 1 is all of it")

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        if self.is_identity:
            return below
        scale = reference_scale(clean, self.reference, self.rows, self.columns)
        return AlteredChip(below, lambda w, _: torch.lerp(w, quantized(w, scale, self.bits), self.strength))
