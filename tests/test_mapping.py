"""How weights become conductances: pairs, offsets, reference columns, on/off ratios; on profiles and tables."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise import PCM, DeviceProfile, Measured, NoiseModel, ReRamCMO, StateIndependent
from noiserobust.noise.mapping import MAPPINGS
from noiserobust.rng import Stream

STREAM = Stream(13, "test", "mapping")
QUIET = StateIndependent(programming=0.0, drift=0.0, read=0.0)
PROFILES = [QUIET, ReRamCMO(programming=0.0, drift=0.0, read=0.0)]
N = 20_000


def weight(*shape: int) -> Tensor:
    return Stream(0, "weight").normal(shape).double()


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("profile", PROFILES, ids=str)
class TestEvery:
    @pytest.mark.parametrize("shape", [(6, 5), (7, 2, 3, 3), (9,)])
    @pytest.mark.parametrize("on_off", [None, 5.0])
    def test_perfect_devices_give_the_weight(
        self, profile: DeviceProfile, mapping: str, shape: tuple[int, ...], on_off: float | None
    ) -> None:
        w = weight(*shape)
        for reference in ("filter", "layer", "tile", "tile-column"):
            cut = {"rows": 4, "columns": 3} if reference.startswith("tile") else {}
            noise = replace(profile, mapping=mapping, on_off=on_off, reference=reference, **cut)  # type: ignore[arg-type]
            torch.testing.assert_close(noise.program(w, STREAM).programmed(), w)
            torch.testing.assert_close(noise.program(w, STREAM).read(STREAM, 3600.0), w)

    def test_targets_span_the_range(self, profile: DeviceProfile, mapping: str) -> None:
        """-1, 0, 0.5 and 1 of the largest, by hand, in a range of 1 to 4."""
        w = torch.tensor([[-1.0, 0.0, 0.5, 1.0]], dtype=torch.float64)
        noise = replace(profile, mapping=mapping, on_off=4.0)  # type: ignore[arg-type]
        chip = noise.program(w, STREAM)
        high = chip.devices[0].g_max  # type: ignore[attr-defined]
        low, middle, three_quarters = high / 4, high * 5 / 8, high * 13 / 16
        expected = {
            "pair": [[low, low, middle, high], [high, low, low, low]],
            "offset": [[low, middle, three_quarters, high]],
            "offset-column": [[low, middle, three_quarters, high], [middle] * 4],
        }[mapping]
        for target, found in zip(expected, chip.targets, strict=True):  # type: ignore[attr-defined]
            torch.testing.assert_close(found, torch.tensor([target], dtype=torch.float64))


class TestErrors:
    def std(self, mapping: str, on_off: float | None = None) -> float:
        """Std of a weight of half the largest, away from any bound; errors of 1 µS, whatever the state."""
        noise = StateIndependent(sigma=1.0, mapping=mapping, on_off=on_off, reference="layer")  # type: ignore[arg-type]
        w = torch.tensor([0.5, 1.0], dtype=torch.float64).repeat(N, 1).T
        return float(noise.program(w, STREAM).programmed()[0].std())

    @pytest.mark.parametrize(
        ("mapping", "on_off", "expected"),
        [
            ("pair", 2.0, math.sqrt(2) / 12.5),  # both devices err
            ("offset", None, 2 / 25),  # one, at twice the share of the range
            ("offset", 2.0, 2 / 12.5),
            ("offset-column", None, 2 * math.sqrt(2) / 25),
        ],
    )
    def test_std(self, mapping: str, on_off: float | None, expected: float) -> None:
        assert abs(self.std(mapping, on_off) / expected - 1) < 5 / math.sqrt(2 * N)

    def test_an_input_line_shares_the_error_of_its_reference(self) -> None:
        """Correlation 1/2 between outputs of one crossbar, none between crossbars, none between inputs."""
        noise = StateIndependent(sigma=1.0, mapping="offset-column", reference="tile", rows=N, columns=2)
        w = torch.full((4, N), 0.1, dtype=torch.float64)
        w[:, 0] = 1.0  # the scale
        error = (noise.program(w, STREAM).programmed() - w)[:, 1:].numpy()
        expected = np.kron(np.eye(2), np.full((2, 2), 0.5)) + np.eye(4) / 2
        assert np.abs(np.corrcoef(error) - expected).max() < 5 / math.sqrt(N)

    def test_the_reference_drifts_along(self) -> None:
        """A weight of 0 stays near 0 on a drifting column, and falls far below on an ideal constant."""
        w = torch.cat([torch.zeros(1, 2000), torch.ones(1, 2000)]).double()
        ideal, real = (
            PCM(mapping=mapping, reference="layer").program(w, STREAM).read(STREAM, 86400.0)[0].mean()  # type: ignore[arg-type]
            for mapping in ("offset", "offset-column")
        )
        assert ideal < -0.25
        assert abs(real) < 0.01

    def test_a_table_has_it_too(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("state,mean_error,std\n10,0,0\n20,1,0\n50,0,0\n")
        w = torch.tensor([[1.0, -0.5, 0.0]], dtype=torch.float64)  # 50, 20 and 30 µS
        chip = Measured(table=str(tmp_path / "t.csv"), mapping="offset").program(w, STREAM)
        expected = [1.0, 2 * (21 - 10) / 40 - 1, 2 * (30 + 2 / 3 - 10) / 40 - 1]
        torch.testing.assert_close(chip.programmed(), torch.tensor([expected], dtype=torch.float64))


def test_text_forms_and_positions() -> None:
    assert str(NoiseModel.parse("pcm:mapping=offset,on_off=20")) == "pcm:mapping=offset,on_off=20.0"
    assert str(ReRamCMO()) == "reram_cmo"
    # Settings in order mean what they meant before there were these two.
    assert NoiseModel.parse("pcm:0.5,tile,100,100,1d,0.7") == PCM(0.5, "tile", 100, 100, 86400, programming=0.7)  # type: ignore[arg-type]
    assert NoiseModel.parse("hermes:1,filter,512,512,0s,1,1,1,1").cells == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("pcm:mapping=triple", "expected one of pair, offset, offset-column, got 'triple'"),
        ("pcm:on_off=1", "pcm: expected an on/off ratio on_off > 1, g_max / g_min, got 1.0"),
        ("pcm:on_off=inf", "expected an on/off ratio"),
    ],
)
def test_refusals(text: str, fragment: str) -> None:
    with pytest.raises(UserError, match=re.escape(fragment)):
        NoiseModel.parse(text)
    with pytest.raises(
        UserError, match=r"reram_cmo: expected an on/off ratio on_off of at most that of the device, 9.8, got 20"
    ):
        ReRamCMO(on_off=20.0).program(torch.ones(2, 2), STREAM)


@pytest.mark.parametrize("mapping", ["pair", "offset"])
def test_the_largest_conductance_in_use(mapping: str) -> None:
    """s is stored as g_max; a device's error of sigma(g) µS is one of s sigma(g) / (g_max - g_min) of the weight."""
    w = torch.ones(40, 500)
    noise = NoiseModel.parse(f"pcm:read=0,mapping={mapping},g_max=12.5,on_off=5")
    chip = noise.program(w, STREAM)
    assert float(chip.targets[0].max()) == 12.5  # type: ignore[attr-defined]
    low = 12.5 / 5

    def sigma(g: float) -> float:
        return 0.26348 + 1.9650 * g / 25 - 1.1731 * (g / 25) ** 2

    devices = [sigma(12.5), sigma(low)] if mapping == "pair" else [2 * sigma(12.5)]
    expected = sum(std**2 for std in devices) ** 0.5 / (12.5 - low)
    # 20,000 weights: relative standard error 0.5 %
    assert float((chip.programmed() - w).std()) == pytest.approx(expected, rel=0.025)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("pcm:g_max=0", "pcm: expected a finite g_max > 0"),
        ("pcm:g_max=26", "pcm: expected g_max above 0 and up to 25, the device's own, got 26"),
        ("reram_cmo:g_max=9", "reram_cmo: expected g_max above 9 and up to 88.2"),
    ],
)
def test_no_range_is_left(text: str, fragment: str) -> None:
    with pytest.raises(UserError, match=re.escape(fragment)):
        NoiseModel.parse(text).program(torch.ones(2, 2), STREAM)
