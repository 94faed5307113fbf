"""Weights in bit slices: the digits of a weight lie in cells of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.base import Chip, Noises, check_strength
from noiserobust.noise.reference import Reference, check_reference, reference_scale
from noiserobust.noise.wrapper import Assembly, Wrapper, stored
from noiserobust.rng import Stream


@dataclass(frozen=True)
class Sliced(Wrapper, name="sliced"):
    r"""Bit slices: the digits of every weight lie in cells of their own, each with an error of its own.

    |w| / s, s = max|w| of the ``reference`` group, is rounded to :math:`B = bits \cdot slices` bits,
    :math:`k = \mathrm{round}((2^B - 1) |w| / s)`, and written in base :math:`2^b` (b = ``bits``): :math:`k = \sum_j d_j
    2^{bj}`. Slice j holds the digit :math:`d_j` with the weight's sign, :math:`x_j = \pm s\,d_j / (2^b - 1)`, at one of
    :math:`2^b` levels from 0 to s, under a draw of ``noise`` of its own. The outputs of the slices are shifted and
    added:

    .. math:: \hat w = \sum_j c_j \hat x_j, \qquad c_j = 2^{bj} (2^b - 1) / (2^B - 1), \qquad \sum_j c_j = 1.

    An error of std :math:`\sigma s` in each slice becomes one of :math:`\sigma s \sqrt{\sum_j c_j^2}`: the most
    significant slice decides, and slicing makes levels, not accuracy. Sources: Shafiee et al., "ISAAC", ISCA 2016; Le
    Gallo et al., "Precision of bit slicing with in-memory computing based on analog phase-change memory crossbars",
    Neuromorphic Computing and Engineering 2, 014009 (2022).

    ``others``: noises of their own for the other slices, from the next significant one to the least, separated by
    semicolons; ``noise`` is that of the most significant one then. Errors of std :math:`\sigma_j s` become one of
    :math:`s \sqrt{\sum_j c_j^2 \sigma_j^2}`.

    The scale of ``noise`` is that of the slice that it acts on, so let its reference be the same. ``strength``
    multiplies the whole deviation, that of rounding included.

    >>> str(Sliced.parse("sliced(pcm,bits=2,slices=4)"))
    'sliced(pcm,bits=2,slices=4)'
    >>> str(Sliced.parse("sliced(pcm,bits=2,slices=3,others=gaussian(0.02);gaussian(0.05))"))
    'sliced(pcm,bits=2,slices=3,others=gaussian(0.02);gaussian(0.05))'
    """

    example: ClassVar[str] = "sliced(pcm,bits=2,slices=4)"
    strength_field: ClassVar[str | None] = "strength"

    bits: int
    slices: int
    reference: Reference = "filter"
    rows: int = 512
    columns: int = 512
    strength: float = 1.0
    others: Noises | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in (self.bits, self.slices))
        if not whole or self.bits * self.slices > 24:
            raise UserError(
                f"sliced: expected bits and slices >= 1, of 24 bits in all at most, got {self.bits} and {self.slices}"
            )
        if self.others is not None:
            object.__setattr__(self, "others", Noises(self.others))
        if self.others is not None and len(self.others) != self.slices - 1:
            raise UserError(
                f"sliced: expected others for all slices but the most significant one, {self.slices - 1}, got "
                f"{len(self.others)}; semicolons separate them"
            )
        check_reference(self.name, self.reference, self.rows, self.columns)
        check_strength(self.name, "strength", self.strength, "it multiplies the deviation; 1 is all of it")

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        if self.is_identity:
            return below
        target, base, total = stored(below), 2**self.bits, 2 ** (self.bits * self.slices)
        scale = reference_scale(clean, self.reference, self.rows, self.columns)
        relative = (target / scale.where(scale > 0, 1)).clamp(-1, 1)
        noises = [self.noise, *(self.others or [self.noise] * (self.slices - 1))]
        rest, slices = (relative.abs() * (total - 1)).round(), []
        for place in range(self.slices):
            digit = relative.sign() * scale * rest.remainder(base) / (base - 1)
            slices.append(noises[self.slices - 1 - place].write(Chip(digit), digit, stream.child(place)))
            rest = torch.div(rest, base, rounding_mode="floor")

        def added(read: list[Tensor]) -> Tensor:
            shares = (base**place * (base - 1) / (total - 1) * part for place, part in enumerate(read))
            return sum(shares, torch.zeros_like(target))

        chip = Assembly(below, target, slices, added, self.strength)
        chip.scale = scale  # of the whole: every slice uses the range of its own digits
        return chip
