"""What people meet first: names of methods that tell them apart, data that moved, what is finished already, loggers."""

from __future__ import annotations

import csv
import logging
import os
import re
import shutil
import sys
import types
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import TINY, refused
from methods import few_digits
from PIL import Image
from torch import nn

from noiserobust import coverage
from noiserobust.cli import main
from noiserobust.errors import UserError
from noiserobust.evaluation import estimates, evaluate
from noiserobust.evaluation.labels import told_apart
from noiserobust.models import ModelSpec
from noiserobust.noise import Gaussian
from noiserobust.report.durations import spoken
from noiserobust.training import CSV, Logger, Run, TrainSettings, fit


def settings(**changes: Any) -> TrainSettings:
    few = {"model": ModelSpec.parse("digits:2"), "epochs": 2, "batch_size": 32, "select_draws": 1, "validation": 0.2}
    return TrainSettings(**(few | changes))


class TestLabels:
    def test_runs_that_differ_in_a_setting_are_different_methods(self, tmp_path: Path) -> None:
        data = few_digits(60)
        runs = [fit(settings(**one), tmp_path, splits=data) for one in ({}, {"lr": 0.1}, {"lr": 0.1, "seed": 1})]
        methods = evaluate(runs, data, draws=1, images=20).rows[["method", "replicate"]].drop_duplicates()
        assert methods.to_numpy().tolist() == [["plain, lr 0.05", 0], ["plain, lr 0.1", 0], ["plain, lr 0.1", 1]]
        assert set(evaluate(runs[1:], data, draws=1, images=20).rows["method"]) == {"plain"}

    def test_given_labels_and_unknown_settings_stay(self) -> None:
        given = {"label": "mine", "labelled": True, "settings": {"lr": 1.0}}
        assert told_apart([given, {**given, "settings": {"lr": 2.0}}]) == ["mine", "mine"]
        older = [{"label": "plain", "settings": one} for one in ({"lr": 1.0}, {"lr": 1.0, "cutout": 8})]
        assert told_apart([*older, {}]) == ["plain", "plain", ""]
        flags = [{"label": "a", "settings": {"flip": one, "seed": 0, "epochs": 1}} for one in (True, None, False)]
        assert told_apart(flags) == ["a, flip on", "a, flip default", "a, flip off"]


class TestMovedData:
    @pytest.fixture
    def trained(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        pixels = np.random.default_rng(0)
        for part, name, number in ((p, c, i) for p in ("train", "test") for c in "ab" for i in range(8)):
            place = tmp_path / "images" / part / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place / f"{number}.png")
        monkeypatch.chdir(tmp_path)
        main(["train", "--data", "images", "--epochs", "1", "--batch-size", "8", "--model", "resnet9:2"])
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        return tmp_path

    def test_relative_data_are_found_from_any_folder(self, trained: Path) -> None:
        assert not evaluate(trained / "runs", draws=1).rows.empty

    def test_data_that_moved_are_named_with_what_mends_it(
        self, trained: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.move(trained / "images", trained / "pictures")
        line = refused(["evaluate", str(trained / "runs"), "--draws", "1"], capsys)
        for word in ("model.safetensors", "'images'", "--data PLACE"):
            assert word in line
        main(["evaluate", str(trained / "runs"), "--draws", "1", "--data", str(trained / "pictures")])


class Remembering:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def start(self, settings: Mapping[str, Any]) -> None:
        self.told.append(settings)

    def epoch(self, values: Mapping[str, Any]) -> None:
        self.told.append(values["epoch"])

    def end(self, result: Run | None) -> None:
        self.told.append(result)


def test_short_draws_are_timed_beside_a_long_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """An opening of a second, more or less, hides a few draws of 10 ms: their time must not come out as nothing."""
    clock, number = [0.0], count(0)

    def evaluation(network: Any, data: Any, noise: Any, draws: int, *, images: int, **given: Any) -> None:
        clock[0] += 1.0 + 0.1 * (next(number) % 2 == 0) + draws * 0.01

    monkeypatch.setattr(estimates, "evaluate", evaluation)
    monkeypatch.setattr(estimates.time, "perf_counter", lambda: clock[0])
    network, few = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), few_digits(60).test
    expected = estimates.expected_seconds(network, few, "gaussian:0.1", 100_000)
    assert expected == pytest.approx(1000, rel=0.15)


