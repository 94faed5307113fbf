"""Whole runs by two processes under torchrun, gloo on CPUs: torchrun_worker.py is what they do."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from methods import close, few_digits, same_bits
from processes import HERE, python
from processes import torchrun as started
from torch import Tensor
from torchrun_worker import RESUMED, RUNS, stopped

from noiserobust.data import Batches, Splits
from noiserobust.errors import UserError
from noiserobust.rng import Stream
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.training import Processes, TrainSettings, fit, torchrun

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def data() -> Splits:
    return few_digits(200)


@pytest.fixture(scope="module")
def runs(data: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two processes train, in one start."""
    folder = tmp_path_factory.mktemp("runs")
    stopped(RUNS["plain"], folder / "one-two", data)
    done = started(2, "torchrun_worker.py", "train", str(folder))
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def weights(folder: Path) -> list[Tensor]:
    return [tensor for _, tensor in sorted(read_checkpoint(folder).weights.items())]


def of(settings: TrainSettings, out: Path) -> Path:
    """The folder of that run in ``out``: number of processes or not, it has one name."""
    (folder,) = (run for run in out.iterdir() if run.name.endswith(settings.identity(few_digits(200))))
    return folder


def agree(one: Path, two: Path) -> None:
    """The same course and weights to the rounding of sums."""
    close(weights(two), weights(one), rtol=1e-4, atol=1e-6)
    logs = [pd.read_csv(folder / "log.csv").drop(columns="seconds") for folder in (two, one)]
    pd.testing.assert_frame_equal(*logs, rtol=1e-4)


@slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_what_one_trains(name: str, runs: Path, data: Splits, tmp_path: Path) -> None:
    alone = fit(RUNS[name], tmp_path, splits=data)
    together = of(RUNS[name], runs / "two")
    agree(alone.folder, together)
    assert read_checkpoint(alone.folder).about["ranks"] == [1, 1, 1]
    assert read_checkpoint(together).about["ranks"] == [2, 2, 2]


@slow
def test_only_rank_0_writes(runs: Path) -> None:
    assert not (runs / "nowhere").exists()
    for folder in (runs / "two").iterdir():
        assert sorted(file.name for file in folder.iterdir()) == ["log.csv", "model.safetensors"]


@slow
@pytest.mark.parametrize("name", RESUMED)
def test_two_processes_resume_bit_for_bit(name: str, runs: Path) -> None:
    parts, whole = (of(RESUMED[name], runs / out) for out in ("parts", "whole"))
    assert same_bits(weights(parts), weights(whole))
    logs = [pd.read_csv(folder / "log.csv").drop(columns="seconds") for folder in (parts, whole)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)


@slow
def test_another_number_of_processes_goes_on(runs: Path, data: Splits, tmp_path: Path) -> None:
    whole = fit(RUNS["plain"], tmp_path, splits=data)
    lines: list[int] = []
    fit(RUNS["plain"], runs / "two-one", splits=data, on_epoch=lambda line: lines.append(line["epoch"]))
    assert lines == [2]
    for out, ranks in (("two-one", [2, 2, 1]), ("one-two", [1, 1, 2])):
        agree(whole.folder, of(RUNS["plain"], runs / out))
        assert read_checkpoint(of(RUNS["plain"], runs / out)).about["ranks"] == ranks
    # What was done before the change is untouched: to the bit the first two epochs of one process.
    logs = [pd.read_csv(folder / "log.csv") for folder in (whole.folder, of(RUNS["plain"], runs / "one-two"))]
    pd.testing.assert_frame_equal(*(log.drop(columns="seconds")[:2] for log in logs), check_exact=True)


FAILURES = {
    "refused": ([2, 2], "noiserobust: error: expected luck, got none"),
    "interrupted": ([130, 130], "noiserobust: interrupted; the same command goes on from here"),
    # Whose code is at fault is known where the error is.
    "broken": ([1, 2], "noiserobust: error: expected code of your own that works, got ZeroDivisionError"),
}


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, in one start."""
    folder = tmp_path_factory.mktemp("failures")
    python(str(HERE / "torchrun_worker.py"), "failures", str(folder), *FAILURES)
    return folder


@slow
@pytest.mark.parametrize("how", FAILURES)
def test_what_ends_one_ends_all(how: str, failures: Path) -> None:
    """Rank 1 fails, rank 0 waits for it."""
    codes, line = FAILURES[how]
    said = [(failures / f"{how}.{rank}").read_text() for rank in (0, 1)]
    assert json.loads((failures / f"{how}.codes").read_text()) == codes, said
    assert said[1].strip().splitlines()[-1].removeprefix("[rank1]: ").startswith(line)
    assert len(said[1].strip().splitlines()) == 1
    # Nothing but the progress bar of rank 0.
    shown = [text for text in said[0].replace("\r", "\n").splitlines() if text.strip()]
    assert all(text.startswith("plain seed 0:") for text in shown), said[0]


@slow
def test_torchruns_report_names_the_first_error_in_one_line(tmp_path: Path) -> None:
    done = started(2, "torchrun_worker.py", "refused", str(tmp_path))
    assert done.returncode == 1
    _, _, root_cause = done.stderr.partition("Root Cause")
    assert "traceback : error: expected luck, got none\n====" in root_cause


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with torchrun("cpu") as processes:
        assert processes == Processes()
        assert processes.writes
        assert processes.device("cuda:1") == torch.device("cuda:1")
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_ranks_share_every_batch(ranks: int, data: Splits) -> None:
    """Together the parts are the batch to the bit, augmentation included; their weighted mean is its mean."""
    batches = Batches(data.train.subset(range(160)), 33, stream=Stream(0, "test"), crop=2, flip=True)
    whole = list(batches.epoch(1))
    parts = zip(*(batches.epoch(1, rank, ranks) for rank in range(ranks)), strict=True)
    for one, pieces in zip(whole, parts, strict=True):
        for field in ("inputs", "labels", "indices"):
            assert torch.equal(torch.cat([getattr(piece, field) for piece in pieces]), getattr(one, field))
        assert len(pieces[0]) - len(pieces[-1]) in (0, 1)
        mean = sum(piece.share * piece.inputs.double().mean() for piece in pieces) / ranks
        torch.testing.assert_close(mean, one.inputs.double().mean())


@pytest.mark.parametrize(("samples", "least"), [(160, 28), (20, 20)])
def test_a_batch_too_small_for_all_ranks_is_refused(samples: int, least: int) -> None:
    Processes(count=least).require_samples(samples, batch_size=33)
    with pytest.raises(UserError, match=f"got a batch of {least} for {least + 1} ranks; change batch_size"):
        Processes(count=least + 1).require_samples(samples, batch_size=33)
