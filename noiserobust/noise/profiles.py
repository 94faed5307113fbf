"""Published devices: PCM, Hermes, ReRAM (Wan 2022, CMO/HfOx) and a state-independent one.

Numbers and formulas are aihwkit's (``aihwkit.inference.noise``), called on our own conductances with our own named
streams. Its compiled part is not needed. Times are seconds after programming.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from noiserobust.errors import UserError
from noiserobust.noise.device import DeviceProfile, Devices, DifferentialPair, check_scale, normal_like
from noiserobust.rng import Stream


@dataclass(frozen=True)
class DriftingProfile(DeviceProfile):
    """A device whose noise sources can be scaled, or switched off, one by one.

    ``programming``, ``drift`` (the exponents' mean and spread) and ``read`` multiply the named part; 1 is as measured.
    """

    programming: float = 1.0
    drift: float = 1.0
    read: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in ("programming", "drift", "read"):
            check_scale(self.name, part, getattr(self, part))

    @property
    def scales(self) -> dict[str, float]:
        """The three scales under aihwkit's names."""
        return {"prog_noise_scale": self.programming, "drift_scale": self.drift, "read_noise_scale": self.read}


@dataclass(frozen=True)
class PCM(DriftingProfile, name="pcm"):
    r"""Phase-change memory, g_max 25 µS (Nandakumar et al., ICECS 2019; aihwkit ``PCMLikeNoiseModel``).

    With r = g / g_max, :math:`\xi, \zeta, \eta \sim N(0, 1)` per device (and per read for :math:`\eta`):

    - programming: :math:`g_p = (g + (0.26348 + 1.9650\,r - 1.1731\,r^2)\,\xi)_+` µS
    - drift: :math:`g_d = g_p\,((t + t_0) / t_0)^{-\nu}`, :math:`t_0` = 20 s, :math:`\nu = |\mu + \sigma \zeta|` with
      :math:`\mu` = -0.0155 ln r + 0.0244 within [.049, .1] and :math:`\sigma` = -0.0125 ln r - 0.0059 within
      [.008, .045]
    - read noise: :math:`g_d\,(1 + Q \sqrt{\ln((t + t_0 + t_r) / 2 t_r)}\,\eta)_+`, :math:`t_r` = 250 ns, Q = 0.0088 /
      :math:`r^{0.65}`, at most 0.2
    """

    example: ClassVar[str] = "pcm:t=1d"

    def devices(self) -> Devices:
        return _published("pcm", "PCMLikeNoiseModel", tuple(self.scales.items()))


@dataclass(frozen=True)
class Hermes(DriftingProfile, name="hermes"):
    """PCM of the IBM Hermes chip (Le Gallo et al., Nature Electronics 2023; aihwkit ``HermesNoiseModel``).

    Two devices hold each conductance (g_max 20.7 µS, t_0 300 s, t_read 512 ns), or ``cells=1`` (10.35 µS, 200 s): less
    accurately programmed. Programming, drift and read noise as of :class:`PCM`, with polynomials of their own.
    """

    example: ClassVar[str] = "hermes:cells=1"

    cells: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cells not in (1, 2):
            raise UserError(f"hermes: expected 1 or 2 cells per conductance, got {self.cells!r}")

    def devices(self) -> Devices:
        return _published("hermes", "HermesNoiseModel", (*self.scales.items(), ("num_devices", self.cells)))


@dataclass(frozen=True)
class StateIndependent(DriftingProfile, name="state_independent"):
    r"""A plain drifting device, g_max 25 µS (aihwkit ``StateIndependentNoiseModel``).

    Programming error of std ``sigma`` µS at every conductance; exponent :math:`\nu = |\nu_{mean} + \nu_{std} \zeta|`;
    read noise of std :math:`(g_d / g_{max}) \sqrt{\ln((t + t_0 + t_r) / 2 t_r)}` µS, t_0 = 20 s, t_r = 250 ns.
    """

    example: ClassVar[str] = "state_independent:nu_mean=0.05"

    sigma: float = 0.2
    nu_mean: float = 0.1
    nu_std: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in ("sigma", "nu_mean", "nu_std"):
            check_scale(self.name, part, getattr(self, part))

    def devices(self) -> Devices:
        settings = {"prog_coeff": (self.sigma, 0.0, 0.0), "drift_nu_mean": self.nu_mean, "drift_nu_std": self.nu_std}
        return _published("custom", "StateIndependentNoiseModel", (*self.scales.items(), *settings.items()))


@dataclass(frozen=True)
class ReRamWan2022(DeviceProfile, name="reram_wan2022"):
    """ReRAM at 1 s, 1 d and 2 d after programming (Wan et al., Nature 2022; aihwkit ``ReRamWan2022NoiseModel``).

    Used at the 40 µS it was fitted at (aihwkit's default of 25 µS leaves it unscaled: 1.6 times too noisy). A
    fourth-degree polynomial in g / g_max gives the std of the whole error at each of the three times, so programming,
    relaxation and read noise are not separable: there is nothing to switch off. The error at 1 d and at 2 d is drawn
    anew from the error at 1 s, as no correlation over time was published; reads of a chip at one time agree. The scale
    is that of the clean weight at all times (aihwkit takes it again from the programmed one).
    """

    example: ClassVar[str] = "reram_wan2022:t=1d"

    def check_time(self, t: float) -> None:
        if t not in (0, 1, 86400, 172800):
            raise UserError(f"reram_wan2022: measured at 1s, 1d and 2d only, got t={t:g} s; use one of these")

    def devices(self) -> Devices:
        return _wan()


@dataclass(frozen=True)
class ReRamCMO(DriftingProfile, name="reram_cmo"):
    r"""Analog CMO/HfOx ReRAM (Falcone et al.; coefficients of aihwkit ``ReRamCMONoiseModel``), 9 to 88.2 µS.

    One device per weight: zero lies in the middle of the range, ±max|w| at its ends. Programmed to within
    ``acceptance`` percent (0.2 or 2): std linear in g. From 1 s on the conductance relaxes,
    :math:`g_d = g_p - 0.089 \ln t + (0.042 \ln t + 0.41)\,\zeta` µS with :math:`\zeta` fixed per device, and is
    read with std :math:`0.0277 \log_{10}(g_d) \sqrt{\ln((t + t_r) / 2 t_r)}` µS, t_r = 1 µs. (aihwkit draws
    :math:`\zeta` anew at every time, runs on the CPU only and fails on constant weights.)
    """

    example: ClassVar[str] = "reram_cmo:acceptance=2.0"

    acceptance: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.acceptance not in (0.2, 2.0):
            raise UserError(f"reram_cmo: expected acceptance 0.2 or 2 (percent of g), got {self.acceptance!r}")

    def check_time(self, t: float) -> None:
        if 0 < t < 1:
            raise UserError(f"reram_cmo: relaxation is known from 1 s on, got t={t:g} s; use 0 or at least 1s")

    def devices(self) -> Devices:
        return CMODevices(self.acceptance, self.programming, self.drift, self.read)


class PublishedDevices(DifferentialPair):
    """Devices of one of aihwkit's noise models."""

    def __init__(self, model: Any) -> None:
        self.model, self.g_max = model, float(model.g_max)

    def program(self, target: Tensor, stream: Stream) -> Tensor:
        with DrawnFrom(stream):
            return self.model.apply_programming_noise_to_conductance(target)

    def fate(self, target: Tensor, stream: Stream) -> Tensor | None:
        with DrawnFrom(stream):
            return self.model.generate_drift_coefficients(target)

    def read(self, target: Tensor, programmed: Tensor, fate: Tensor | None, t: float, stream: Stream) -> Tensor:
        with DrawnFrom(stream):
            # Without exponents (time 0) any will do: nothing is raised to them.
            return self.model.apply_drift_noise_to_conductance(programmed, programmed if fate is None else fate, t)


class WanDevices(PublishedDevices):
    """Wan's: the error at a later time is drawn anew, once per chip."""

    TIMES = (86400.0, 172800.0)

    def fate(self, target: Tensor, stream: Stream) -> Tensor | None:
        later = []
        for index, t in enumerate(self.TIMES):
            with DrawnFrom(stream.child(index)):
                later.append(self.model.apply_drift_noise_to_conductance(target, target, t))
        return torch.stack(later)

    def read(self, target: Tensor, programmed: Tensor, fate: Tensor | None, t: float, stream: Stream) -> Tensor:
        return programmed if fate is None or t not in self.TIMES else fate[self.TIMES.index(t)]


class CMODevices:
    """Single bidirectional devices, with aihwkit's coefficients but relaxation that a device keeps."""

    def __init__(self, acceptance: float, programming: float, drift: float, read: float) -> None:
        self.model = _model("reram", "ReRamCMONoiseModel", acceptance_range=acceptance)
        self.g_min, self.g_max = float(self.model.g_min), float(self.model.g_max)
        self.programming, self.drift, self.noise = programming, drift, read

    def split(self, relative: Tensor) -> list[Tensor]:
        return [self.g_min + (relative.clamp(-1, 1) + 1) / 2 * (self.g_max - self.g_min)]

    def join(self, conductances: list[Tensor]) -> Tensor:
        return 2 * (conductances[0] - self.g_min) / (self.g_max - self.g_min) - 1

    def program(self, target: Tensor, stream: Stream) -> Tensor:
        constant, slope = self.model.coeff_dict[self.model.acceptance_range]
        return target + self.programming * (constant + slope * target) * normal_like(target, stream)

    def fate(self, target: Tensor, stream: Stream) -> Tensor | None:
        return normal_like(target, stream)

    def read(self, target: Tensor, programmed: Tensor, fate: Tensor | None, t: float, stream: Stream) -> Tensor:
        if fate is None:
            return programmed
        decay, noise = self.model.decay_dict, self.model.read_dict
        slope, constant = decay["std"]
        relaxed = programmed + self.drift * (decay["mean"][0] * math.log(t) + (slope * math.log(t) + constant) * fate)
        spread = noise["K"] * math.sqrt(math.log((t + noise["t_read"]) / (2 * noise["t_read"])))
        std = spread * relaxed.clamp(min=self.g_min).log10()
        return (relaxed + self.noise * std * normal_like(target, stream)).clamp(self.g_min, self.g_max)


class DrawnFrom(TorchFunctionMode):
    """Inside, ``torch.randn_like`` takes its numbers from a named stream, one child per call; this thread only.

    A list of masks as an index, which Hermes uses and torch deprecates, means what it always meant: a tuple.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream, self.calls = stream, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is torch.randn_like:
            self.calls += 1
            return normal_like(args[0], self.stream.child(self.calls))
        if func is Tensor.__getitem__ and isinstance(args[1], list):
            args = (args[0], tuple(args[1]))
        return func(*args, **(kwargs or {}))


@cache
def _published(module: str, name: str, settings: tuple[tuple[str, Any], ...]) -> PublishedDevices:
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in settings}
    return PublishedDevices(_model(module, name, **listed))


@cache
def _wan() -> WanDevices:
    return WanDevices(_model("reram", "ReRamWan2022NoiseModel", g_max=40.0))


def _model(module: str, name: str, **settings: Any) -> Any:
    try:
        found = importlib.import_module(f"aihwkit.inference.noise.{module}")
    except ImportError as error:
        raise UserError(
            f"expected aihwkit 1.1.0 for the device profiles, got: {error}; install it with pip install aihwkit==1.1.0 "
            "(Linux, x86-64)"
        ) from None
    return getattr(found, name)(**settings)
