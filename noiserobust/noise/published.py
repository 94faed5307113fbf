"""Published numbers of memory devices, and the formulas that they belong to.

Conductances g are in µS, times in seconds after programming, r = g / g_max. The formulas are those of the sources named
at the numbers, in the form in which aihwkit 1.1.0 has them; terms are added and multiplied in its order, which decides
the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add, mul
from typing import Any, ClassVar

import torch
from torch import Tensor

from noiserobust.noise.device import Devices, normal_like
from noiserobust.rng import Stream


class Polynomial:
    """A polynomial in r: ``Polynomial({2: a, 1: b, 0: c})`` is a r^2 + b r + c, added up in the order written."""

    def __init__(self, coefficients: dict[int, float]) -> None:
        self.coefficients = coefficients

    def __call__(self, r: Tensor) -> Tensor | float:
        terms = (c * reduce(mul, [r] * power) if power else c for power, c in self.coefficients.items())
        return reduce(add, terms)


@dataclass(frozen=True)
class LogFit:
    """A fit to r: slope ln r + constant within [least, most], and from r = ``until`` on the polynomial ``beyond``."""

    slope: float
    constant: float
    least: float
    most: float
    until: float = math.inf
    beyond: Polynomial | None = None

    def __call__(self, r: Tensor) -> Tensor:
        below = (self.slope * r.log() + self.constant).clamp(self.least, self.most)
        return below if self.beyond is None else torch.where(r < self.until, below, self.beyond(r))


@dataclass(frozen=True, kw_only=True)
class DriftingDevice:
    """The published numbers of one drifting device; what depends on its state is a function of r."""

    g_max: float
    """Largest conductance (µS)."""
    t_0: float
    """Time of the first read (s), to which drift is relative."""
    t_read: float
    """Duration of a read (s), from which 1/f noise grows."""
    programming_std: Callable[[Tensor], Tensor | float]
    """Standard deviation of the programming error (µS)."""
    exponent_mean: Callable[[Tensor], Tensor | float]
    """Mean of the drift exponent."""
    exponent_std: Callable[[Tensor], Tensor | float]
    """Standard deviation of the drift exponent."""
    read_std: Callable[[Tensor], Tensor | float]
    """Standard deviation of the read noise relative to the conductance, without its growth over time."""


# Nandakumar et al., ICECS 2019.
PCM_DEVICE = DriftingDevice(
    g_max=25.0,
    t_0=20.0,
    t_read=250e-9,
    programming_std=Polynomial({0: 0.26348, 1: 1.9650, 2: -1.1731}),
    exponent_mean=LogFit(-0.0155, 0.0244, 0.049, 0.1),
    exponent_std=LogFit(-0.0125, -0.0059, 0.008, 0.045),
    read_std=lambda r: (0.0088 / (r**0.65).clamp(min=1e-3)).clamp(max=0.2),
)

# Le Gallo et al., Nature Electronics 2023, by the number of cells that hold a conductance.
HERMES_DEVICES = {
    1: DriftingDevice(
        g_max=10.35,
        t_0=200.0,
        t_read=512e-9,
        programming_std=Polynomial({0: 0.15781817, 1: 2.32443916, 2: -2.16310839, 3: 0.68841818}),
        exponent_mean=LogFit(-0.0387, -0.0182, 0.0720, 0.13, 0.0945, Polynomial({2: -0.0436, 1: -0.0126, 0: 0.0736})),
        exponent_std=LogFit(-0.0120, -0.0023, 0.0124, 0.04, 0.3039, Polynomial({2: -0.0165, 1: 0.0116, 0: 0.0104})),
        read_std=LogFit(
            -0.0078, 0.0038, 0.0179, 0.04, 0.1591, Polynomial({3: 0.0664, 2: -0.1352, 1: 0.0768, 0: 0.0088})
        ),
    ),
    2: DriftingDevice(
        g_max=20.7,
        t_0=300.0,
        t_read=512e-9,
        programming_std=Polynomial({0: 0.16603222, 1: 4.71806468, 2: -8.48101252, 3: 4.68961419}),
        exponent_mean=LogFit(-0.0387, -0.0182, 0.0720, 0.13, 0.0945, Polynomial({2: -0.0436, 1: -0.0126, 0: 0.0736})),
        exponent_std=LogFit(-0.0117, -0.0057, 0.0091, 0.04, 0.3055, Polynomial({2: -0.0118, 1: 0.0093, 0: 0.0073})),
        read_std=LogFit(-0.0117, -0.0069, 0.015, 0.04, 0.16, Polynomial({3: 0.0069, 2: -0.0280, 1: 0.0211, 0: 0.0123})),
    ),
}

# Wan et al., Nature 2022: std (µS) of the whole error by the time since programming (s).
WAN_STD = {
    1.0: Polynomial({0: 0.348, 1: 16.030, 2: -43.853, 3: 45.393, 4: -16.815}),
    86400.0: Polynomial({0: 0.701, 1: 22.086, 2: -50.773, 3: 47.095, 4: -16.458}),
    172800.0: Polynomial({0: 0.782, 1: 20.274, 2: -43.507, 3: 37.062, 4: -11.934}),
}


def state_independent_device(sigma: float, nu_mean: float, nu_std: float) -> DriftingDevice:
    """A device whose programming error, drift exponent and read noise are the same at every conductance."""
    return DriftingDevice(
        g_max=25.0,
        t_0=20.0,
        t_read=250e-9,
        programming_std=Polynomial({0: sigma}),
        exponent_mean=Polynomial({0: nu_mean}),
        exponent_std=Polynomial({0: nu_std}),
        read_std=Polynomial({0: 1 / 25}),
    )


class DriftingDevices(Devices):
    """Devices that drift by a power law and are read with 1/f noise.

    ``programming``, ``drift`` and ``read`` scale these three; 1 is as published.
    """

    def __init__(self, device: DriftingDevice, programming: float, drift: float, read: float) -> None:
        self.device, self.g_max = device, device.g_max
        self.programming_scale, self.drift_scale, self.read_scale = programming, drift, read

    def program(self, target: Tensor, stream: Stream) -> Tensor:
        std = self.programming_scale * self.device.programming_std(target / self.g_max)
        return _with_error(target, std, stream)

    def drift_parameters(self, target: Tensor, stream: Stream) -> Tensor:
        """The drift exponents."""
        r = (target / self.g_max).clamp(min=1e-7)  # ln 0 would be infinite
        mean, std = self.device.exponent_mean(r), self.device.exponent_std(r)
        return _normal(target, stream).mul_(std).add_(mean).abs_().mul_(self.drift_scale)

    def read(self, target: Tensor, programmed: Tensor, drift: Tensor | None, t: float, stream: Stream) -> Tensor:
        since, t_read = t + self.device.t_0, self.device.t_read
        drifted = programmed if drift is None else programmed * (since / self.device.t_0) ** -drift
        growth = math.sqrt(math.log((since + t_read) / (2 * t_read)))
        std = drifted * self.read_scale * (self.device.read_std(programmed / self.g_max) * growth)
        return _with_error(drifted, std, stream)


class WanDevices(Devices):
    """Wan's devices: the error at a later time is drawn anew, once per chip."""

    g_max = 40.0
    first, *later = WAN_STD

    def program(self, target: Tensor, stream: Stream) -> Tensor:
        return self.drawn(self.first, target, stream)

    def drift_parameters(self, target: Tensor, stream: Stream) -> Tensor:
        """The conductances at the later times."""
        return torch.stack([self.drawn(t, target, stream.child(index)) for index, t in enumerate(self.later)])

    def read(self, target: Tensor, programmed: Tensor, drift: Tensor | None, t: float, stream: Stream) -> Tensor:
        return programmed if drift is None or t not in self.later else drift[self.later.index(t)]

    def drawn(self, t: float, target: Tensor, stream: Stream) -> Tensor:
        """Conductances ``t`` seconds after programming ``target``."""
        return _with_error(target, WAN_STD[t](target / self.g_max), stream)


