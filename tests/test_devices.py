"""Device profiles against the published polynomials, against aihwkit itself, over time, and without aihwkit."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise import (
    PCM,
    DeviceProfile,
    Gaussian,
    Hermes,
    NoiseModel,
    ReRamCMO,
    ReRamWan2022,
    StateIndependent,
    compensated,
    published,
)
from noiserobust.noise.profiles import DriftingProfile
from noiserobust.rng import Stream
from noiserobust.spec import Duration

STREAM = Stream(5, "test", "devices")
STATES = [0.0, 0.1, 0.5, 1.0]
N = 20_000
PROFILES = ["pcm", "hermes", "reram_wan2022", "reram_cmo", "state_independent"]


def states(dtype: torch.dtype = torch.float64, sign: float = 1.0) -> Tensor:
    """One row of N equal weights per state; the scale of the layer is 1."""
    return sign * torch.tensor(STATES, dtype=dtype).repeat(N, 1).T.contiguous()


def layerwise(profile: DeviceProfile) -> DeviceProfile:
    return replace(profile, reference="layer")


class TestProgramming:
    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_the_figures_of_the_table(self, sign: float) -> None:
        """Std as a fraction of max|w| at r = 0, .1, .5, 1, to the three decimals that were published."""
        table = {
            PCM(): [0.009, 0.019, 0.039, 0.043],
            Hermes(): [0.007, 0.027, 0.048, 0.053],
            ReRamWan2022(): [0.007, 0.039, 0.051, 0.028],
        }
        for profile, stds in table.items():
            programmed = layerwise(profile).program(states(sign=sign), STREAM).programmed()
            np.testing.assert_allclose(programmed.std(1), stds, atol=0.001)

    @pytest.mark.parametrize("profile", [PCM(), Hermes(), Hermes(cells=1), StateIndependent()], ids=str)
    def test_sources_are_switched_off_one_by_one(self, profile: NoiseModel) -> None:
        assert isinstance(profile, PCM | Hermes | StateIndependent)
        w = states(torch.float64)[:, :50]
        silent = replace(profile, programming=0.0, drift=0.0, read=0.0, reference="layer")
        torch.testing.assert_close(silent.program(w, STREAM).read(STREAM, 86400.0), w, rtol=0, atol=1e-12)
        programmed = replace(silent, programming=1.0).program(w, STREAM)
        torch.testing.assert_close(programmed.read(STREAM, 86400.0), programmed.programmed(), rtol=0, atol=1e-12)
        drifting = replace(silent, drift=1.0).program(w, STREAM)
        torch.testing.assert_close(drifting.programmed(), w, rtol=0, atol=1e-12)
        assert torch.equal(drifting.read(Stream(0), 86400.0), drifting.read(Stream(1), 86400.0))
        assert (drifting.read(STREAM, 86400.0)[2:] < w[2:]).all()
        reading = replace(silent, read=1.0).program(w, STREAM)
        assert not torch.equal(reading.read(Stream(0), 0.0), reading.read(Stream(1), 0.0))


SCALED = {"programming": 0.5, "drift": 2.0, "read": 0.3}
DRIFTING = [
    PCM(),
    PCM(**SCALED),
    Hermes(),
    Hermes(**SCALED),
    Hermes(cells=1),
    Hermes(cells=1, **SCALED),
    StateIndependent(),
    StateIndependent(sigma=0.3, nu_mean=0.02, nu_std=0.06, **SCALED),
]
RELAXING = [ReRamCMO(), ReRamCMO(**SCALED), ReRamCMO(acceptance=2.0), ReRamCMO(acceptance=2.0, **SCALED)]
OF_AIHWKIT = {
    PCM: "pcm",
    Hermes: "hermes",
    StateIndependent: "custom",
    ReRamWan2022: "reram",
    ReRamCMO: "reram",
}


def of_aihwkit(profile: DeviceProfile) -> Any:
    """aihwkit's model with the settings of ``profile``."""
    models = importlib.import_module(f"aihwkit.inference.noise.{OF_AIHWKIT[type(profile)]}")
    if isinstance(profile, ReRamWan2022):
        return models.ReRamWan2022NoiseModel(g_max=40.0)
    assert isinstance(profile, DriftingProfile)
    scales = {
        "prog_noise_scale": profile.programming,
        "drift_scale": profile.drift,
        "read_noise_scale": profile.read,
    }
    match profile:
        case PCM():
            return models.PCMLikeNoiseModel(**scales)
        case Hermes():
            return models.HermesNoiseModel(num_devices=profile.cells, **scales)
        case ReRamCMO():
            return models.ReRamCMONoiseModel(acceptance_range=profile.acceptance, **scales)
        case StateIndependent():
            return models.StateIndependentNoiseModel(
                prog_coeff=[profile.sigma, 0.0, 0.0],
                drift_nu_mean=profile.nu_mean,
                drift_nu_std=profile.nu_std,
                **scales,
            )
    raise AssertionError(profile)


