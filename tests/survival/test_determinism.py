"""The same bytes of weights and the same rows, wherever and in whatever pieces they are computed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from harness import TINY, content
from processes import python

from noiserobust import evaluate
from noiserobust.cli import main
from noiserobust.evaluation import Compute
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.training import Run, TrainSettings, fit

COMMANDS = [
    ["train", *TINY, "--out", "runs"],
    ["evaluate", "runs", "--draws", "3", "--images", "40", "--out", "rows.parquet"],
]
OTHERWISE = {"PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Pacific/Auckland", "PYTHONUTF8": "0", "COLUMNS": "40"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("here")
    before = Path.cwd()
    os.chdir(place)
    try:
        for words in COMMANDS:
            main(words)
    finally:
        os.chdir(before)
    return place


def test_another_process_elsewhere(folder: Path, tmp_path: Path) -> None:
    """Hash seed, locale, time zone, terminal and folder are others."""
    place = tmp_path / "somewhere else"
    place.mkdir()
    code = f"from noiserobust.cli import main\nfor words in {COMMANDS!r}: main(words)"
    env = os.environ | OTHERWISE
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    python("-c", code, cwd=place, env=env)
    assert content(place) == content(folder)


def test_draws_in_parts_and_other_batches(folder: Path) -> None:
    whole = evaluate(folder / "runs", draws=6, images=40).rows
    parts = pd.concat([evaluate(folder / "runs", draws=range(*ends), images=40).rows for ends in ((0, 3), (3, 6))])
    noisy = whole["strength"] > 0
    assert set(map(tuple, whole[noisy][["draw", "metric", "value"]].to_numpy())) <= set(
        map(tuple, parts[["draw", "metric", "value"]].to_numpy())
    )
    small = evaluate(folder / "runs", draws=6, images=40, compute=Compute(batch_size=7)).rows
    for metric, most in {"accuracy": 0.0, "loss": 1e-5}.items():
        values = [rows[rows["metric"] == metric]["value"].to_numpy() for rows in (whole, small)]
        assert abs(values[0] - values[1]).max() <= most


LEARNT: dict[str, Any] = {"model": "digits:8", "method": "sam:0.1", "epochs": 3, "select_draws": 1}
"""36 steps, after which noise costs some of the accuracy."""
THREE_STEPS = LEARNT | {"model": "digits:4", "epochs": 1, "batch_size": 512}
"""Few, since rounding grows with the number of steps, and two threads on two busy cores take long."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    return fit(TrainSettings(**LEARNT), tmp_path_factory.mktemp("run"))


def apart(run: Run, other: Run) -> float:
    """|a - b| / |a| of all weights and buffers together."""
    pair = [read_checkpoint(one.folder).weights for one in (run, other)]
    a, b = (torch.cat([value.double().flatten() for _, value in sorted(weights.items())]) for weights in pair)
    return float((a - b).norm() / a.norm())


def values(run: Run, **compute: Any) -> dict[str, np.ndarray]:
    rows = evaluate(run, noises="gaussian:0.1", draws=5, compute=Compute(**compute)).rows
    return {metric: part["value"].to_numpy() for metric, part in rows.groupby("metric")}


def require_near(values: dict[str, np.ndarray], others: dict[str, np.ndarray], accuracy: float, loss: float) -> None:
    assert abs(values["accuracy"] - others["accuracy"]).max() <= accuracy
    assert abs(values["loss"] - others["loss"]).max() <= loss


def test_a_training_again(run: Run, tmp_path: Path) -> None:
    assert apart(run, fit(TrainSettings(**LEARNT), tmp_path)) == 0


def test_threads(run: Run, tmp_path: Path) -> None:
    settings = TrainSettings(**THREE_STEPS)
    one, rows = fit(settings, tmp_path / "one"), values(run)
    torch.set_num_threads(2)
    try:
        two, others = fit(settings, tmp_path / "two"), values(run)
    finally:
        torch.set_num_threads(1)
    assert apart(one, two) <= 1e-4
    require_near(rows, others, accuracy=0.0, loss=1e-6)


def test_memory_format(run: Run, tmp_path: Path) -> None:
    usual = TrainSettings(**LEARNT).channels_last
    other = fit(TrainSettings(**LEARNT, channels_last=not usual), tmp_path)
    assert apart(run, other) <= 1e-6
    require_near(values(run, channels_last=True), values(run, channels_last=False), accuracy=0.0, loss=1e-6)


@pytest.mark.parametrize("size", [7, 100])
def test_images_per_pass(run: Run, size: int) -> None:
    require_near(values(run), values(run, batch_size=size), accuracy=0.0, loss=2e-6)


def test_bf16_in_training(run: Run, tmp_path: Path) -> None:
    other = fit(TrainSettings(**LEARNT, precision="bf16"), tmp_path)
    assert 0 < apart(run, other) <= 0.01
    require_near(values(run), values(other), accuracy=3.0, loss=5e-3)


def test_bf16_in_evaluation(run: Run) -> None:
    exact, rounded = values(run), values(run, precision="bf16")
    require_near(exact, rounded, accuracy=1.5, loss=1e-3)
    assert (exact["loss"] != rounded["loss"]).any()