class CMODevices(Devices):
    """Single bidirectional devices that relax, each by its own amount (Falcone et al.)."""

    g_min, g_max = 9.0, 88.199997
    programming_stds: ClassVar[dict[float, Any]] = {  # µS, by acceptance range in percent; polynomials in g, not r
        0.2: Polynomial({0: 0.00081107, 1: 0.00106879}),
        2.0: Polynomial({0: 0.0112185391, 1: 0.01129027418}),
    }
    relaxation_mean = -0.08900206  # µS per ln t
    relaxation_std = 0.04201137, 0.41183342  # µS per ln t, and µS
    read_std, t_read = 0.0277316483, 1e-6  # µS per log10 g, and s

    def __init__(self, acceptance: float, programming: float, drift: float, read: float) -> None:
        self.programming_std = self.programming_stds[acceptance]
        self.programming_scale, self.drift_scale, self.read_scale = programming, drift, read

    def program(self, target: Tensor, stream: Stream) -> Tensor:
        return target + self.programming_scale * self.programming_std(target) * normal_like(target, stream)

    def drift_parameters(self, target: Tensor, stream: Stream) -> Tensor:
        """Each device's relaxation, as a standard normal number."""
        return normal_like(target, stream)

    def read(self, target: Tensor, programmed: Tensor, drift: Tensor | None, t: float, stream: Stream) -> Tensor:
        if drift is None:
            return programmed
        slope, constant = self.relaxation_std
        mean, std = self.relaxation_mean * math.log(t), slope * math.log(t) + constant
        relaxed = programmed + self.drift_scale * (mean + std * drift)
        growth = self.read_std * math.sqrt(math.log((t + self.t_read) / (2 * self.t_read)))
        read_std = growth * relaxed.clamp(min=self.g_min).log10()
        return (relaxed + self.read_scale * read_std * normal_like(target, stream)).clamp(self.g_min, self.g_max)


def _with_error(conductances: Tensor, std: Tensor | float, stream: Stream) -> Tensor:
    """Conductances plus std times normal numbers, none below 0."""
    return _normal(conductances, stream).mul_(std).add_(conductances).clamp_(min=0)


def _normal(conductances: Tensor, stream: Stream) -> Tensor:
    """Standard normal numbers for the devices of pairs, one per conductance."""
    return normal_like(conductances, stream.child(1))  # the 1 is part of the name of every published draw
