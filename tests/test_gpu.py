"""The run for an accelerator (experiments/gpu), rehearsed on the CPU: its parts, what it does when one fails."""

from __future__ import annotations

import json
import sys
import tarfile
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "experiments" / "benchmarks"))  # as run.py tells its processes

from experiments.gpu import crowd, grid, run, speed  # noqa: E402
from experiments.gpu.checks import Checks  # noqa: E402
from experiments.gpu.rows import Options, OutOfTimeError, Rows  # noqa: E402

ABOUT: dict[str, object] = {"call": "one", "commit": "c", "date": "d"}


def options(folder: Path, **others: object) -> Options:
    given = {"out": str(folder), "work": str(folder), "device": "cpu", "tiny": True, "call": "one", "commit": "c"}
    return Options(**given | others)  # type: ignore[arg-type]


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "name",
    [
        "stream laplace",
        "in place gaussian:0.1,reading=literal",
        "noise pcm",
        "rule looksam bf16",
        "rule f-sam fp32",
        "training with io:dac=8,adc=8,learnt=true",
        "evaluation bf16",
        "evaluation times",
        "folded norms",
        "DDP with one process",
    ],
)
def test_checks(tmp_path: Path, name: str) -> None:
    dict(Checks("cpu", True, tmp_path).all())[name]()


def test_checks_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that steps otherwise than on the CPU, and an evaluation that differs from the plain one."""
    checks = Checks("cpu", True, tmp_path)
    losses = iter([[1.0], [1.5], [1.5]])
    monkeypatch.setattr(checks, "steps", lambda *given: next(losses))
    with pytest.raises(AssertionError, match="on the CPU"):
        checks.rule("sam:0.05", "fp32")
    means = iter([{"accuracy": 10.0, "loss": 2.0}, {"accuracy": 10.0, "loss": 2.2}])
    monkeypatch.setattr(checks, "_means", lambda *given, **options: next(means))
    with pytest.raises(AssertionError, match="losses"):
        checks.evaluation({"precision": "bf16"})


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_speed() -> None:
    timed = speed.Speed("cpu", True)
    step = timed.step("SAM", 2)
    assert step["seconds"] > 0  # type: ignore[operator]
    assert step["waits"] is None  # only a GPU tells
    assert timed.evaluation("pcm", "fp32", 10)["further_draw"] is not None
    assert timed.together("digits:16")["apart"] < 1e-5  # type: ignore[operator]


def test_trainings_on_the_card_at_once(tmp_path: Path) -> None:
    assert crowd.run(Rows(options(tmp_path), "grid")) == 1
    assert all(row["ok"] for row in lines(tmp_path))


def test_the_grid_leaves_rows_and_finished_copies(tmp_path: Path) -> None:
    names = [f"{row}, copy 0" for row in ("SGD", "RWP sigma 0.08")]
    expected = ["images", *(f"{name}, {what}" for name in names for what in ("training", "sigma 0", "sigma 0.07"))]
    for _ in range(2):  # the second time all is there
        grid.run(Rows(options(tmp_path, trainings=1), "grid"))
        assert [row["name"] for row in lines(tmp_path) if row["ok"]] == expected
    with tarfile.open(tmp_path / "finished.tar.gz") as archive:
        assert sum(name.endswith(".parquet") for name in archive.getnames()) == 2
        (log,) = [name for name in archive.getnames() if name.endswith(".csv") and "/plain-" in name]
        # As reproduce logs it: else none of the figures could be drawn of a copy that was trained here.
        assert "train/gradient_norm:training" in pd.read_csv(archive.extractfile(log))  # type: ignore[arg-type]
    # On another machine the rows are here, the trainings and their images are not: only what is asked for is made.
    (tmp_path / "images" / "done").unlink()
    again = Rows(options(tmp_path, call="two"), "grid")
    again.forget("images")
    assert "images" not in again.met
    assert "SGD, copy 0, sigma 0" in again.met


def test_rows_go_on_where_they_were(tmp_path: Path) -> None:
    calls: list[str] = []

    def failing() -> None:
        calls.append("failing")
        raise ValueError("no")

    for call, made in (("one", 1), ("one", 1), ("two", 2)):
        rows = Rows(options(tmp_path, call=call), "checks")
        rows.each("right", lambda: {"value": len(calls)})
        rows.each("wrong", failing)
        assert len(calls) == made
    assert [(row["name"], row["ok"]) for row in lines(tmp_path)] == [
        ("right", True),
        ("wrong", False),
        ("wrong", False),
    ]
    assert lines(tmp_path)[1]["error"] == "ValueError: no"
    late = Rows(options(tmp_path, deadline=time.time() - 1), "checks")
    with pytest.raises(OutOfTimeError):
        late.each("other", dict)
    other = Rows(options(tmp_path, commit="another"), "checks")
    assert other.met == {"right", "wrong"}  # still the same call
    assert not Rows(options(tmp_path, commit="another", call="three"), "checks").met


SICK = """
import os, pathlib, sys, time
folder, how = pathlib.Path({folder!r}), {how!r}
tries = folder / "tries"
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
if how == "second time fine" and len(tries.read_text()) > 1:
    sys.exit(0)
(folder / ".checks").write_text("a kernel")
if how == "hangs":
    time.sleep(600)
if how == "never begins":
    (folder / ".checks").unlink()
    sys.exit(1)
os.kill(os.getpid(), 11)
"""


@pytest.mark.parametrize(
    ("how", "name", "error"),
    [
        ("second time fine", "a kernel", "its process ended with signal 11"),
        ("hangs", "a kernel", "its time was up, and it did not end"),
        ("never begins", "process", "its process ended with code 1"),
    ],
)
def test_a_part_that_fails_is_a_row(
    tmp_path: Path, how: str, name: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "GRACE", 0.2)
    command = [sys.executable, "-S", "-c", SICK.format(folder=str(tmp_path), how=how)]
    left = 1.0 if how == "hangs" else 60.0
    run.supervise("checks", command, tmp_path, time.time() + left, {}, ABOUT)
    (row,) = lines(tmp_path)
    assert (row["name"], row["error"], row["ok"]) == (name, error, False)
    assert not list(tmp_path.glob(".checks*"))


def test_without_images_trainings_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "run", lambda rows: 1)
    grid.run(Rows(options(tmp_path, tiny=False), "grid"))
    (row,) = lines(tmp_path)
    assert "--images" in str(row["error"])
