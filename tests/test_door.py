"""The door of evaluation: what models, data and texts may be, and what the answers can do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from noiserobust import Stream, UserError, evaluate
from noiserobust.data import Splits, load
from noiserobust.evaluation import (
    Chips,
    Compute,
    Result,
    Where,
    corrupted,
    landscape,
    sharpness,
    trajectories,
)
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
        pd.testing.assert_frame_equal(rows, evaluate(runs, "digits", NOISE, 1).rows)
        pd.testing.assert_frame_equal(rows, evaluate(runs, load("digits"), NOISE, 1).rows)

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


class TestDraws:
    def test_a_range_is_a_part_of_all(self, data: tuple[Tensor, Tensor]) -> None:
        net = DigitsNet(width=2).build(1, 10)
        all_of_them = evaluate(net, data, [NOISE, "gaussian:0"], 5).rows
        part = evaluate(net, data, [NOISE, "gaussian:0"], range(2, 5)).rows
        expected = all_of_them[all_of_them["draw"] >= 2].reset_index(drop=True)
        pd.testing.assert_frame_equal(part, expected)

    @pytest.mark.parametrize("draws", [0, -1, range(0), range(-2, 3)])
    def test_none_and_negative_ones_are_refused(self, draws: int | range, data: tuple[Tensor, Tensor]) -> None:
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

    def test_values_load_no_torch(self) -> None:
        path = Path(sys.modules["noiserobust.evaluation.settings"].__file__ or "")
        code = f"import runpy, sys; runpy.run_path({str(path)!r}); print('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.fixture(scope="module")
def answers(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    folder = tmp_path_factory.mktemp("corrupted")
    generator = np.random.default_rng(0)
    np.save(folder / "fog.npy", generator.integers(0, 256, (50, 8, 8, 1), dtype=np.uint8))
    np.save(folder / "labels.npy", np.tile(range(10), 5))
    swept = sharpness(runs, None, "average_sharpness:gaussian(0.1)", strengths=[0.1, 0.2], images=40)
    return {
        "evaluate": evaluate(runs, noises=[NOISE, "gaussian:0.4"], draws=2, images=40),
        "to a precision": evaluate(runs, noises=[NOISE, "gaussian:0.4"], precision_target=10.0),
        "sharpness": swept,
        "landscape": landscape(runs, None, 1, points=3, images=40),
        "corrupted": corrupted(runs, folder, corruptions=["fog"]),
        "trajectories": trajectories(runs),
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
        assert answer.plot(tmp_path / "picture.png").axes
        assert (tmp_path / "picture.png").stat().st_size > 1000
        if name != "trajectories":
            assert all(0 < covered.noisy < covered.total for covered in answer.coverage.values())
            assert len(answer.coverage) == 2

    def test_asking_loads_no_matplotlib(self) -> None:
        code = "import sys, noiserobust.evaluation; print('matplotlib' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
