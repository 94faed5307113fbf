"""Noise models of published devices: PCM, Hermes, ReRAM (Wan 2022, CMO/HfOx) and a state-independent one.

Their numbers and physics are in :mod:`noiserobust.noise.published`. Conductances are in µS, times in seconds after
programming.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from noiserobust.errors import UserError
from noiserobust.noise.device import DeviceProfile, Devices, check_scale
from noiserobust.noise.mapping import Mapping
from noiserobust.noise.published import (
    HERMES_DEVICES,
    PCM_DEVICE,
    CMODevices,
    DriftingDevices,
    WanDevices,
    state_independent_device,
)


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


@dataclass(frozen=True)
class PCM(DriftingProfile, name="pcm"):
    r"""Phase-change memory (PCM): errors of programming, drift and 1/f read noise (Nandakumar et al., ICECS 2019).

    As aihwkit's ``PCMLikeNoiseModel``: g_max 25 µS. With r = g / g_max, :math:`\xi, \zeta, \eta \sim N(0, 1)` per
    device (and per read for :math:`\eta`):

    - programming: :math:`g_p = (g + (0.26348 + 1.9650\,r - 1.1731\,r^2)\,\xi)_+` µS
    - drift: :math:`g_d = g_p\,((t + t_0) / t_0)^{-\nu}`, :math:`t_0` = 20 s, :math:`\nu = |\mu + \sigma \zeta|` with
      :math:`\mu` = -0.0155 ln r + 0.0244 within [.049, .1] and :math:`\sigma` = -0.0125 ln r - 0.0059 within
      [.008, .045]
    - read noise: :math:`g_d\,(1 + Q \sqrt{\ln((t + t_0 + t_r) / 2 t_r)}\,\eta)_+`, :math:`t_r` = 250 ns, Q = 0.0088 /
      :math:`r^{0.65}`, at most 0.2
    """

    example: ClassVar[str] = "pcm:t=1d"

    def devices(self) -> Devices:
        return DriftingDevices(PCM_DEVICE, self.programming, self.drift, self.read)


@dataclass(frozen=True)
class Hermes(DriftingProfile, name="hermes"):
    """Phase-change memory of the IBM Hermes chip (Le Gallo et al., Nature Electronics 2023).

    Two devices hold each conductance (g_max 20.7 µS, t_0 300 s, t_read 512 ns), or ``cells=1`` (10.35 µS, 200 s): less
    accurately programmed. Programming, drift and read noise as of :class:`PCM`, with polynomials of their own. (aihwkit
    ``HermesNoiseModel``.)
    """

    example: ClassVar[str] = "hermes:cells=1"

    cells: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cells not in (1, 2):
            raise UserError(f"hermes: expected 1 or 2 cells per conductance, got {self.cells!r}")

    def devices(self) -> Devices:
        return DriftingDevices(HERMES_DEVICES[self.cells], self.programming, self.drift, self.read)


@dataclass(frozen=True)
class StateIndependent(DriftingProfile, name="state_independent"):
    r"""A plain drifting device whose errors are the same at every conductance (aihwkit ``StateIndependentNoiseModel``).

    g_max is 25 µS. Programming error of std ``sigma`` µS at every conductance; exponent
    :math:`\nu = |\nu_{mean} + \nu_{std} \zeta|`; read noise of std
    :math:`(g_d / g_{max}) \sqrt{\ln((t + t_0 + t_r) / 2 t_r)}` µS, t_0 = 20 s, t_r = 250 ns.
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
        device = state_independent_device(self.sigma, self.nu_mean, self.nu_std)
        return DriftingDevices(device, self.programming, self.drift, self.read)


@dataclass(frozen=True)
class ReRamWan2022(DeviceProfile, name="reram_wan2022"):
    """Resistive memory (ReRAM), measured 1 s, 1 d and 2 d after programming (Wan et al., Nature 2022).

    As aihwkit's ``ReRamWan2022NoiseModel``, at the 40 µS it was fitted at (aihwkit's default of 25 µS leaves it
    unscaled: 1.6 times too noisy). A fourth-degree polynomial in g / g_max gives the std of the whole error at each of
    the three times, so programming, relaxation and read noise are not separable: there is nothing to switch off. The
    error at 1 d and at 2 d is drawn anew from the error at 1 s, as no correlation over time was published; reads of a
    chip at one time agree. The scale is that of the clean weight at all times (aihwkit takes it again from the
    programmed one).
    """

    example: ClassVar[str] = "reram_wan2022:t=1d"

    def check_time(self, t: float) -> None:
        if t not in (0, 1, 86400, 172800):
            raise UserError(f"reram_wan2022: measured at 1s, 1d and 2d only, got t={t:g} s; use one of these")

    def devices(self) -> Devices:
        return WanDevices()


@dataclass(frozen=True)
class ReRamCMO(DriftingProfile, name="reram_cmo"):
    r"""Resistive memory (CMO/HfOx ReRAM) whose conductance relaxes after programming (Falcone et al.).

    Coefficients are those of aihwkit's ``ReRamCMONoiseModel``, conductances 9 to 88.2 µS. One device per weight: zero
    lies in the middle of the range, ±max|w| at its ends. Programmed to within ``acceptance`` percent (0.2 or 2): std
    linear in g. From 1 s on the conductance relaxes, :math:`g_d = g_p - 0.089 \ln t + (0.042 \ln t + 0.41)\,\zeta` µS
    with :math:`\zeta` fixed per device, and is read with std
    :math:`0.0277 \log_{10}(g_d) \sqrt{\ln((t + t_r) / 2 t_r)}` µS, t_r = 1 µs. (aihwkit draws :math:`\zeta` anew at
    every time, runs on the CPU only and fails on constant weights.)
    """

    example: ClassVar[str] = "reram_cmo:acceptance=2.0"

    acceptance: float = 0.2
    mapping: Mapping = field(default="offset", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.acceptance not in (0.2, 2.0):
            raise UserError(f"reram_cmo: expected acceptance 0.2 or 2 (percent of g), got {self.acceptance!r}")

    def check_time(self, t: float) -> None:
        if 0 < t < 1:
            raise UserError(f"reram_cmo: relaxation is known from 1 s on, got t={t:g} s; use 0 or at least 1s")

    def devices(self) -> Devices:
        return CMODevices(self.acceptance, self.programming, self.drift, self.read)
