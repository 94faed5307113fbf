"""What a newcomer types wrong: one line that says what was meant, before any work is done for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import get_args

import pytest
from commands import TINY, refused
from torch import nn

from noiserobust import evaluate
from noiserobust.cli import main
from noiserobust.cli.list import Family
from noiserobust.cli.options import progress_of_pieces
from noiserobust.errors import UserError
from noiserobust.evaluation import program, yields
from noiserobust.evaluation.monte_carlo import draw_numbers
from noiserobust.noise import NoiseModel
from noiserobust.report.design_tables import verdict
from noiserobust.spec.listing import FAMILIES
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.storage.weights import load_weights
from noiserobust.sweep.halving import rungs_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, and a run of another network."""
    place = tmp_path_factory.mktemp("slips")
    main(["train", *TINY, "--out", str(place / "runs"), "--quiet"])
    main(["train", *TINY, "--weight-clip", "1.5", "--out", str(place / "runs"), "--quiet"])
    main(["train", *TINY[:-4], "--model", "digits:2", "--select-draws", "1", "--out", str(place / "others"), "--quiet"])
    return place


@pytest.fixture(autouse=True)
def beside(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)


def test_a_file_for_one_methods_layers_is_refused_before_the_search(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["keep-digital", "runs", "--layers-out", "l.toml", "--out", "kept.parquet"], capsys)
    assert "got 2 ('plain, clip 1.5 rms', 'plain'); name those of one" in line
    assert not Path("kept.parquet").exists()
    assert not Path("kept.parquet.ledger").exists()


def test_runs_of_several_networks_beside_one_model(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["evaluate", "others", "--model", "digits:8", "--out", "o.parquet"], capsys)
    assert line.endswith("; it is a digits:2: give runs of digits:8 alone beside --model")
    weights = next(Path("others").iterdir()) / "model.safetensors"
    with pytest.raises(UserError, match="check --model and its width"):
        load_weights(nn.Linear(2, 2), read_checkpoint(weights).weights, weights)


