"""Own measurements: their numbers come back, mistakes are named by line, the content is part of the name."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import TABLE
from scipy import stats
from torch import Tensor, nn

from noiserobust import evaluate
from noiserobust.errors import UserError
from noiserobust.noise import PCM, Measured, NoiseModel, measured
from noiserobust.rng import Stream
from noiserobust.storage.rows import read_rows

STREAM = Stream(7, "test", "measured")
N = 20_000
HEADER = "state,mean_error,std\n"
EXAMPLE = Path(measured.__file__).parent / "tables" / "example_device.csv"


def table(folder: Path, text: str, name: str = "table.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def states(*r: float) -> Tensor:
    """One row of N equal weights per state; the scale of the layer is 1."""
    return torch.tensor([*r, 1.0], dtype=torch.float64).repeat(N, 1).T.contiguous()


class TestExample:
    @pytest.mark.parametrize("t", [0.0, 3600.0, 31536000.0])
    def test_it_is_told_from_pcm_by_nobody(self, t: float) -> None:
        """Two-sample Kolmogorov-Smirnov per state, also between those of the table: false-alarm rate 1e-6 each, 1.8e-5
        for all. PCM's read noise is off, since a table has none."""
        w = states(0.0, 0.1, 0.22, 0.5, 0.77)
        own = Measured(table=TABLE, reference="layer").program(w, STREAM).read(STREAM, t)
        theirs = PCM(reference="layer", read=0.0).program(w, STREAM.child("other")).read(STREAM, t)
        for one, other in zip(own, theirs, strict=True):
            assert stats.ks_2samp(one.numpy(), other.numpy()).pvalue > 1e-6

    def test_that_judge_would_notice_other_devices(self) -> None:
        w = states(0.5)
        own = Measured(table=TABLE, reference="layer").program(w, STREAM).programmed()
        other = PCM(1.1, reference="layer").program(w, STREAM.child("other")).programmed()
        assert stats.ks_2samp(own[0].numpy(), other[0].numpy()).pvalue < 1e-6

    def test_it_is_there_in_any_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        data = Stream(0, "x").normal((60, 1, 2, 2)), torch.arange(60) % 3
        rows = evaluate(net, data, "measured:example,t=1h", draws=1).rows
        assert rows["noise"].iloc[0].startswith("measured:example,t=1h,digest=")
        by_path, by_name = (Measured(table=name) for name in (str(EXAMPLE), "example"))
        assert by_path.digest == by_name.digest
        assert list(tmp_path.iterdir()) == []

    def test_a_file_of_that_name_goes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "example").mkdir()
        shipped = Measured(table="example")
        (tmp_path / "example").rmdir()
        table(tmp_path, HEADER + "0,0,1\n10,0,2\n", "example")
        assert Measured(table="example").digest != shipped.digest


