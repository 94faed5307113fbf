"""Log-normal noise: errors in proportion to the weight itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from noiserobust.noise.base import AlteredChip, Chip, NoiseModel, Per, check_strength
from noiserobust.rng import Stream


@dataclass(frozen=True)
class LogNormal(NoiseModel, name="lognormal"):
    r"""Every weight multiplied by a log-normal number, so that the error grows with the weight itself.

    A weight becomes :math:`w_i\, e^{\sigma z_i}` with :math:`z_i \sim N(0, 1)`. The usual model of resistance variation
    (Liu et al., "Vortex: Variation-aware training for memristor X-bar", DAC 2015). It keeps the median: the mean of the
    factor is :math:`e^{\sigma^2 / 2}` and its standard deviation :math:`e^{\sigma^2 / 2} \sqrt{e^{\sigma^2} - 1}`,
    about ``sigma`` while that is small. A weight of 0 stays 0, and no weight changes its sign; with a differential pair
    whose idle device is at 0 it is the same for the devices.

    ``per="chip"`` draws z when the chip is programmed, ``per="read"`` anew for each read. ``strength`` multiplies the
    deviation: :math:`w (1 + strength (e^{\sigma z} - 1))`.

    >>> str(LogNormal(0.1)), str(LogNormal(0.05, per="read"))
    ('lognormal:0.1', 'lognormal:0.05,per=read')
    """

    example: ClassVar[str] = "lognormal:0.1"
    strength_field: ClassVar[str | None] = "strength"

    sigma: float
    per: Per = "chip"
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_strength(self.name, "sigma", self.sigma, "it is the standard deviation of ln w, such as 0.1")
        check_strength(self.name, "strength", self.strength, "it multiplies the deviation; 1 is all of it")

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        if self.is_identity:
            return below
        if self.per == "read":
            return AlteredChip(below, lambda w, read: w if read is None else w + w * self._deviation(w, read))
        deviation = self._deviation(clean, stream)
        return AlteredChip(below, lambda w, _: w + w * deviation)

    def _deviation(self, like: Tensor, stream: Stream) -> Tensor:
        """strength (e^(sigma z) - 1), of the shape and precision of ``like``."""
        z = stream.normal(like.shape, device=like.device).to(like.dtype)
        return torch.expm1(self.sigma * z) * self.strength

    @property
    def is_identity(self) -> bool:
        return self.strength == 0 or self.sigma == 0
