"""The same bytes of weights and the same rows, wherever and in whatever pieces they are computed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from harness import TINY, content
from processes import python

from noiserobust import evaluate
from noiserobust.cli import main
from noiserobust.evaluation import Compute

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