class TestTable:
    @pytest.mark.parametrize("unit", [1.0, 1 / 40, 1e-6])
    def test_mean_and_std_between_states_in_any_unit(self, tmp_path: Path, unit: float) -> None:
        """States from 10 to 40: an idle device sits at 10. False-alarm rate 6e-7 per bound (5 standard errors)."""
        rows = [(10, 0.2, 0.1), (20, -1.0, 0.3), (40, 0.4, 0.9)]
        text = HEADER + "".join(",".join(f"{unit * value:.12g}" for value in row) + "\n" for row in rows)
        profile = Measured(table=table(tmp_path, text), reference="layer")
        for sign in (1, -1):
            seen = sign * profile.program(sign * states(0.0, 1 / 6, 1 / 3, 0.5), STREAM).programmed()
            for row, r, error, std in zip(
                seen,
                (0.0, 1 / 6, 1 / 3, 0.5, 1.0),
                (0.2, -0.4, -1.0, -0.65, 0.4),  # at 10, 15, 20, 25, 40
                (0.1, 0.2, 0.3, 0.45, 0.9),
                strict=True,
            ):
                # Both devices err; the idle one's is at 10.
                mean, spread = r + (error - 0.2) / 30, math.hypot(std, 0.1) / 30
                assert abs(row.mean() - mean) < 5 * spread / math.sqrt(N)
                assert abs(row.std() / spread - 1) < 5 / math.sqrt(2 * N)

    def test_conductances_are_not_negative(self, tmp_path: Path) -> None:
        profile = Measured(table=table(tmp_path, HEADER + "0,0,5\n10,0,5"), reference="layer")
        seen = profile.program(torch.zeros(1, N).index_fill(1, torch.tensor([0]), 1.0), STREAM)
        positive, negative = seen.conductances  # type: ignore[attr-defined]
        assert min(positive.min(), negative.min()) == 0
        assert 0.48 < (positive == 0).double().mean() < 0.52  # half of all, 5.6 standard errors: alarm rate 2e-8

    def test_without_drift_columns_a_chip_does_not_change(self, tmp_path: Path) -> None:
        profile = Measured(table=table(tmp_path, HEADER + "0,0,1\n10,0,2"))
        chip = profile.program(states(0.5)[:, :50], STREAM)
        assert torch.equal(chip.read(Stream(0)), chip.read(Stream(1), 31536000.0))
        assert torch.equal(chip.read(Stream(0)), chip.programmed())

    def test_drift_is_that_of_the_table_and_may_go_up(self, tmp_path: Path) -> None:
        text = "state,mean_error,std,drift_mean,drift_std\n0,0,0,0,0\n10,0,0,0.1,0\n20,0,0,-0.1,0.02\n"
        profile = Measured(table=table(tmp_path, text), reference="layer", t0=100)  # type: ignore[arg-type]
        chip = profile.program(states(0.25, 0.5), STREAM)
        assert torch.equal(chip.programmed(), states(0.25, 0.5))
        later = chip.read(STREAM, 9900.0)
        torch.testing.assert_close(later[0], torch.full((N,), 0.25 * 100**-0.05, dtype=torch.float64))
        torch.testing.assert_close(later[1], torch.full((N,), 0.5 * 100**-0.1, dtype=torch.float64))
        nu = -later[2].log() / math.log(100)
        assert abs(nu.mean() + 0.1) < 5 * 0.02 / math.sqrt(N)
        assert abs(nu.std() / 0.02 - 1) < 5 / math.sqrt(2 * N)
        assert torch.equal(chip.read(Stream(5), 9900.0), later)
        assert torch.equal(replace(profile, drift=0.0).program(states(0.5), STREAM).read(STREAM, 1e6), states(0.5))

    def test_programming_is_switched_off(self, tmp_path: Path) -> None:
        profile = Measured(table=table(tmp_path, HEADER + "1,1,1\n10,-1,2"), programming=0.0, reference="layer")
        seen = profile.program(states(0.25), STREAM).programmed()
        torch.testing.assert_close(seen, states(0.25))

    @pytest.mark.parametrize(
        "text",
        [
            "# remarks\n\n" + HEADER + "0,0,1\n\n10,0,2\n# more\n",
            "std, state ,mean_error\r\n1,0,0\r\n2,10,0\r\n",
            '\ufeff"state","mean_error","std"\n"0",0,1\n10,0,2.0',
        ],
        ids=["remarks", "order", "quotes"],
    )
    def test_ways_to_write_the_same_table(self, tmp_path: Path, text: str) -> None:
        plain = Measured(table=table(tmp_path, HEADER + "0,0,1\n10,0,2\n", "plain.csv"))
        other = Measured(table=table(tmp_path, text))
        w = states(0.3)[:, :50]
        assert torch.equal(other.program(w, STREAM).programmed(), plain.program(w, STREAM).programmed())