class TestLoggers:
    def test_they_follow_a_run_and_a_finished_one_has_none(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        mine, file = Remembering(), tmp_path / "all.csv"
        assert isinstance(mine, Logger)
        run = fit(settings(), tmp_path / "runs", splits=few_digits(60), loggers=[mine, f"csv:{file}"])
        about, *epochs, result = mine.told
        assert (about["label"], about["folder"], about["lr"]) == ("plain", str(run.folder), 0.05)
        assert (epochs, result) == ([0, 1], run)
        with caplog.at_level(logging.INFO, "noiserobust"):
            fit(settings(), tmp_path / "runs", splits=few_digits(60), loggers=mine)
        assert len(mine.told) == 4
        assert "is finished already: it is not trained again" in caplog.text
        fit(settings(seed=1), tmp_path / "runs", splits=few_digits(60), loggers=CSV(file))
        lines = list(csv.DictReader(file.read_text().splitlines()))
        assert [(line["label"], line["seed"], line["epoch"]) for line in lines] == [
            ("plain", seed, epoch) for seed in "01" for epoch in "01"
        ]
        assert float(lines[1]["train_loss"]) == run.log["train_loss"][1]

    @pytest.mark.parametrize("kind", ["csv", "tensorboard"])
    def test_places_that_are_none_are_refused_before_the_work(self, kind: str, tmp_path: Path) -> None:
        place = tmp_path / "pipe"
        os.mkfifo(place)
        with pytest.raises(UserError, match=r"expected the name of a (file|folder) to write"):
            fit(settings(), tmp_path / "runs", splits=few_digits(60), loggers=f"{kind}:{place}")
        assert not [*tmp_path.rglob("resume.pt")]

    def test_runs_at_once_share_a_file(self, tmp_path: Path) -> None:
        """One heading, whole lines, also after one that a process left half-written when it was killed."""
        file = tmp_path / "all.csv"
        loggers = [CSV(file) for _ in range(4)]

        def follow(number: int) -> None:
            loggers[number].start({"label": f"run {number}", "seed": number})
            for epoch in range(20):
                loggers[number].epoch({"epoch": epoch, "loss": 0.5})

        with ThreadPoolExecutor() as threads:
            list(threads.map(follow, range(4)))
        with file.open("a") as opened:
            opened.write("run 0,0")
        loggers[1].epoch({"epoch": 20, "loss": 0.5})
        lines = [tuple(line) for line in csv.reader(file.read_text().splitlines())]
        assert lines[0] == ("label", "seed", "epoch", "loss")
        assert set(lines[1:-2]) == {(f"run {n}", str(n), str(epoch), "0.5") for n in range(4) for epoch in range(20)}
        assert lines[81:] == [("run 0", "0"), ("run 1", "1", "20", "0.5")]

    def test_a_training_that_breaks_off_ends_them(self, tmp_path: Path) -> None:
        mine = Remembering()
        with pytest.raises(UserError, match="diverged"):
            fit(settings(lr=1e38), tmp_path, splits=few_digits(60), loggers=mine)
        assert mine.told[-1] is None

    def test_wandb_by_the_same_interface(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[Any] = []
        run = types.SimpleNamespace(
            log=lambda values, step: calls.append((step, values["train_loss"])),
            finish=lambda exit_code: calls.append(exit_code),
        )
        module = types.ModuleType("wandb")
        module.init = lambda **given: calls.append(given) or run  # type: ignore[attr-defined]
        module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, "wandb", module)
        trained = fit(settings(epochs=1), tmp_path, splits=few_digits(60), loggers="wandb:chips")
        given, line, code = calls
        assert (given["project"], given["name"], given["config"]["epochs"]) == ("chips", trained.folder.name, 1)
        assert (line, code) == ((0, pytest.approx(trained.log["train_loss"][0])), 0)

    def test_tensorboard_reads_what_was_logged(self, tmp_path: Path) -> None:
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        run = fit(settings(), tmp_path, splits=few_digits(60), loggers="tensorboard")
        events = accumulator.EventAccumulator(str(run.folder / "tensorboard")).Reload()
        logged = [scalar.value for scalar in events.Scalars("perturbed_accuracy")]
        assert logged == pytest.approx(run.log["perturbed_accuracy"].tolist())

    def test_what_is_no_logger_is_refused_before_training(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("noiserobust.training.loggers.find_spec", lambda name: None)
        for logger, words in {
            "tensorboard": r"tensorboard .*noiserobust\[tensorboard\]",
            "wandb": "pip install wandb",
            "tensorbord": "csv, tensorboard, wandb",
            "no.such:Thing": "No module named 'no'",
            "math:pi": "got float without start",
        }.items():
            with pytest.raises(UserError, match=words):
                fit(settings(), "nowhere", loggers=logger)


def test_a_finished_run_says_so_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", *TINY, "--out", str(tmp_path)]
    main(command)
    assert "finished already" not in capsys.readouterr().err
    main(command)
    assert "is finished already: it is not trained again" in capsys.readouterr().err


def test_time_is_told_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [spoken(one) for one in (0.2, 61, 86399)] == ["1 s", "1 min 1 s", "23 h"]
    few = [*TINY, "--out", str(tmp_path / "runs")]
    main(["train", *few, "--seeds", "0", "1", "--dry-run"])
    assert "2 of 2 missing" in (planned := capsys.readouterr().out)
    assert re.search(r"about \d+ s each, \d+ s in all", planned)
    assert not (tmp_path / "runs").exists()
    main(["train", *few])
    main(["train", *few, "--seeds", "0", "1", "--dry-run"])
    assert "1 of 2 missing" in capsys.readouterr().out
    taught = ["train", *few, "--method", "rwp:gaussian(0.1)", "--teacher", "plain", "--seeds", "0", "1", "--dry-run"]
    main(taught)  # the plain network of seed 0 is there
    head, *runs, time = capsys.readouterr().out.splitlines()
    assert head == "2 of 2 missing"
    assert [re.sub(r".*/|-\w{8}$", "", line) for line in runs] == [
        *("rwp-gaussian-0.1-distilled-0.5-tau-2-seed0", "rwp-gaussian-0.1-distilled-0.5-tau-2-seed1"),
        *("and the plain networks that teach them", "plain-seed1"),
    ]
    assert re.match(r"about \d+ s each, \d+ s in all", time)
    main(["evaluate", str(tmp_path / "runs"), "--dry-run", "--out", str(tmp_path / "rows.parquet")])
    assert capsys.readouterr().out.startswith("about ")
    assert not (tmp_path / "rows.parquet").exists()
    main(["sweep", *TINY, "--vary", "method=plain|sam:0.2", "--out", str(tmp_path / "sweep"), "--dry-run"])
    assert re.search(r"about .* for trainings, then .* for evaluations", capsys.readouterr().out)


def test_notebooks_show_tables_whose_names_are_escaped(tmp_path: Path) -> None:
    data = few_digits(60)
    layers = {"a<b": torch.nn.Flatten(), "c<d": torch.nn.Linear(64, 10), "e": torch.nn.Linear(10, 10)}
    network = torch.nn.Sequential(OrderedDict(layers))
    shown = coverage(network, inputs=torch.zeros(1, 1, 8, 8))._repr_html_()
    assert "c&lt;d.weight" in shown
    assert "c<d" not in shown
    assert "10x64" in shown
    result = evaluate({"<b>x": network}, data, draws=2, images=20)
    html = result._repr_html_()
    assert "&lt;b&gt;x" in html
    assert html.count("<th>") <= 10 < len(result.summary().columns)
    assert Gaussian(0.1)._repr_html_() == "<code>gaussian:0.1</code>"
