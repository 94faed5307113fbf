"""The door of evaluation: what models, data and texts may be, and what the answers can do."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from noiserobust import Stream, UserError, evaluate, load_run
from noiserobust.data import Splits, load
from noiserobust.evaluation import (
    Axis,
    Chips,
    Compute,
    Result,
    Stop,
    Where,
    budget,
    corrupted,
    keep_digital,
    landscape,
    sensitivity,
    sharpness,
    trajectories,
    yields,
)
from noiserobust.evaluation.design.layers import OfLayers
from noiserobust.evaluation.settings import grouped
from noiserobust.models import DigitsNet
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.training import TrainSettings, fit

NOISE = "gaussian:0.2"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        fit(TrainSettings(model=DigitsNet(width=2), epochs=1, seed=seed), folder)
    return folder


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return Stream(0, "x").normal((30, 1, 8, 8)), torch.arange(30) % 10


def told(rows: pd.DataFrame) -> list[tuple[str, int, float]]:
    return list(zip(rows["method"], rows["replicate"], rows["value"], strict=True))


class TestModelsAndData:
    def test_one_run_named_in_every_way(self, runs: Path) -> None:
        folder = sorted(runs.iterdir())[0]
        run = fit(TrainSettings(model=DigitsNet(width=2), epochs=1, seed=0), runs)  # it is there already
        assert run.folder == folder
        ways = [
            folder,
            str(folder),
            folder / "model.safetensors",
            read_checkpoint(folder),
            run,
            [run],
            {"plain": folder},
            f"plain={folder}",
        ]
        rows = [told(evaluate(way, "digits", NOISE, 2, images=40).rows) for way in ways]
        assert all(one == rows[0] for one in rows)
        assert {(method, replicate) for method, replicate, _ in rows[0]} == {("plain", 0)}

    def test_a_folder_of_runs_is_all_of_them(self, runs: Path) -> None:
        both = told(evaluate(runs, "digits", NOISE, 1, images=40).rows)
        assert both == told(evaluate(sorted(runs.iterdir()), "digits", NOISE, 1, images=40).rows)
        assert {replicate for _, replicate, _ in both} == {0, 1}
        named = evaluate({"mine": str(runs)}, "digits", NOISE, 1, images=40).rows
        assert told(named) == [("mine", replicate, value) for _, replicate, value in both]

    def test_without_data_those_of_training(self, runs: Path) -> None:
        rows = evaluate(runs, noises=NOISE, draws=1).rows
        assert set(rows["given"]) == {""}
        for data in ("digits", load("digits")):
            named = evaluate(runs, data, NOISE, 1).rows
            assert set(named["given"]) == {"--data digits"}
            pd.testing.assert_frame_equal(rows, named.assign(given=rows["given"]))

    def test_a_module_does_not_say_its_data(self) -> None:
        with pytest.raises(UserError, match=r"expected data, since Linear\[0\] does not say what it was trained on"):
            evaluate(nn.Linear(2, 2))

    def test_both_parts_serve(self, data: tuple[Tensor, Tensor]) -> None:
        """Batch norm learns from the training part, measures are taken where they are asked for."""
        x, y = data
        splits, net = Splits((x[:20], y[:20]), (x[20:], y[20:])), DigitsNet(width=2).build(1, 10)
        chips = Chips(recalibration=10)
        by_hand = evaluate(net, splits.test, NOISE, 1, chips=Chips(recalibration=10, calibration=splits.train)).rows
        assert told(evaluate(net, splits, NOISE, 1, chips=chips).rows) == told(by_hand)
        train, test = (sharpness(net, splits, "loss", part=part).rows for part in ("train", "test"))
        assert told(train) == told(sharpness(net, (x[:20], y[:20]), "loss").rows)
        assert told(test) == told(sharpness(net, (x[20:], y[20:]), "loss").rows)

    @pytest.mark.parametrize("models", [None, 3])
    def test_what_is_no_model_is_refused(self, models: Any) -> None:
        with pytest.raises(UserError, match="expected a module, a checkpoint, a run, their path, or several, got"):
            evaluate(models, "digits")


class TestMetrics:
    def test_one_needs_no_list(self, data: tuple[Tensor, Tensor]) -> None:
        rows = evaluate(DigitsNet(width=2).build(1, 10), data, NOISE, 1, metrics="perplexity").rows
        assert set(rows["metric"]) == {"accuracy", "loss", "perplexity"}

    @pytest.mark.parametrize(("name", "value"), [("accuracy", 1.0), ("loss", 1.0), ("mine", None), ("mine", "text")])
    def test_what_gives_no_number_or_takes_a_name_is_refused(
        self, name: str, value: Any, data: tuple[Tensor, Tensor]
    ) -> None:
        with pytest.raises(UserError, match=f"expected .* {name}|named '{name}'"):
            evaluate(DigitsNet(width=2).build(1, 10), data, NOISE, 1, metrics={name: lambda logits, labels: value})


class TestDraws:
    def test_a_range_is_a_part_of_all(self, data: tuple[Tensor, Tensor]) -> None:
        net = DigitsNet(width=2).build(1, 10)
        all_of_them = evaluate(net, data, [NOISE, "gaussian:0"], 5).rows
        part = evaluate(net, data, [NOISE, "gaussian:0"], range(2, 5)).rows
        expected = all_of_them[all_of_them["draw"] >= 2].reset_index(drop=True)
        pd.testing.assert_frame_equal(part, expected)

    @pytest.mark.parametrize("draws", [0, -1, range(0), range(-2, 3), "3", 2.5])
    def test_none_and_negative_ones_are_refused(self, draws: Any, data: tuple[Tensor, Tensor]) -> None:
        with pytest.raises(UserError, match="expected draws >= 1, got"):
            evaluate(DigitsNet(width=2).build(1, 10), data, NOISE, draws)


class TestValues:
    def test_flags_find_their_value(self) -> None:
        flat = {"draws": 3, "reads": 2, "device": "cpu", "fold": False, "include": ["a"], "model": None}
        assert grouped(flat) == {
            "draws": 3,
            "model": None,
            "chips": Chips(reads=2),
            "compute": Compute(device="cpu", fold=False),
            "where": Where(include=["a"]),
        }


def coded(channels: int, classes: int) -> nn.Module:
    """A network that is code: a run of it is only opened by one who names it."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, 16), nn.ReLU(), nn.Linear(16, classes))


