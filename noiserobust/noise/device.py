"""The base of device profiles: noise models of weights that are stored as conductances.

Conductances are programmed, drift, and are read with noise.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.base import Chip, NoiseModel, check_strength
from noiserobust.noise.mapping import MAPPINGS, Mapping, check_mapping, range_in_use
from noiserobust.noise.reference import Reference, check_reference, reference_scale
from noiserobust.rng import Stream
from noiserobust.spec import Duration

NOW = Duration(0)


class Devices:
    """The physics of single devices, elementwise on conductances (µS); all randomness comes from the given stream.

    A device of your own says at least ``g_max`` and :meth:`program`; this base neither drifts nor has read noise.
    """

    g_min: float = 0.0
    """The smallest conductance (µS) in use."""
    g_max: float
    """The conductance (µS) of the largest weight of a reference group."""

    def of(self, place: int) -> Devices:
        """The devices in one place of a mapping (of a pair, 0 is the positive one and 1 the negative one)."""
        return self

    @abstractmethod
    def program(self, target: Tensor, stream: Stream) -> Tensor:
        """Conductances right after programming ``target``."""

    def drift_parameters(self, target: Tensor, stream: Stream) -> Tensor | None:
        """What decides how each device changes after programming, such as its drift exponent; ``None``: nothing."""
        return None

    def read(self, target: Tensor, programmed: Tensor, drift: Tensor | None, t: float, stream: Stream) -> Tensor:
        """Conductances at ``t`` seconds after programming, by the read that ``stream`` names.

        ``drift`` are the :meth:`drift_parameters`; ``None`` at time 0, when nothing has drifted yet.
        """
        return programmed


@dataclass(frozen=True)
class DeviceProfile(NoiseModel):
    r"""A noise model of a memory device, in which weights are stored as conductances.

    A weight w of a group with the scale s, x = w / s, is stored as conductances between g_min and g_max.

    - ``strength`` multiplies the whole deviation from the weight that was to be stored, drift included (1: the device).
    - ``reference``, ``rows``, ``columns``: what is mapped to g_max (:func:`~noiserobust.noise.reference_scale`). With a
      tile reference, drift compensation works tile by tile, otherwise on the whole weight.
    - ``t``: the time (seconds since programming, or ``1h``, ``1d``, ...) of a read that does not name its own.
    - ``mapping``: ``pair``, two devices :math:`x = (g_+ - g_-) / (g_{max} - g_{min})`, of which one is at g_min;
      ``offset``, one device :math:`g = g_{min} + (g_{max} - g_{min}) (x + 1) / 2`, the constant subtracted without
      error; ``offset-column``, the same against a column of real devices at the middle of the range, one per input,
      which all outputs of a crossbar share (:mod:`noiserobust.noise.mapping`).
    - ``g_max``: the largest conductance in use, in µS (None: the device's), which s is stored as; ``on_off``: g_max /
      g_min, the on/off ratio in use (None: down to the device's g_min). Errors of devices are what they are at their
      conductances, so that those of weights are :math:`s / (g_{max} - g_{min})` times as large.

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
    mapping: Mapping = field(default="pair", kw_only=True)
    on_off: float | None = field(default=None, kw_only=True)
    g_max: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_strength(self.name, "strength", self.strength)
        check_reference(self.name, self.reference, self.rows, self.columns)
        check_mapping(self.name, self.mapping, self.on_off, self.g_max)
        object.__setattr__(self, "t", Duration(self.t))
        self.check_time(self.t)

    @abstractmethod
    def devices(self) -> Devices:
        """The physics of this profile's devices."""

    def range_in_use(self, g_min: float, g_max: float) -> tuple[float, float]:
        """The ends of the range that is used, of devices that have these."""
        return range_in_use(self.name, (g_min, g_max), self.on_off, self.g_max)

    def check_time(self, t: float) -> None:
        """Raise :class:`~noiserobust.UserError` for a time that the profile says nothing about."""

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        return below if self.is_identity else DeviceChip(below, clean, self, self.devices(), stream)


class DeviceChip(Chip):
    """A weight stored in programmed devices. How they drift is drawn once, by name, when it is first needed."""

    scale: Tensor

    @torch.no_grad()
    def __init__(self, below: Chip, clean: Tensor, profile: DeviceProfile, devices: Devices, stream: Stream) -> None:
        super().__init__(below.weight)
        self.below, self.profile, self.stream = below, profile, stream
        tiled = profile.reference.startswith("tile")
        self.tile = (profile.rows, profile.columns) if tiled else below.tile
        ends = profile.range_in_use(devices.g_min, devices.g_max)
        self.mapping = MAPPINGS[profile.mapping](*ends, profile.columns if tiled else None)
        self.scale = reference_scale(clean, profile.reference, profile.rows, profile.columns)
        # In one memory format, since vectorised functions round differently in others.
        self.target_weight = below.programmed().detach().contiguous()
        # A group of zeros has no scale, and nothing to store.
        relative = self.target_weight / self.scale.where(self.scale > 0, 1)
        self.targets = self.mapping.split(relative)
        self.devices = [devices.of(place) for place in range(len(self.targets))]
        self.conductances = [
            device.program(target, stream.child("program", place))
            for place, (device, target) in enumerate(zip(self.devices, self.targets, strict=True))
        ]

    @cached_property
    def drift_parameters(self) -> list[Tensor | None]:
        """Per device, what decides how this chip changes over time, such as drift exponents."""
        return [
            # The name is part of every draw that was published.
            device.drift_parameters(target, self.stream.child("fate", place))
            for place, (device, target) in enumerate(zip(self.devices, self.targets, strict=True))
        ]

    def read(self, stream: Stream, t: float | None = None) -> Tensor:
        t = self.profile.t if t is None else Duration(t)
        return self._weight(self.below.read(stream.child("below"), t), self.conductances_at(stream, t))

    @torch.no_grad()
    def conductances_at(self, stream: Stream, t: float | None = None) -> list[Tensor]:
        """What a read at time ``t`` finds in each place of the mapping (µS)."""
        t = self.profile.t if t is None else Duration(t)
        self.profile.check_time(t)
        # At time 0 nothing has drifted yet, so that exponents need not be drawn.
        drift = self.drift_parameters if t > 0 else [None] * len(self.targets)
        states = zip(self.devices, zip(self.targets, self.conductances, drift, strict=True), strict=True)
        return [device.read(*state, float(t), stream.child(place)) for place, (device, state) in enumerate(states)]

    def programmed(self) -> Tensor:
        return self._weight(self.below.programmed(), self.conductances)

    def _weight(self, below: Tensor, conductances: list[Tensor]) -> Tensor:
        """``below`` plus the devices' deviation from their targets; gradients pass straight through."""
        with torch.no_grad():
            deviation = self.scale * self.mapping.join(conductances) - self.target_weight
        return below + self.profile.strength * deviation


def check_scale(name: str, part: str, value: float) -> None:
    """Refuse the scale of a noise source that is negative or not finite."""
    if not 0 <= value < float("inf"):
        raise UserError(f"{name}: expected a finite {part} >= 0 (1: as measured, 0: off), got {value}")


def normal_like(conductances: Tensor, stream: Stream) -> Tensor:
    """Standard normal numbers from ``stream``, one per conductance."""
    return stream.normal(conductances.shape, device=conductances.device).to(conductances.dtype)
