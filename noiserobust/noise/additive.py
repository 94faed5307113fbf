"""Gaussian and Laplace noise, in proportion to the largest weight of a column."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from noiserobust.noise.base import AlteredChip, Chip, NoiseModel, Per, additive, check_strength
from noiserobust.noise.reference import Reference, check_reference, reference_scale
from noiserobust.noise.sharded import field_like
from noiserobust.rng import Stream


@dataclass(frozen=True)
class Gaussian(NoiseModel, name="gaussian"):
    r"""Gaussian noise added to every weight, in proportion to the largest weight of its column.

    A weight becomes :math:`w_i + \sigma s_i z_i` with :math:`z_i \sim N(0, 1)`. ``s`` is max|w| over the ``reference``
    group (:func:`~noiserobust.noise.reference_scale`), so ``sigma`` is the standard deviation as a fraction of the
    largest weight. With ``reading="literal"`` the standard deviation is :math:`\sigma \sqrt{s_i}`, as "Incorruptible
    Neural Networks" literally writes it, N(0, max|w| sigma^2 I) (section 3); that one is not scale-invariant, so a
    network with batch norm can cut it just by growing its weights.

    ``per="chip"`` is device-to-device variation: z is drawn when the chip is programmed and stays. ``per="read"`` is
    cycle-to-cycle variation: every read draws its own.

    ``rows`` and ``columns`` are the size of a crossbar, for the tile references. Raises
    :class:`~noiserobust.UserError` for a negative or non-finite ``sigma``.

    >>> str(Gaussian(0.05)), str(Gaussian(0.05, reference="layer"))
    ('gaussian:0.05', 'gaussian:0.05,reference=layer')
    """

    example: ClassVar[str] = "gaussian:0.05,reference=layer"
    strength_field: ClassVar[str | None] = "sigma"

    sigma: float
    reference: Reference = "filter"
    reading: Literal["std", "literal"] = "std"
    rows: int = 512
    columns: int = 512
    per: Per = "chip"

    def __post_init__(self) -> None:
        check_strength(self.name, "sigma", self.sigma)
        check_reference(self.name, self.reference, self.rows, self.columns)

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        if self.is_identity:
            return below
        std = self._std(clean)
        if self.per == "read":
            return AlteredChip(below, lambda w, read: w if read is None else w + std * field_like(read.normal, w))
        return additive(below, field_like(stream.normal, clean), std)

    @property
    def row_std(self) -> Callable[[Tensor], Tensor] | None:
        return self._std if self.per == "chip" and self.reference in ("filter", "layer") else None

    def _std(self, clean: Tensor) -> Tensor:
        scale = reference_scale(clean, self.reference, self.rows, self.columns)
        return self.sigma * (scale.sqrt() if self.reading == "literal" else scale)

    @property
    def shards(self) -> bool:
        return self.reference in ("filter", "layer")


@dataclass(frozen=True)
class Laplace(NoiseModel, name="laplace"):
    r"""Laplace noise, with heavier tails, added to every weight in proportion to the largest weight of its column.

    A weight becomes :math:`w_i + b s_i l_i` with :math:`l_i \sim \mathrm{Laplace}(0, 1)` and s as of :class:`Gaussian`.
    l has variance 2, so the standard deviation is :math:`\sqrt{2}\, b \max|w|`. Source: "Incorruptible Neural
    Networks", Table 4.
    """

    example: ClassVar[str] = "laplace:0.02"
    strength_field: ClassVar[str | None] = "b"
    unit: ClassVar[Literal["normal", "laplace"]] = "laplace"

    b: float
    reference: Reference = "filter"
    rows: int = 512
    columns: int = 512

    def __post_init__(self) -> None:
        check_strength(self.name, "b", self.b)
        check_reference(self.name, self.reference, self.rows, self.columns)

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        if self.is_identity:
            return below
        return additive(below, field_like(stream.laplace, clean), self._scale(clean))

    @property
    def row_std(self) -> Callable[[Tensor], Tensor] | None:
        return self._scale if self.reference in ("filter", "layer") else None

    def _scale(self, clean: Tensor) -> Tensor:
        return self.b * reference_scale(clean, self.reference, self.rows, self.columns)

    @property
    def shards(self) -> bool:
        return self.reference in ("filter", "layer")


def names_laplace(*texts: object) -> bool:
    """Whether texts that name noises name Laplace noise, whose draws are others than in version 0.1.

    What is measured under it, or trained, has another version than what is not: rows and runs of other noise keep
    their names.
    """
    return re.search(r"\blaplace[:(]", " ".join(map(str, texts))) is not None
