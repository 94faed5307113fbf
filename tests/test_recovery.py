"""Runs whose files are damaged, lost, another run's or another process's: nothing is taken for what it is not."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
from methods import few_digits

from noiserobust.data import Splits
from noiserobust.errors import UserError
from noiserobust.models import DigitsNet
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.storage.logs import write_log
from noiserobust.training import TrainSettings, fit
from noiserobust.training.runs import run_of

CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.one, self.two = nn.Linear(64, 6), nn.Linear(6, classes)

    def forward(self, x):
        return self.two({0}(self.one(x.flatten(1))))


def net(channels, classes):
    return Net(classes)
"""
"""A network of one's own, with a function to choose."""


@pytest.fixture(scope="module")
def splits() -> Splits:
    return few_digits(200)


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**{"model": DigitsNet(2), "epochs": 2, "batch_size": 90, "select_draws": 1} | changes)


def stop_after(epoch: int) -> Callable[[dict[str, Any]], None]:
    def on_epoch(line: dict[str, Any]) -> None:
        if line["epoch"] == epoch:
            raise KeyboardInterrupt

    return on_epoch


@pytest.mark.parametrize("size", [0, 1000, -1])
def test_a_damaged_state_is_set_aside(splits: Splits, tmp_path: Path, size: int, caplog: Any) -> None:
    """Cut short, or with one bit that flipped: the run is trained anew, to the same bytes, in one line."""
    with pytest.raises(KeyboardInterrupt):
        fit(settings(), tmp_path / "one", splits=splits, on_epoch=stop_after(0))
    (state,) = tmp_path.glob("*/*/resume.pt")
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content[:size])
    run = fit(settings(), tmp_path / "one", splits=splits)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("is damaged; kept as resume.pt.corrupt, the run is trained anew")
    assert sorted(path.name for path in run.folder.iterdir()) == ["log.csv", "model.safetensors", "resume.pt.corrupt"]
    whole = fit(settings(), tmp_path / "whole", splits=splits)
    assert run.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


def test_another_run_s_state_is_refused(splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(settings(), tmp_path, splits=splits, on_epoch=stop_after(0))
    (state,) = tmp_path.glob("*/resume.pt")
    for others in (settings(seed=1), settings(lr=0.1), settings(method="sam:0.1")):
        run = run_of(others, tmp_path, splits)
        run.folder.mkdir()
        shutil.copy(state, run.state)
        with pytest.raises(UserError, match=f"expected the state of the run {run.folder.name}, got that of plain"):
            fit(others, tmp_path, splits=splits)
        assert run.state.is_file()


def test_the_last_line_of_the_log_is_not_lost(splits: Splits, tmp_path: Path) -> None:
    """Killed when the last epoch's state is written and its log is not."""
    epochs = settings().epochs
    with patch("noiserobust.training.trainer.write_log", killed_at(epochs)), pytest.raises(KeyboardInterrupt):
        fit(settings(), tmp_path, splits=splits)
    (log,) = tmp_path.glob("*/log.csv")
    assert len(pd.read_csv(log)) == epochs - 1
    assert len(fit(settings(), tmp_path, splits=splits).log) == len(pd.read_csv(log)) == epochs


def killed_at(call: int) -> Callable[..., object]:
    calls = []

    def write(folder: Path, lines: Any) -> None:
        calls.append(folder)
        if len(calls) == call:
            raise KeyboardInterrupt
        write_log(folder, lines)

    return write


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"epoch,loss\n1,2,3\n", b"epoch,loss\n0,1.5\n"])
def test_a_damaged_log_is_that_of_the_checkpoint(splits: Splits, tmp_path: Path, content: bytes | None) -> None:
    run = fit(settings(epochs=2), tmp_path, splits=splits)
    log, file = run.log, run.folder / "log.csv"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    pd.testing.assert_frame_equal(run.log, log.drop(columns="seconds"))
    pd.testing.assert_frame_equal(pd.read_csv(file), log.drop(columns="seconds"))
    assert (run.folder / "log.csv.corrupt").exists() == (content is not None)


def test_a_damaged_checkpoint_is_trained_anew(splits: Splits, tmp_path: Path) -> None:
    run = fit(settings(epochs=1), tmp_path, splits=splits)
    content = run.checkpoint.read_bytes()
    for broken in (content[:-9], content[:9], content[:-9] + b"x" + content[-8:]):
        run.checkpoint.write_bytes(broken)
        with pytest.raises(UserError):
            read_checkpoint(run.checkpoint)
        fit(settings(epochs=1), tmp_path, splits=splits)
        assert run.checkpoint.read_bytes() == content


def test_a_run_of_code_that_changed_is_refused(splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tests_code.py").write_text(CODE.format("torch.relu"))
    monkeypatch.syspath_prepend(tmp_path)
    ours = settings(model="factory:tests_code:net", epochs=1)
    run = fit(ours, tmp_path / "runs", splits=splits)
    assert fit(ours, tmp_path / "runs", splits=splits) == run
    (tmp_path / "tests_code.py").write_text(CODE.format("torch.tanh") + "\n")  # of another size, in the same second
    importlib.reload(sys.modules["tests_code"])
    with pytest.raises(UserError, match="that answers otherwise: its code has changed; move that folder away"):
        fit(ours, tmp_path / "runs", splits=splits)
    monkeypatch.delitem(sys.modules, "tests_code")


def test_two_processes_train_a_run_once(splits: Splits, tmp_path: Path) -> None:
    """The second waits, and finds it finished; here, threads."""
    steps = []

    def one(epoch: dict[str, Any]) -> None:
        steps.append(epoch["epoch"])

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: fit(settings(epochs=2), tmp_path, splits=splits, on_epoch=one), range(2)))
    assert steps == [0, 1]
    assert runs[0] == runs[1]
    assert sorted(path.name for path in runs[0].folder.iterdir()) == ["log.csv", "model.safetensors"]


def test_a_kill_between_the_checkpoint_and_the_end_leaves_nothing(splits: Splits, tmp_path: Path) -> None:
    unlink = Path.unlink

    def kill(self: Path, missing_ok: bool = False) -> None:
        if self.name == "resume.pt":
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    with patch.object(Path, "unlink", kill), pytest.raises(KeyboardInterrupt):
        fit(settings(epochs=1), tmp_path, splits=splits)
    run = run_of(settings(epochs=1), tmp_path, splits)
    assert run.checkpoint.is_file()
    assert run.state.is_file()
    assert fit(settings(epochs=1), tmp_path, splits=splits) == run
    assert not run.state.exists()
