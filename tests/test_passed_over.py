"""Runs of a folder that an answer passes over: one line says which, and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import refused

import noiserobust
from noiserobust import UserError
from noiserobust.cli import main
from noiserobust.data import Splits, load
from noiserobust.evaluation import Chips, budget, sensitivity
from noiserobust.models import DigitsNet
from noiserobust.training import TrainSettings, fit

LEARNT = "io:dac=8,adc=8,learnt=true"
BRIEF = TrainSettings(model=DigitsNet(4), epochs=1, batch_size=400, select_on="none")


@pytest.fixture(scope="module")
def few() -> Splits:
    digits = load("digits")
    return Splits(digits.train.subset(range(400)), digits.test.subset(range(60)))


@pytest.fixture(scope="module")
def runs(few: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain run and one with learnt ranges."""
    folder = tmp_path_factory.mktemp("work") / "runs"
    fit(BRIEF, folder, splits=few)
    fit(replace(BRIEF, converters=LEARNT, seed=1), folder, splits=few)
    return folder


def lines_of(command: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    main([*command, "--images", "50", "--quiet"])
    return capsys.readouterr().err.splitlines()


def test_unfinished_and_diverged_runs(
    runs: Path, few: Splits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(runs.parent)
    words = ["evaluate", "runs", "--draws", "1", "--noise", "gaussian:0.1"]
    assert lines_of(words, capsys) == []

    def stop(line: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(replace(BRIEF, epochs=2, seed=2), "runs", splits=few, on_epoch=stop)
    with pytest.raises(UserError, match="diverged"):
        fit(replace(BRIEF, lr=1e38, optimizer="SGD", seed=3), "runs", splits=few)
    (runs / "plain-seed4-killed").mkdir()
    (runs / "plain-seed4-killed" / ".lock").touch()  # a kill in the first epoch leaves it
    (runs / "notes").mkdir()
    try:
        for command in (
            words,
            [*words, "--out", "other.parquet"],
            ["sharpness", "runs", "--measures", "hessian_top"],
        ):
            (line,) = lines_of(command, capsys)
            assert line.startswith("noiserobust: warning: runs: 3 of 5 runs passed over: plain-seed2-")
            assert "(it was interrupted, or still trains), plain-seed3-" in line
            assert "(training diverged in epoch 0: loss is nan), plain-seed4-killed (it was" in line
        for folder in [*runs.glob("plain-seed2-*"), runs / "plain-seed4-killed"]:
            line = refused(["evaluate", str(folder)], capsys)
            assert f"expected a finished run, got {folder}: it was interrupted, or still trains" in line
    finally:
        for folder in [*runs.glob("plain-seed[234]-*"), runs / "notes"]:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


class TestRangesOfTraining:
    CHIPS = Chips(converters=LEARNT)

    def test_a_plain_run_beside_others(
        self, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(runs.parent)
        words = ["--noise", "gaussian:0.1", "--draws", "1", "--converters", LEARNT]
        for command in ("evaluate", "sensitivity"):
            (line,) = lines_of([command, "runs", *words], capsys)
            assert line.startswith("noiserobust: warning: runs: 1 of 2 runs passed over: plain-seed0-")
            assert line.endswith(f"(training found no ranges for {LEARNT})")
        (plain,) = Path("runs").glob("plain-seed0-*")
        what = "expected a network with ranges that training found"
        assert what in refused(["evaluate", str(plain), *words], capsys)
        with pytest.raises(UserError, match=what):
            noiserobust.evaluate(["runs", f"other={plain}"], None, "gaussian:0.1", draws=1, images=50, chips=self.CHIPS)

    def test_it_takes_part_where_it_can(self, runs: Path, few: Splits) -> None:
        data = few.test
        for chips in (Chips(), Chips(converters="io:dac=8,adc=8")):
            rows = noiserobust.evaluate(str(runs), data, "gaussian:0.1", draws=1, chips=chips).rows
            assert rows["model"].nunique() == 2
        alone = noiserobust.evaluate(str(runs), data, "gaussian:0.1", draws=1, chips=self.CHIPS).rows
        (trained,) = alone["model"].unique()
        assert "seed1" in trained
        named = noiserobust.evaluate(trained, data, "gaussian:0.1", draws=1, chips=self.CHIPS).rows
        assert alone["value"].tolist() == named["value"].tolist()

    def test_layers_and_budgets(self, runs: Path, few: Splits) -> None:
        found = sensitivity(str(runs), few.test, "gaussian:0.1", draws=1, chips=self.CHIPS)
        assert found.rows["model"].str.contains("seed1").all()
        text = LEARNT.replace("adc=8", "adc={x}")
        bits = budget(str(runs), few.test, text, (2, 8), within=50.0, draws=1)
        assert bits.rows["model"].str.contains("seed1").all()