CODE = "factory:test_door:coded"


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = TrainSettings(model=CODE, epochs=1, batch_size=400, select_draws=1)
    return fit(settings, tmp_path_factory.mktemp("code")).folder


QUESTIONS = {
    "evaluate": evaluate,
    "sensitivity": sensitivity,
    "keep_digital": keep_digital,
    "budget": budget,
    "sharpness": sharpness,
    "landscape": landscape,
    "corrupted": corrupted,
    "trajectories": trajectories,
    "yields": yields,
}


class TestSameWords:
    @pytest.mark.parametrize("name", QUESTIONS)
    def test_parameters(self, name: str) -> None:
        """What stands in several signatures means the same there: kind and type, and the same default."""
        told = inspect.signature(QUESTIONS[name]).parameters
        usual = inspect.signature(evaluate).parameters
        for word in told.keys() & usual.keys() - {"data", "noises", "draws", "out"}:
            assert str(told[word]) == str(usual[word])
        for word in told.keys() & {"draws", "noises", "data"}:
            assert told[word].kind is usual[word].kind
        if "draws" in told:
            assert told["draws"].annotation == "int | range"
        if name not in ("yields", "trajectories"):
            assert list(told)[:2] == ["models", "data"]
            assert {"images", "model", "compute", "where", "out", "progress", "seed"} <= told.keys()
        assert len(told) <= 17

    @pytest.mark.parametrize(
        "kind", Result.__subclasses__() + OfLayers.__subclasses__(), ids=lambda kind: kind.__name__
    )
    def test_answers(self, kind: type[Result]) -> None:
        """Further options of an answer are named."""
        for method in ("summary", "table", "plot"):
            usual = list(inspect.signature(getattr(Result, method)).parameters.values())
            told = list(inspect.signature(getattr(kind, method)).parameters.values())
            assert told[: len(usual)] == usual
            assert all(further.kind is further.KEYWORD_ONLY for further in told[len(usual) :])

    @pytest.mark.parametrize("name", QUESTIONS)
    def test_a_run_whose_network_is_code_is_named_once(self, name: str, code: Path, folder: Path) -> None:
        question, few = QUESTIONS[name], {"images": 10}
        run = load_run(code, model=CODE)
        options: dict[str, Any] = {
            "evaluate": few,
            "sensitivity": few | {"draws": 1},
            "keep_digital": few | {"draws": 1},
            "budget": few | {"draws": 1, "axis": Axis(points=2, tolerance=0.5)},
            "sharpness": few | {"measures": "loss"},
            "landscape": few | {"dimensions": 1, "points": 3},
            "corrupted": few | {"data": folder, "corruptions": ["fog"]},
            "trajectories": {},
            "yields": {"above": 50},
        }
        models = evaluate(run, draws=2, **few) if name == "yields" else [run]
        assert not question(models, **options[name]).rows.empty

    def test_its_path_does_not_start_it(self, code: Path) -> None:
        with pytest.raises(UserError, match=f"expected --model {CODE}: .* which only you may start by name"):
            evaluate(code, noises=NOISE, draws=1)
        assert not evaluate(code, noises=NOISE, draws=1, images=10, model=CODE).rows.empty

    def test_runs_and_labels_side_by_side(self, runs: Path) -> None:
        one, two = sorted(runs.iterdir())
        rows = evaluate([load_run(one), f"other={two}"], noises=NOISE, draws=1, images=40).rows
        assert set(zip(rows["method"], rows["replicate"], strict=True)) == {("plain", 0), ("other", 1)}
        both = evaluate([load_run(one), load_run(two)], noises=NOISE, draws=1, images=40).rows
        assert told(both) == told(evaluate(runs, noises=NOISE, draws=1, images=40).rows)
        assert sensitivity(load_run(one), draws=range(2, 4), images=10, groups=["*conv*"]).rows[
            "draw"
        ].unique().tolist() == [2, 3]

    def test_yields_of_a_file(self, runs: Path, tmp_path: Path) -> None:
        result = evaluate(runs, noises=NOISE, draws=3, images=40, out=tmp_path / "rows.parquet")
        stored = yields(tmp_path / "rows.parquet", above=50).summary()
        pd.testing.assert_frame_equal(stored, yields(result, above=50).summary())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corrupted images."""
    folder = tmp_path_factory.mktemp("corrupted")
    generator = np.random.default_rng(0)
    np.save(folder / "fog.npy", generator.integers(0, 256, (50, 8, 8, 1), dtype=np.uint8))
    np.save(folder / "labels.npy", np.tile(range(10), 5))
    return folder


@pytest.fixture(scope="module")
def answers(runs: Path, folder: Path) -> dict[str, Result]:
    swept = sharpness(runs, None, "average_sharpness:gaussian(0.1)", strengths=[0.1, 0.2], images=40)
    return {
        "evaluate": (whole := evaluate(runs, noises=[NOISE, "gaussian:0.4"], draws=2, images=40)),
        "to a precision": evaluate(runs, noises=[NOISE, "gaussian:0.4"], precision_target=10.0),
        "sharpness": swept,
        "landscape": landscape(runs, None, 1, points=3, images=40),
        "corrupted": corrupted(runs, folder, corruptions=["fog"]),
        "trajectories": trajectories(runs),
        "sensitivity": sensitivity(runs, draws=2, images=20, groups=["*conv*"]),
        "keep_digital": keep_digital(runs, draws=2, images=20, groups=["*conv*"], stop=Stop(max_layers=1)),
        "budget": budget(runs, within=5.0, draws=2, images=20, axis=Axis(points=3, tolerance=0.1)),
        "yields": yields(whole, above=50),
    }


class TestAnswers:
    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("evaluate", ["sigma 0.2", "2 models x 2 draws"]),
            ("to a precision", ["image passes"]),
            ("sharpness", ["average_sharpness"]),
            ("landscape", ["loss in the middle"]),
            ("corrupted", ["severity 5, mean over 1 corruptions"]),
            ("trajectories", ["epoch", "perturbed_accuracy"]),
            ("sensitivity", ["all layers"]),
            ("keep_digital", ["clean"]),
            ("budget", ["gaussian:{x}"]),
            ("yields", ["each bound alone"]),
        ],
    )
    def test_every_answer_can_be_read_and_drawn(
        self, name: str, words: list[str], answers: dict[str, Result], tmp_path: Path
    ) -> None:
        answer = answers[name]
        assert not answer.rows.empty
        assert not answer.summary().empty
        for word in words:
            assert word in str(answer)
            assert word in answer.table(markdown=True)
        assert "<table" in answer._repr_html_()
        assert answer.plot(tmp_path / "picture.png", confidence=0.9).axes
        assert answer.table(confidence=0.9)
        assert (tmp_path / "picture.png").stat().st_size > 1000
        if name not in ("trajectories", "yields"):
            assert all(0 < covered.noisy < covered.total for covered in answer.coverage.values())
            assert len(answer.coverage) == 2


def test_data_that_were_handed_to_training_are_no_named_ones(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    run = fit(TrainSettings(model=DigitsNet(width=2), epochs=1), tmp_path, splits=Splits(data, data))
    with pytest.raises(UserError, match="were handed to fit without a name; give them"):
        evaluate(run, noises=NOISE, draws=1)
    assert len(evaluate(run, data, NOISE, 1).rows) == 2
    assert len(repr(run)) < 200