def normals(count: int, like: Tensor) -> list[Tensor]:
    return [STREAM.child(index).normal(like.shape).to(like.dtype) for index in range(count)]


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    tolerance = 1e-6 if ours.dtype == torch.float32 else 1e-14
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning", "ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
class TestAgainstAihwkit:
    """aihwkit's own functions, handed the same normal numbers: the same conductances, to rounding."""

    @pytest.fixture
    def handed(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        """Hands ours and theirs the same normal numbers, in the same order."""
        modules = {name: pytest.importorskip(f"aihwkit.inference.noise.{name}") for name in OF_AIHWKIT.values()}

        def hand(*normals: Tensor) -> None:
            for module, name in [(published, "normal_like"), *((module, "randn_like") for module in modules.values())]:
                given = iter(normals)
                monkeypatch.setattr(module, name, lambda like, *_, given=given: next(given).clone())

        return hand

    @pytest.mark.parametrize("t", [0.0, 1.0, 25.0, 3600.0, 86400.0, 31536000.0])
    @pytest.mark.parametrize("profile", DRIFTING, ids=str)
    def test_drifting_devices(
        self, profile: DeviceProfile, t: float, dtype: torch.dtype, handed: Callable[..., None]
    ) -> None:
        devices, model = profile.devices(), of_aihwkit(profile)
        target = (torch.arange(10_001, dtype=dtype) / 10_000 * devices.g_max).clamp(max=devices.g_max)
        handed(*normals(3, target))
        programmed = devices.program(target, STREAM)
        exponents = devices.drift_parameters(target, STREAM)
        read = devices.read(target, programmed, exponents if t else None, t, STREAM)
        assert_same(programmed, model.apply_programming_noise_to_conductance(target))
        their_exponents = model.generate_drift_coefficients(target)
        assert_same(exponents, their_exponents)
        assert_same(read, model.apply_drift_noise_to_conductance(programmed, their_exponents, t))

    def test_wan(self, dtype: torch.dtype, handed: Callable[..., None]) -> None:
        devices, model = ReRamWan2022().devices(), of_aihwkit(ReRamWan2022())
        target = torch.linspace(0, 40, 10_001, dtype=dtype)
        handed(*normals(3, target))
        programmed = devices.program(target, STREAM)
        later = devices.drift_parameters(target, STREAM)
        assert_same(programmed, model.apply_programming_noise_to_conductance(target))
        for t in (1.0, 86400.0, 172800.0):
            theirs = programmed if t == 1 else model.apply_drift_noise_to_conductance(target, target, t)
            assert_same(devices.read(target, programmed, later, t, STREAM), theirs)

    @pytest.mark.parametrize("t", [0.0, 1.0, 3600.0, 31536000.0])
    @pytest.mark.parametrize("profile", RELAXING, ids=str)
    def test_cmo(self, profile: DeviceProfile, t: float, dtype: torch.dtype, handed: Callable[..., None]) -> None:
        """Away from the smallest conductance, at which aihwkit takes the logarithm of what it cuts off later."""
        devices, model = profile.devices(), of_aihwkit(profile)
        target = torch.linspace(25, devices.g_max, 10_001, dtype=dtype)
        handed(*normals(3, target))
        programmed = devices.program(target, STREAM)
        read = devices.read(target, programmed, devices.drift_parameters(target, STREAM) if t else None, t, STREAM)
        assert_same(programmed, model.apply_programming_noise_to_conductance(target))
        theirs = model.apply_drift_noise_to_conductance(programmed, target, t)
        assert_same(read, torch.as_tensor(theirs))


class TestTime:
    def test_one_chip_is_correlated_over_time_and_two_are_not(self) -> None:
        """Programming and drift are what the errors at 0 s and at 1 d have in common (5 standard errors)."""
        w = torch.cat([states()[2:3], torch.ones(1, N)])
        chip, other = (PCM(reference="layer").program(w, STREAM.child(name)) for name in ("one", "other"))
        early, late = chip.read(Stream(1), 0.0)[0], chip.read(Stream(2), 86400.0)[0]
        assert 0.4 < np.corrcoef(early, late)[0, 1] < 0.6
        assert abs(np.corrcoef(early, other.read(Stream(2), 86400.0)[0])[0, 1]) < 5 / math.sqrt(N)

    def test_time_zero_is_read_noise_on_what_was_programmed(self) -> None:
        w = states()
        chip = replace(PCM(reference="layer"), read=0.0).program(w, STREAM)
        assert torch.equal(chip.read(STREAM, 0.0), chip.programmed())
        assert not torch.equal(PCM(reference="layer").program(w, STREAM).read(STREAM, 0.0), chip.programmed())

    def test_a_profile_has_a_time_of_its_own(self) -> None:
        w = states()[:, :10]
        chip, other = (NoiseModel.parse(text).program(w, STREAM) for text in ("pcm:t=1d", "pcm"))
        assert torch.equal(chip.read(STREAM), other.read(STREAM, 86400.0))

    def test_wan_is_drawn_anew_at_each_time_but_once_per_chip(self) -> None:
        w = states()[1:]
        chip = layerwise(ReRamWan2022()).program(w, STREAM)
        assert torch.equal(chip.read(Stream(0), 1.0), chip.programmed())
        assert torch.equal(chip.read(Stream(0), 86400.0), chip.read(Stream(1), 86400.0))
        errors = [chip.read(STREAM, t)[1] - w[1] for t in (1.0, 86400.0, 172800.0)]
        assert np.abs(np.corrcoef(torch.stack(errors)) - np.eye(3)).max() < 5 / math.sqrt(N)

    def test_cmo_keeps_its_relaxation(self) -> None:
        chip = replace(layerwise(ReRamCMO()), read=0.0).program(states(), STREAM)
        hour, day = (chip.read(STREAM, t)[2] for t in (3600.0, 86400.0))
        assert np.corrcoef(hour, day)[0, 1] > 0.99


class TestComposition:
    def test_a_profile_programs_what_the_stage_below_holds(self) -> None:
        w = states()[2:3].repeat(2, 1)
        total = (Gaussian(0.2) + PCM()).program(w, STREAM)
        target = Gaussian(0.2).program(w, STREAM.child(0)).programmed().clamp(-0.5, 0.5)
        # Where the target saturates, the devices spread as at r = 1, whatever the clean weight (false-alarm rate 6e-7).
        top = target[0] == 0.5
        seen = total.programmed()[0][top] / 0.5
        expected = PCM().program(torch.ones(1, 10 * N, dtype=torch.float64), STREAM).programmed().std()
        assert top.sum() > 1000
        assert abs(seen.std() / expected - 1) < 5 / math.sqrt(2 * top.sum())

    def test_order_matters_and_is_as_written(self) -> None:
        w = states()[1:]
        one, other = PCM() + Gaussian(0.2, "layer"), Gaussian(0.2, "layer") + PCM()
        assert (str(one), str(other)) == ("pcm+gaussian:0.2,reference=layer", "gaussian:0.2,reference=layer+pcm")
        # Noise below a profile saturates at g_max; above it, nothing does.
        assert other.program(w, STREAM).programmed().abs().max() < 1.25
        assert one.program(w, STREAM).programmed().abs().max() > 1.5


class TestCompensation:
    @pytest.mark.parametrize("kind", ["global", "column"])
    def test_it_restores_the_mean(self, kind: str) -> None:
        w = Stream(0, "w").normal((40, 600))
        chip = PCM().program(w, STREAM)
        drifted = chip.read(STREAM, 31536000.0)
        seen = compensated(chip, STREAM, 31536000.0, kind)  # type: ignore[arg-type]
        then = chip.programmed()
        dim, largest = None if kind == "global" else 1, w.abs().amax(1, keepdim=True)  # of conductances
        torch.testing.assert_close((seen / largest).abs().mean(dim), (then / largest).abs().mean(dim))
        ratio = (seen / drifted)[drifted != 0]
        assert (ratio.std() < 1e-6) == (kind == "global")
        assert 1.2 < ratio.mean() < 2.5

    def test_as_a_stage_it_is_what_a_compensated_chip_gives(self) -> None:
        w = Stream(0, "w").normal((40, 60))
        stage = NoiseModel.parse("pcm:t=1d+compensate:column").program(w, STREAM)
        pcm = PCM(t=Duration("1d")).program(w, STREAM.child(0))
        torch.testing.assert_close(stage.read(STREAM), compensated(pcm, STREAM.child("below"), None, "column"))
        assert torch.equal(stage.programmed(), pcm.programmed())

    def test_tile_by_tile(self) -> None:
        w = Stream(0, "w").normal((6, 9))
        chip = PCM(reference="tile", rows=5, columns=4).program(w, STREAM)
        seen = compensated(chip, STREAM, 86400.0, "global")
        factor = seen / chip.read(STREAM, 86400.0)
        then, now = chip.programmed().abs(), chip.read(STREAM, 86400.0).abs()
        for outputs in (slice(0, 3), slice(3, 6)):
            for inputs in (slice(0, 5), slice(5, 9)):
                expected = then[outputs, inputs].mean() / now[outputs, inputs].mean()
                torch.testing.assert_close(factor[outputs, inputs], expected.expand_as(factor[outputs, inputs]))

    @pytest.mark.parametrize("kind", ["global", "column"])
    def test_without_drift_there_is_nothing_to_do(self, kind: str) -> None:
        chip = Gaussian(0.1).program(Stream(0, "w").normal((4, 5)), STREAM)
        torch.testing.assert_close(compensated(chip, STREAM, 3600.0, kind), chip.read(STREAM))  # type: ignore[arg-type]

    def test_zeros_stay_zeros(self) -> None:
        chip = PCM().program(torch.zeros(4, 5), STREAM)
        assert torch.equal(compensated(chip, STREAM, 3600.0, "column"), torch.zeros(4, 5))

    def test_aihwkit_finds_the_same_factor(self) -> None:
        drift = pytest.importorskip("aihwkit.inference.compensation.drift")
        w = Stream(0, "w").normal((40, 600))
        chip = PCM().program(w, STREAM)
        then, now = chip.programmed(), chip.read(STREAM, 86400.0)
        for kind, compensation in (
            ("global", drift.GlobalDriftCompensation()),
            ("column", drift.PerColumnDriftCompensation()),
        ):
            # Its read-out: the outputs for one-hot inputs, that is the transposed weight, before the columns' scales.
            scale = w.abs().amax(1, keepdim=True)
            factor = compensation.readout((then / scale).T) / compensation.readout((now / scale).T)
            expected = now * (factor if kind == "global" else factor[:, None])
            torch.testing.assert_close(compensated(chip, STREAM, 86400.0, kind), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "fragment"),
    [
        (lambda: PCM(-1.0), "pcm: expected a finite strength >= 0, got -1.0"),
        (lambda: PCM(drift=-0.1), "pcm: expected a finite drift >= 0 (1: as measured, 0: off), got -0.1"),
        (lambda: PCM(reference="row"), "pcm: reference: expected one of filter, layer, tile, tile-column, got 'row'"),
        (lambda: NoiseModel.parse("pcm+compensate:row"), "expected one of global, column, got 'row'"),
        (lambda: Hermes(cells=3), "hermes: expected 1 or 2 cells per conductance, got 3"),
        (lambda: ReRamCMO(acceptance=0.02), "reram_cmo: expected acceptance 0.2 or 2 (percent of g), got 0.02"),
        (lambda: NoiseModel.parse("pcm:t=1w"), "pcm: t: expected a time such as 25s, 1h, 1d, 1y"),
        (lambda: NoiseModel.parse("reram_wan2022:t=1h"), "measured at 1s, 1d and 2d only, got t=3600 s"),
        (lambda: ReRamCMO().program(torch.ones(2, 2), STREAM).read(STREAM, 0.5), "known from 1 s on, got t=0.5 s"),
        (lambda: ReRamWan2022().program(torch.ones(2, 2), STREAM).read(STREAM, 60), "measured at 1s, 1d and 2d only"),
    ],
)
def test_refusals(build, fragment: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError) as caught:
        build()
    assert fragment in str(caught.value)
