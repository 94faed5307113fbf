"""Tables of measurements beyond a line per state: times, temperatures, both signs, reads, units, ways to write them."""

from __future__ import annotations

import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise import Measured, NoiseModel, ReRamWan2022
from noiserobust.rng import Stream

STREAM = Stream(9, "test", "measurements")
N = 20_000
DAY = 86400.0
RETENTION = """\
time,state,mean_error,std
1,0,0,0
1,40,0,1
1h,0,0,0
1h,40,-2,3
1d,0,0,0
1d,40,-6,2
"""
WARM = """\
temperature,time,state,mean_error,std
25,1,0,0,0
25,1,40,0,1
25,1d,0,0,0
25,1d,40,-2,3
85,1,0,0,0
85,1,40,0,1
85,1d,0,0,0
85,1d,40,-10,5
"""


def table(folder: Path, text: str, name: str = "table.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def states(*r: float) -> Tensor:
    """One row of N equal weights per state; the scale of the layer is 1."""
    return torch.tensor([*r, 1.0], dtype=torch.float64).repeat(N, 1).T.contiguous()


def assert_moments(values: Tensor, mean: float, std: float) -> None:
    """Of a normal sample, within 5 standard errors each: false-alarm rate 6e-7 each."""
    assert abs(float(values.mean()) - mean) < 5 * std / math.sqrt(values.numel()) + 1e-12
    assert abs(float(values.std()) - std) < 5 * std / math.sqrt(2 * values.numel()) + 1e-12


class TestRetention:
    @pytest.mark.parametrize(
        ("t", "mean", "std"),
        [
            (0.0, 0.0, 1.0),
            (0.5, 0.0, 1.0),  # before the first time nothing has changed
            (1.0, 0.0, 1.0),
            (60.0, -1.0, 2.0),  # sqrt(1 x 3600) s: half-way in ln t
            (3600.0, -2.0, 3.0),
            (math.sqrt(3600 * DAY), -4.0, 2.5),
            (DAY, -6.0, 2.0),
        ],
    )
    def test_mean_and_std_at_each_time(self, tmp_path: Path, t: float, mean: float, std: float) -> None:
        """Half of it at the middle state, as errors are linear between states."""
        profile = Measured(table=table(tmp_path, RETENTION), reference="layer")
        for sign in (1, -1):
            half, full = sign * profile.program(sign * states(0.5), STREAM).read(STREAM, t) * 40
            assert_moments(half, 20 + mean / 2, std / 2)
            assert_moments(full, 40 + mean, std)

    def test_growth_is_independent_of_programming_and_fixed(self, tmp_path: Path) -> None:
        chip = Measured(table=table(tmp_path, RETENTION), reference="layer").program(states(), STREAM)
        programmed, hour = chip.programmed()[0] - 1, chip.read(Stream(0), 3600.0)[0] - 1
        assert torch.equal(chip.read(Stream(1), 3600.0)[0] - 1, hour)
        assert abs(np.corrcoef(programmed, hour)[0, 1] - 1 / 3) < 5 / math.sqrt(N)  # std 1, then 3
        assert abs(np.corrcoef(programmed, hour - programmed)[0, 1]) < 5 / math.sqrt(N)

    def test_parts_are_switched_off(self, tmp_path: Path) -> None:
        path = table(tmp_path, RETENTION)
        still = Measured(table=path, reference="layer", drift=0.0).program(states(0.5), STREAM)
        torch.testing.assert_close(still.read(STREAM, DAY), still.programmed())
        sharp = Measured(table=path, reference="layer", programming=0.0).program(states(), STREAM)
        torch.testing.assert_close(sharp.programmed(), states())
        assert_moments(40 * sharp.read(STREAM, 3600.0)[0] - 40, -2.0, math.sqrt(3**2 - 1**2))

    def test_past_the_last_time_nothing_is_made_up(self, tmp_path: Path) -> None:
        path = table(tmp_path, RETENTION)
        for act in (
            lambda: Measured(table=path, t=DAY + 1),  # type: ignore[arg-type]
            lambda: Measured(table=path).program(states(), STREAM).read(STREAM, 2 * DAY),
        ):
            with pytest.raises(UserError, match=r"measured: expected t up to 1d, as .*table.csv has, got t="):
                act()

    def test_a_first_time_of_zero(self, tmp_path: Path) -> None:
        text = RETENTION.replace("\n1,", "\n0,")
        chip = Measured(table=table(tmp_path, text), reference="layer").program(states(), STREAM)
        assert_moments(40 * chip.read(STREAM, 900.0)[0], 40 - 2 / 4, 1 + 2 / 4)  # linear in t up to the first later one
        assert_moments(40 * chip.read(STREAM, math.sqrt(3600 * DAY))[0], 36.0, 2.5)

    @pytest.mark.parametrize("t", [0.0, DAY, 2 * DAY])
    def test_the_example_is_told_from_wan_by_nobody(self, t: float) -> None:
        """Two-sample Kolmogorov-Smirnov per state: false-alarm rate 1e-6 each."""
        w = states(0.25, 0.5, 0.9)
        own = Measured(table="example-retention", reference="layer").program(w, STREAM).read(STREAM, t)
        theirs = ReRamWan2022(reference="layer").program(w, STREAM.child("other")).read(STREAM, t)
        for one, other in zip(own, theirs, strict=True):
            assert stats.ks_2samp(one.numpy(), other.numpy()).pvalue > 1e-6


class TestTemperature:
    @pytest.mark.parametrize(("celsius", "mean", "std"), [(25.0, -2.0, 3.0), (85.0, -10.0, 5.0), (55.0, -6.0, 4.0)])
    def test_it_selects_or_interpolates(self, tmp_path: Path, celsius: float, mean: float, std: float) -> None:
        noise = NoiseModel.parse(f"measured:{table(tmp_path, WARM)},temperature={celsius},reference=layer")
        assert f"temperature={celsius}" in str(noise)
        assert_moments(40 * noise.program(states(), STREAM).read(STREAM, DAY)[0], 40 + mean, std)

    def test_activation_is_arrhenius(self, tmp_path: Path) -> None:
        """1.1 eV: from 25 to 85 °C times shrink by exp(1.1 / k (1 / 298.15 - 1 / 358.15)) = 1,300."""
        factor = math.exp(1.1 / 8.617333262e-5 * (1 / 298.15 - 1 / 358.15))
        assert 1000 < factor < 1500
        path = table(tmp_path, "".join(line + "\n" for line in WARM.splitlines() if not line.startswith("85")))
        cold = Measured(table=path, reference="layer").program(states(), STREAM)
        warm = Measured(table=path, temperature=85.0, activation=1.1, reference="layer").program(states(), STREAM)
        torch.testing.assert_close(warm.read(STREAM, 30.0), cold.read(STREAM, 30.0 * factor))
        with pytest.raises(UserError, match=r"expected t up to 1d at 25 °C, as .* has, got t=1h"):
            warm.read(STREAM, 3600.0)

    def test_kelvin(self, tmp_path: Path) -> None:
        kelvin = (
            WARM.replace("temperature", "Temperature (K)").replace("\n25,", "\n298.15,").replace("\n85,", "\n358.15,")
        )
        one, other = (
            Measured(table=table(tmp_path, text, name), temperature=60.0)
            .program(states()[:, :9], STREAM)
            .read(STREAM, DAY)
            for text, name in ((WARM, "c.csv"), (kelvin, "k.csv"))
        )
        torch.testing.assert_close(one, other)

    @pytest.mark.parametrize(
        ("settings", "fragment"),
        [
            ("", "expected a temperature= of 25 to 85 °C, got none"),
            (",temperature=86", "expected a temperature of 25 to 85 °C, got 86; activation="),
            (",temperature=50,activation=1", "beside temperature and a table of one temperature, got"),
            (",temperature=-300,activation=1", "expected a temperature in °C above -273.15, got -300.0"),
            (",temperature=nan", "expected a temperature in °C above -273.15, got nan"),
            (",activation=1", "expected activation (eV) >= 0 beside temperature"),
        ],
    )
    def test_refusals(self, tmp_path: Path, settings: str, fragment: str) -> None:
        with pytest.raises(UserError, match=re.escape(fragment)):
            NoiseModel.parse(f"measured:{table(tmp_path, WARM)}{settings}")
        with pytest.raises(UserError, match="expected a table with a column temperature, got"):
            NoiseModel.parse(f"measured:{table(tmp_path, RETENTION)},temperature=85")


def test_everything_at_once(tmp_path: Path) -> None:
    """Both signs at two temperatures and two times, in hours and kelvin: each number by hand, between all of them."""
    lines = ["polarity;T-sensor;temperature (K);time (h);state (nS);mean_error (nS);std (nS)"]
    for sign, celsius, hours in product("+-", (25, 85), (1, 100)):
        error = (1 if sign == "+" else 2) * (celsius / 100) * math.log10(10 * hours)  # linear in T and in ln t
        for state in (0, 40):
            lines.append(
                f"{sign};x;{celsius + 273.15:.2f};{hours};{state};{-error * state / 40:.6f};0".replace(".", ",")
            )
    with pytest.warns(UserWarning, match="columns ignored: T-sensor"):
        noise = Measured(table=table(tmp_path, "\n".join(lines)), temperature=55.0, reference="layer")
    for sign, factor in ((1, 1), (-1, 2)):
        chip = noise.program(sign * states(0.5)[:, :3], STREAM)
        for t, decades in ((0.0, 1), (3600.0, 1), (36000.0, 2), (360000.0, 3)):
            error = factor * 0.55 * decades
            expected = sign * torch.tensor([[0.5 - error / 80] * 3, [1 - error / 40] * 3], dtype=torch.float64)
            torch.testing.assert_close(chip.read(STREAM, t), expected, rtol=1e-5, atol=0)


class TestPolarity:
    TEXT = "polarity,state,mean_error,std\n+,0,0,0\n+,10,1,0.2\nG-,0,0,0\nG-,10,-2,0.5\n"

    def test_each_sign_has_its_table(self, tmp_path: Path) -> None:
        profile = Measured(table=table(tmp_path, self.TEXT), reference="layer")
        for sign, mean, std in ((1, 11.0, 0.2), (-1, 8.0, 0.5)):
            seen = sign * profile.program(sign * states(0.5), STREAM).programmed() * 10
            assert_moments(seen[1], mean, std)
            assert_moments(seen[0], (mean + 0) / 2, std / 2)

    def test_refusals(self, tmp_path: Path) -> None:
        path = table(tmp_path, self.TEXT)
        with pytest.raises(UserError, match="expected mapping=pair for a table with polarities, got offset"):
            NoiseModel.parse(f"measured:{path},mapping=offset")
        for text, fragment in (
            (self.TEXT.replace("G-", "+2"), "line 4: expected + or - as polarity, got '+2'"),
            ("polarity,state,mean_error,std\n+,0,0,0\n+,1,0,1\n", "expected both polarities, + and -"),
            ("polarity,state,mean_error,std\n-,0,0,0\n-,1,0,1\n", "expected both polarities, + and -"),
        ):
            with pytest.raises(UserError, match=re.escape(fragment)):
                Measured(table=table(tmp_path, text))


class TestReads:
    TEXT = "state,mean_error,std,read_std\n0,0,0,0.1\n20,0,0,0.3\n40,0,0,0.2\n"

    def test_a_read_depends_on_the_state(self, tmp_path: Path) -> None:
        noise = Measured(table=table(tmp_path, self.TEXT), reference="layer", mapping="offset")
        chip = noise.program(states(-0.5, 0.0, 0.25), STREAM)  # 10, 20, 25 and 40 µS
        assert torch.equal(chip.programmed(), states(-0.5, 0.0, 0.25))
        first, second = chip.read(Stream(0)), chip.read(Stream(1))
        for row, (r, std) in enumerate(((-0.5, 0.2), (0.0, 0.3), (0.25, 0.275), (1.0, 0.2))):
            assert_moments(20 * first[row], 20 * r, std)
            assert abs(np.corrcoef(first[row], second[row])[0, 1]) < 5 / math.sqrt(N)

    def test_it_is_switched_off(self, tmp_path: Path) -> None:
        noise = NoiseModel.parse(f"measured:{table(tmp_path, self.TEXT)},read=0,reference=layer")
        torch.testing.assert_close(noise.program(states(0.5), STREAM).read(STREAM), states(0.5))


class TestWriting:
    PLAIN = "state,mean_error,std\n0,0.5,1\n10,0.25,2\n"

    @pytest.mark.parametrize(
        ("text", "encoding"),
        [
            ("state;mean_error;std\n0;0,5;1\n10;0,25;2,0\n", "utf-8"),
            ("state\tmean_error\tstd\n0\t0.5\t1\n10\t0,25\t2\n", "utf-8"),
            ("State (µS), Mean error (µS), STD (µS)\n0,0.5,1\n10,0.25,2\n", "utf-8"),
            ("state (\u03bcS);mean_error (\u03bcS);std (\u03bcS)\n0;0.5;1\n10;0.25;2\n", "utf-8"),
            ("state (µS);mean_error [uS];std_nS\n0;0,5;1000\n10;0,25;2000\n", "cp1252"),
            ("state / S,mean-error / uS,std uS\n0,0.5,1\n10e-6,0.25,2\n", "utf-8"),
            ("state (uS),mean_error,std\n0,0.5,1\n10,0.25,2\n", "utf-8"),
        ],
    )
    def test_the_same_table_otherwise(self, tmp_path: Path, text: str, encoding: str) -> None:
        (tmp_path / "other.csv").write_bytes(text.encode(encoding))
        w = states(0.3)[:, :50]
        one, other = (
            Measured(table=path).program(w, STREAM).programmed()
            for path in (table(tmp_path, self.PLAIN), str(tmp_path / "other.csv"))
        )
        torch.testing.assert_close(one, other)

    def test_further_columns_are_ignored_with_a_word(self, tmp_path: Path) -> None:
        text = "wafer,state,mean_error,std,n (devices)\nA7,0,0.5,1,200\nA7,10,0.25,2,\n"
        with pytest.warns(UserWarning, match=r"table.csv: columns ignored: wafer, n \(devices\)$"):
            one = Measured(table=table(tmp_path, text))
        w = states(0.3)[:, :50]
        other = Measured(table=table(tmp_path, self.PLAIN, "plain.csv"))
        assert torch.equal(one.program(w, STREAM).programmed(), other.program(w, STREAM).programmed())

    @pytest.mark.parametrize(
        ("text", "fragment"),
        [
            ("state,mean_error,std\n0,5,0,5,0,1\n", "line 2: expected 3 values, got 6; decimal commas need semicolons"),
            ("state;mean_error;std\n0;1.000,5;1\n", "expected a finite number as mean_error, got '1.000,5'"),
            ("state (kg),mean_error,std\n0,0,1\n", "line 1: expected state in µS, uS, nS, mS, S, got state (kg)"),
            ("state,mean_error,std (uS)\n0,0,1\n", "line 1: expected a unit of state, too, as another column is in uS"),
            ("state,mean_error,std,drift_mean (s),drift_std\n", "expected drift_mean in no unit"),
            ("state,mean_error,std,drift_men,drift_std\n", "expected the name drift_mean for 'drift_men'"),
            ("state,mean_error,std,temprature\n", "expected the name temperature for 'temprature'"),
            ("state,mean_error,std,time,drift_mean,drift_std\n", "drift_mean, drift_std (or time)"),
            ("time,state,mean_error,std\n1w,0,0,1\n", "line 2: expected a number or 1h, 1d as time, got '1w'"),
            ("time,state,mean_error,std\n-1,0,0,1\n", "line 2: expected time >= 0, got -1"),
            ("time,state,mean_error,std\n1,0,0,1\n2,0,0,1\n1,1,0,1\n", "expected at least two states at each"),
            (
                "time,state,mean_error,std\n1,0,0,1\n1,1,0,1\n2,0,0,1\n2,2,0,1\n",
                "expected the same first and last state at each polarity, temperature and time, got 0 to 1, 0 to 2",
            ),
        ],
    )
    def test_what_is_wrong_is_one_line(self, tmp_path: Path, text: str, fragment: str) -> None:
        with pytest.raises(UserError, match=re.escape(fragment)) as caught:
            Measured(table=table(tmp_path, text))
        assert "table.csv" in str(caught.value)
        assert "\n" not in str(caught.value)