class TestMeasuredChips:
    def test_too_many_draws_are_refused_before_the_first(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = str(next(Path("others").iterdir()))
        program(run, "pcm", "few", chips=2)
        line = refused(["evaluate", run, "--noise", "chips:few", "--images", "10", "--out", "few.parquet"], capsys)
        assert "expected at most 2 draws, one for each chip of chips:few" in line
        assert line.endswith("got 10; ask for 2")
        assert not Path("few.parquet.ledger").exists()

    @pytest.mark.parametrize("text", ["{}", "{}+gaussian:0.1", "cells({},number=2)", "quantize:4+cells({},number=2)"])
    def test_wherever_they_stand_in_a_noise(self, text: str) -> None:
        if not Path("three").exists():
            program(str(next(Path("others").iterdir())), "pcm", "three", chips=3)
        chips = "chips(three)" if "cells" in text else "chips:three"
        noise = NoiseModel.parse(text.format(chips))
        assert noise.measured_chips == 3
        assert draw_numbers(range(3), [noise]) == range(3)
        with pytest.raises(UserError, match="at most 3 draws"):
            draw_numbers(range(2, 4), [NoiseModel.parse("gaussian:0.1"), noise])
        assert NoiseModel.parse("chips:three,strength=0").measured_chips is None
        assert NoiseModel.parse("sliced(pcm,bits=2,slices=4)").measured_chips is None

    def test_targets_are_no_chips_but_may_be_taken_as_one(self) -> None:
        run = str(next(Path("others").iterdir()))
        program(run, "pcm", "targets")
        with pytest.raises(UserError, match=r"got targets.safetensors alone, .* targets/targets.safetensors$"):
            evaluate(run, noises="chips:targets", draws=1, images=10)
        perfect = evaluate(run, noises=["gaussian:0", "chips:targets/targets.safetensors"], draws=1, images=10)
        assert perfect.rows.groupby("metric")["value"].nunique().tolist() == [1, 1]

    def test_one_network_is_programmed_at_a_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "got 2: every chip holds one; name one run" in refused(["program", "runs", "--out", "c"], capsys)


@pytest.mark.parametrize(
    ("words", "end"),
    [
        (["evaluate", "runs", "--page", "p.html"], "got --page, which is one of train, sweep, report"),
        (["report", "rows.parquet", "--epochs", "3"], "got --epochs, which is one of train, recommend, sweep, demo"),
        (["evaluate", "runs", "--draw", "3"], "got --draw; did you mean --draws?"),
        (["train", "--seeds", "1,2"], "expected a whole number (several with spaces between them), got '1,2'"),
        (["train", "--epochs", "1,2"], "expected a whole number, got '1,2'"),
        (["evaluate", "run"], "got run: there is none; did you mean runs?"),
        (["evaluate", "nothing/here"], "got nothing/here: there is none"),
        (["evaluate", "."], "got .: it holds none"),
        (["evaluate", "runs", "--noise", "0.1"], "expected a noise model such as gaussian:0.05 (name:value,key=value)"),
        (["evaluate", "runs", "--noise", "gaussian=0.1"], "did you mean gaussian:0.1?"),
        (["sweep", "--vary", "method=plain,sam:0.2"], "got 'plain,sam:0.2'; values are separated by |"),
        (["sweep", "--vary", "method=plain|sma"], "did you mean sam?"),
        (["budget", "runs", "--vary", "gaussian:{y}", "--between", "0", "1"], "gaussian:{x}, got 'gaussian:{y}'"),
        (["budget", "runs", "--vary", "gaussian:x", "--between", "0", "1"], "gaussian:{x}, got 'gaussian:x'"),
        (["report", "runs"], "got the folder runs; evaluate makes rows of the runs in one"),
        (["train", "--weight-clip", "0.5"], "1.25 to 4 is usual"),
    ],
)
def test_what_was_meant(words: list[str], end: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert end in refused(words, capsys)


def test_every_family_that_list_shows_can_be_listed() -> None:
    assert set(get_args(Family)) == set(FAMILIES)


class TestRows:
    @pytest.fixture
    def rows(self) -> str:
        result = evaluate(["runs"], noises="gaussian:0.1", draws=2, images=20)
        result.rows.to_parquet("rows.parquet")
        return "rows.parquet"

    def test_names_with_commas_are_told_apart(self, rows: str, capsys: pytest.CaptureFixture[str]) -> None:
        line = refused(["report", rows, "--baseline", "plan"], capsys)
        assert "('plain, clip 1.5 rms', 'plain'), got 'plan'; did you mean 'plain'?" in line
        assert refused(["report", rows, "--baseline", "x"], capsys).endswith("got 'x'")

    def test_conditions(self, rows: str, capsys: pytest.CaptureFixture[str]) -> None:
        line = refused(["report", rows, "--where", "method = plain"], capsys)
        assert line.endswith("got 'method = plain': equal is ==, and texts are quoted: method == 'plain'")
        assert "equal is ==" not in refused(["report", rows, "--where", "'a = b' + 1"], capsys)

    def test_more_than_all_chips_can_reach(self, rows: str) -> None:
        with pytest.raises(UserError, match="that can be reached as above, got 170; 90 for 90 %"):
            yields(rows, above=170)
        assert yields(rows, above=100).summary()["reached"].max() == 0
        assert yields(rows, above=170, metric="loss").summary()["reached"].min() == 2  # nats, of which less is better


def test_a_budget_is_told_as_it_was_given() -> None:
    with pytest.raises(UserError, match=r"at least 284 passes \(14 to search 8 candidates, 270 .*, got 100;"):
        rungs_of([1.0] * 8, 30, budget=-170, kept=270)
    assert rungs_of([1.0] * 8, 30, budget=14, kept=270)[-1].epochs == 1


def test_one_layer_is_one() -> None:
    line = {"metric": "accuracy", "lost": 1.0, "lost_low": float("nan"), "lost_high": float("nan")}
    assert verdict(line | {"layers": ["a"]}, 2).startswith("1 layer digital: ")
    assert verdict(line | {"layers": []}, 2).startswith("0 layers digital: ")


def test_a_bar_of_pieces_ends_with_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    piece = type("Piece", (), {"name": "train plain seed 0"})()
    with progress_of_pieces(quiet=False) as tell:
        for done in range(3):
            time.sleep(0.2)  # no bar is shown of what is done at once
            tell(piece, done + 1, 3)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert shown.endswith("\n")


def test_nothing_was_left_behind(runs: Path) -> None:
    assert not [path for path in runs.rglob("*") if path.name.startswith(".")]