class TestName:
    def test_the_text_names_the_content(self, tmp_path: Path) -> None:
        path = table(tmp_path, HEADER + "0,0,1\n10,0,2\n")
        first = NoiseModel.parse(f"measured:{path}")
        assert re.fullmatch(re.escape(f"measured:{path},digest=") + "[0-9a-f]{12}", str(first))
        assert NoiseModel.parse(str(first)) == first
        half = NoiseModel.parse(f"measured:{path},strength=0.5,t=1h")
        assert half == replace(first.scaled(0.5), t=3600)  # type: ignore[call-arg]
        table(tmp_path, HEADER + "0,0,1\n10,0,3\n")
        second = NoiseModel.parse(f"measured:{path}")
        assert second != first
        # What was made of the old content still is what it was, in this process.
        w = states(0.5)[:, :50]
        assert not torch.equal(first.sample(w, STREAM), second.sample(w, STREAM))
        assert torch.equal(NoiseModel.parse(str(first)).sample(w, STREAM), first.sample(w, STREAM))

    def test_another_process_refuses_a_table_that_was_changed(self, tmp_path: Path) -> None:
        path = table(tmp_path, HEADER + "0,0,1\n10,0,2\n")
        with pytest.raises(UserError, match=r"with the content 0123456789ab, got [0-9a-f]{12}; it was changed"):
            Measured(table=path, digest="0123456789ab")

    def test_rows_of_an_edited_table_are_not_taken_for_the_old_ones(self, tmp_path: Path) -> None:
        path, out = table(tmp_path, HEADER + "0,0,1\n10,0,2\n"), tmp_path / "rows.parquet"
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        data = Stream(0, "x").normal((60, 1, 2, 2)), torch.arange(60) % 3
        first = evaluate(net, data, f"measured:{path}", draws=1, out=out).rows
        table(tmp_path, HEADER + "0,0,1\n10,0,3\n")
        second = evaluate(net, data, f"measured:{path}", draws=1, out=out).rows
        assert not set(first["noise"]) & set(second["noise"])
        assert first["value"].tolist() != second["value"].tolist()
        assert len(read_rows(out)) == len(first) + len(second)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "table.csv: expected a header state,mean_error,std and a line per state, got an empty table"),
        ("# nothing\n", "got an empty table"),
        ("0,0,1\n", "table.csv, line 1: expected the columns state, mean_error, std and perhaps drift_mean, drift_std"),
        ("state,std\n0,1\n", "line 1: expected the columns state, mean_error, std"),
        ("state;mean_error;std\n0;0;1\n", "expected at least two states, got 1"),
        ("state,mean_error,std,drift_mean\n0,0,1,0\n1,0,1,0", "line 1: expected the columns"),
        ("state,mean_error,std,std\n0,0,1,1\n1,0,1,1", "line 1: expected the columns"),
        (HEADER, "table.csv: expected at least two states, got 0"),
        (HEADER + "0,0,1\n", "expected at least two states, got 1"),
        (HEADER + "0,0,1\n1,0\n", "table.csv, line 3: expected 3 values, got 2"),
        (
            HEADER + "0,0,1\n\n# remark\n2,0,1\n1,0,1\n",
            "line 6: expected a state above that of the line before, 2, got 1",
        ),
        (HEADER + "0,0,1\n0,0,1\n", "line 3: expected a state above that of the line before, 0, got 0; sort the table"),
        (HEADER + "-1,0,1\n0,0,1\n", "line 2: expected state >= 0, got -1"),
        (HEADER + "0,0,1\n1,0,-0.5\n", "line 3: expected std >= 0, got -0.5"),
        (HEADER + "0,0,nan\n", "line 2: expected a finite number as std, got 'nan'"),
        (HEADER + "0,,1\n", "line 2: expected a finite number as mean_error, got ''"),
        (HEADER + "0,0,1\n1,0,inf\n", "line 3: expected a finite number as std, got 'inf'"),
        (HEADER + "0,0,1\nhigh,0,1\n", "line 3: expected a finite number as state, got 'high'"),
        (
            "state,mean_error,std,drift_mean,drift_std\n0,0,1,-1,0\n1,0,1,0,-1\n",
            "line 3: expected drift_std >= 0, got -1",
        ),
    ],
)
def test_wrong_tables_are_refused_with_their_line(tmp_path: Path, text: str, fragment: str) -> None:
    with pytest.raises(UserError, match=re.escape(fragment)) as caught:
        Measured(table=table(tmp_path, text))
    assert "table.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_refusals(tmp_path: Path) -> None:
    path = table(tmp_path, HEADER + "0,0,1\n1,0,1\n")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00state")
    for text, fragment in (
        ("measured", "measured needs table, for example measured:example"),
        ("measured:nowhere.csv", "expected a table (CSV), got nowhere.csv: No such file"),
        (f"measured:{tmp_path}", "expected a table (CSV), got"),
        (f"measured:{tmp_path}/bytes.csv", "which is no text"),
        (f"measured:{path},t0=0s", "measured: expected a time t0 > 0 s, got 0s"),
        (f"measured:{path},drift=-1", "measured: expected a finite drift >= 0"),
        (f"measured:{path},strength=-1", "measured: expected a finite strength >= 0"),
    ):
        with pytest.raises(UserError, match=re.escape(fragment)):
            NoiseModel.parse(text)
    for name in ("a,b.csv", "a+b.csv", "x=1.csv", "a(1).csv", " a.csv", ""):
        with pytest.raises(UserError, match=r"expected a file name without , \+ = and brackets"):
            Measured(table=name)
