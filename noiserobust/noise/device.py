"""The base of device profiles: noise models of weights that are stored as conductances.

Conductances are programmed, drift, and are read with noise.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.base import Chip, NoiseModel, check_strength
from noiserobust.noise.reference import Reference, check_reference, reference_scale
from noiserobust.rng import Stream
from noiserobust.spec import Duration

NOW = Duration(0)


class Devices(Protocol):
    """The physics of single devices, elementwise on conductances (µS); all randomness comes from the given stream."""

    g_max: float
    """The conductance (µS) of the largest weight of a reference group."""

    def split(self, relative: Tensor) -> list[Tensor]:
        """Target conductances of the devices that store weights ``relative`` to their scale, in [-1, 1]."""

    def join(self, conductances: list[Tensor]) -> Tensor:
        """The inverse of :meth:`split`."""

    def program(self, target: Tensor, stream: Stream) -> Tensor:
        """Conductances right after programming ``target``."""

    def drift_parameters(self, target: Tensor, stream: Stream) -> Tensor | None:
        """What decides how each device changes after programming, such as its drift exponent; ``None``: nothing."""

    def read(self, target: Tensor, programmed: Tensor, drift: Tensor | None, t: float, stream: Stream) -> Tensor:
        """Conductances at ``t`` seconds after programming, by the read that ``stream`` names.

        ``drift`` are the :meth:`drift_parameters`; ``None`` at time 0, when nothing has drifted yet.
        """


class DifferentialPair:
    """A weight stored as the difference of two devices, of which one is meant to be at 0: g = g_max max(±w, 0)."""

    g_max: float

    def split(self, relative: Tensor) -> list[Tensor]:
        return [(sign * relative).clamp(0, 1) * self.g_max for sign in (1, -1)]

    def join(self, conductances: list[Tensor]) -> Tensor:
        positive, negative = conductances
        return (positive - negative) / self.g_max


@dataclass(frozen=True)
class DeviceProfile(NoiseModel):
    r"""A noise model of a memory device, in which weights are stored as conductances.

    A weight w of a group with the scale s is stored as the conductance :math:`g = g_{max} |w| / s`.

    - ``strength`` multiplies the whole deviation from the weight that was to be stored, drift included (1: the device).
    - ``reference``, ``rows``, ``columns``: what is mapped to g_max (:func:`~noiserobust.noise.reference_scale`). With a
      tile reference, drift compensation works tile by tile, otherwise on the whole weight.
    - ``t``: the time (seconds since programming, or ``1h``, ``1d``, ...) of a read that does not name its own.

    Both devices of a pair are programmed, drift and are read by themselves (aihwkit merges the pair into its net
    weight after programming, so that the residue of the device at zero drifts with the other one's exponent). A stage
    below, such as ``quantize:6+pcm``, changes what is programmed; what exceeds g_max saturates.
    """

    strength_field: ClassVar[str | None] = "strength"
    leading: ClassVar[Literal["always", "changed"]] = "changed"  # pcm, not pcm:1.0

    strength: float = 1.0
    reference: Reference = "filter"
    rows: int = 512
    columns: int = 512
    t: Duration = NOW

    def __post_init__(self) -> None:
        check_strength(self.name, "strength", self.strength)
        check_reference(self.name, self.reference, self.rows, self.columns)
        object.__setattr__(self, "t", Duration(self.t))
        self.check_time(self.t)

    @abstractmethod
    def devices(self) -> Devices:
        """The physics of this profile's devices."""

    def check_time(self, t: float) -> None:
        """Raise :class:`~noiserobust.UserError` for a time that the profile says nothing about."""

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        return below if self.is_identity else DeviceChip(below, clean, self, stream)


class DeviceChip(Chip):
    """A weight stored in programmed devices. How they drift is drawn once, by name, when it is first needed."""

    @torch.no_grad()
    def __init__(self, below: Chip, clean: Tensor, profile: DeviceProfile, stream: Stream) -> None:
        super().__init__(below.weight)
        self.below, self.profile, self.stream = below, profile, stream
        self.devices = profile.devices()
        self.tile = (profile.rows, profile.columns) if profile.reference.startswith("tile") else below.tile
        self.scale = reference_scale(clean, profile.reference, profile.rows, profile.columns)
        # In one memory format, since vectorised functions round differently in others.
        self.target_weight = below.programmed().detach().contiguous()
        # A group of zeros has no scale, and nothing to store.
        relative = self.target_weight / self.scale.where(self.scale > 0, 1)
        self.targets = self.devices.split(relative)
        self.conductances = [
            self.devices.program(target, stream.child("program", device)) for device, target in enumerate(self.targets)
        ]

    @cached_property
    def drift_parameters(self) -> list[Tensor | None]:
        """Per device, what decides how this chip changes over time, such as drift exponents."""
        return [
            # The name is part of every draw that was published.
            self.devices.drift_parameters(target, self.stream.child("fate", device))
            for device, target in enumerate(self.targets)
        ]

    def read(self, stream: Stream, t: float | None = None) -> Tensor:
        t = self.profile.t if t is None else Duration(t)
        self.profile.check_time(t)
        with torch.no_grad():
            # At time 0 nothing has drifted yet, so that exponents need not be drawn.
            drift = self.drift_parameters if t > 0 else [None] * len(self.targets)
            devices = enumerate(zip(self.targets, self.conductances, drift, strict=True))
            read = [self.devices.read(*device, float(t), stream.child(index)) for index, device in devices]
        return self._weight(self.below.read(stream.child("below"), t), read)

    def programmed(self) -> Tensor:
        return self._weight(self.below.programmed(), self.conductances)

    def _weight(self, below: Tensor, conductances: list[Tensor]) -> Tensor:
        """``below`` plus the devices' deviation from their targets; gradients pass straight through."""
        with torch.no_grad():
            deviation = self.scale * self.devices.join(conductances) - self.target_weight
        return below + self.profile.strength * deviation


def check_scale(name: str, part: str, value: float) -> None:
    """Refuse the scale of a noise source that is negative or not finite."""
    if not 0 <= value < float("inf"):
        raise UserError(f"{name}: expected a finite {part} >= 0 (1: as measured, 0: off), got {value}")


def normal_like(conductances: Tensor, stream: Stream) -> Tensor:
    """Standard normal numbers from ``stream``, one per conductance."""
    return stream.normal(conductances.shape, device=conductances.device).to(conductances.dtype)
