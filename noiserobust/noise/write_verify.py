"""Write and verify: what was programmed is read, and programmed again where it missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.base import Chip, check_strength
from noiserobust.noise.device import DeviceChip, DeviceProfile, Devices
from noiserobust.noise.reference import reference_scale
from noiserobust.noise.wrapper import Assembly, Wrapper, stored
from noiserobust.rng import Stream


@dataclass(frozen=True)
class WriteVerify(Wrapper, name="write_verify"):
    r"""Programming that is verified: cells are read and programmed again until they are near enough, or tries run out.

    Up to ``iterations`` times, every cell that misses its target by more than ``tolerance`` is programmed anew; what
    the last try gave stays. Around a device profile cells are devices, read one by one with their read noise at time
    0, and the tolerance is a share of the range: :math:`|g - g_{target}| \le tol\,(g_{max} - g_{min})`. Around other
    noise with a ``reference`` group cells are weights and the share is one of the group's largest:
    :math:`|\hat w - w| \le tol\,s`. What drifts or is read later is not verified. Source: Papandreou et al.,
    "Programming algorithms for multilevel phase-change memory", ISCAS 2011.

    For a Gaussian error of std :math:`\sigma`, :math:`a = tol / \sigma`, a try is accepted with probability
    :math:`p = 2 \Phi(a) - 1`. After n tries a share :math:`1 - (1 - p)^n` has the truncated normal distribution, of
    variance :math:`\sigma^2 (1 - 2 a \varphi(a) / p)`, and the rest lies outside.

    The first try is the draw of ``noise`` itself. ``strength`` multiplies the whole deviation.

    >>> str(WriteVerify.parse("write_verify(pcm,tolerance=0.02)"))
    'write_verify(pcm,tolerance=0.02)'
    """

    example: ClassVar[str] = "write_verify(pcm,tolerance=0.02)"
    strength_field: ClassVar[str | None] = "strength"

    tolerance: float
    iterations: int = 10
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_strength(self.name, "tolerance", self.tolerance, "it is a share of the range, such as 0.02")
        check_strength(self.name, "strength", self.strength, "it multiplies the deviation; 1 is all of it")
        whole = isinstance(self.iterations, int) and not isinstance(self.iterations, bool)
        if not whole or not 1 <= self.iterations <= 1000:
            raise UserError(f"write_verify: expected iterations from 1 to 1000, got {self.iterations!r}")
        if not isinstance(self.noise, DeviceProfile) and not hasattr(self.noise, "reference"):
            raise UserError(
                "write_verify: expected a device profile, or noise with a reference group, got "
                f"{self.noise}; verify one stage, as in write_verify(pcm,tolerance=0.02)+gaussian:0.01"
            )

    @property
    def is_identity(self) -> bool:
        return self.strength == 0 or self.noise.is_identity

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        if self.is_identity:
            return below
        if isinstance(self.noise, DeviceProfile):
            devices = VerifiedDevices(self.noise.devices(), self, self.noise)
            return DeviceChip(below, clean, self.noise.scaled(self.strength), devices, stream)
        return self._weights(below, clean, stream)

    def _weights(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        """A chip per try; of each weight the one that it keeps is read."""
        noise: Any = self.noise
        target, tries = stored(below), list[Chip]()

        def program(its_stream: Stream) -> Tensor:
            tries.append(noise.write(Chip(target), clean, its_stream))
            return tries[-1].programmed()

        allowed = self.tolerance * reference_scale(clean, noise.reference, noise.rows, noise.columns)
        _, kept = self.verified(program, lambda programmed, _: programmed, target, allowed, stream)

        def chosen(read: list[Tensor]) -> Tensor:
            return torch.stack(read).gather(0, kept[None])[0]

        return Assembly(below, target, tries, chosen, self.strength)

    def verified(
        self,
        program: Callable[[Stream], Tensor],
        read: Callable[[Tensor, Stream], Tensor],
        target: Tensor,
        allowed: Tensor | float,
        stream: Stream,
    ) -> tuple[Tensor, Tensor]:
        """What the cells hold in the end, and the number of the try (from 0) that each keeps."""
        programmed, kept = program(stream), torch.zeros_like(target, dtype=torch.long)
        for number in range(1, self.iterations):
            missed = (read(programmed, stream.child("verify", number)) - target).abs() > allowed
            if not missed.any():
                break
            programmed = torch.where(missed, program(stream.child("try", number)), programmed)
            kept = kept.masked_fill(missed, number)
        return programmed, kept


class VerifiedDevices(Devices):
    """``devices`` whose programming is verified one by one, to a share of the range in use."""

    def __init__(self, devices: Devices, how: WriteVerify, profile: DeviceProfile) -> None:
        self.devices, self.how, self.profile = devices, how, profile
        self.g_min, self.g_max = devices.g_min, devices.g_max
        low, high = profile.range_in_use(devices.g_min, devices.g_max)
        self.allowed = how.tolerance * (high - low)

    def of(self, place: int) -> VerifiedDevices:
        return VerifiedDevices(self.devices.of(place), self.how, self.profile)

    def program(self, target: Tensor, stream: Stream) -> Tensor:
        return self.how.verified(
            lambda its_stream: self.devices.program(target, its_stream),
            lambda programmed, its_stream: self.devices.read(target, programmed, None, 0.0, its_stream),
            target,
            self.allowed,
            stream,
        )[0]

    def drift_parameters(self, target: Tensor, stream: Stream) -> Tensor | None:
        return self.devices.drift_parameters(target, stream)

    def read(self, target: Tensor, programmed: Tensor, drift: Tensor | None, t: float, stream: Stream) -> Tensor:
        return self.devices.read(target, programmed, drift, t, stream)
