"""Nothing lost, no damage taken for truth, no traceback: whenever a process is killed, and whatever happens to files.

``make test`` runs a few trials of each kind, ``make nightly`` a few hundred (docs/robustness.md has the figures).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from harness import COMMANDS, COUNT, FIRST, POINTS, content, damage, ended, killing, run, small_files, started, words_of
from processes import LIMIT

from noiserobust import endings
from noiserobust.cli import main

TRIALS = range(FIRST, FIRST + COUNT)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command has been run, undisturbed, and in this process: forks find all imported."""
    folder = tmp_path_factory.mktemp("good")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name in COMMANDS:
            main(words_of(name, folder))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(good, tmp_path / "copy"))


def without(folder: Path, name: str) -> None:
    """Undo a command."""
    place = {"train": "runs", "evaluate": "rows.parquet", "sweep": "sweep", "program": "chips"}[name]
    for path in folder.glob(f"{place}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def finished(name: str, folder: Path, good: Path, what: object) -> None:
    """The command ends well now, and has left what it leaves undisturbed."""
    end = run(words_of(name, folder), folder)
    assert end.code == 0, (what, end.text)
    assert content(folder) == content(good), what


@pytest.mark.parametrize("trial", TRIALS)
def test_killed_at_a_write(trial: int, folder: Path, good: Path) -> None:
    dice = random.Random(f"write {trial}")
    name = dice.choice([*COMMANDS])
    point, number = dice.choice(POINTS), dice.randrange(1, 9)
    words = words_of(name, folder)
    without(folder, name)
    end = run(words, folder, killing(point, number))
    assert end.code in (0, -signal.SIGKILL), (name, point, number, end.text)
    finished(name, folder, good, (name, point, number))


@pytest.mark.parametrize("trial", TRIALS)
def test_killed_at_any_moment(trial: int, folder: Path, good: Path) -> None:
    dice = random.Random(f"moment {trial}")
    name = dice.choice([*COMMANDS])
    words = words_of(name, folder)
    without(folder, name)
    for _ in range(dice.choice([1, 1, 3])):
        process, reader = started(words, folder)
        time.sleep(dice.random() * 0.4)
        os.kill(process, signal.SIGKILL)
        assert ended(process, reader).code in (0, -signal.SIGKILL)
    finished(name, folder, good, name)


@pytest.mark.parametrize("trial", TRIALS)
def test_a_damaged_file(trial: int, folder: Path, good: Path) -> None:
    """Success with the right values, or one line; afterwards the right values where the command repairs."""
    dice = random.Random(f"damage {trial}")
    name = dice.choice(["train", "evaluate", "sweep"])
    places = {"train": "runs/*/*", "evaluate": "rows.parquet*", "sweep": "sweep/**/*"}
    found = sorted(path for path in folder.glob(places[name]) if path.is_file())
    path = dice.choice(found)
    what = damage(path, dice)
    end = run(words_of(name, folder), folder)
    assert end.allowed, (what, end.text)
    if end.code == 0 and path.name != "log.csv":  # which is looked at when it is read
        left = {place: digest for place, digest in content(folder).items() if "log.csv" not in place}
        assert left.items() <= content(good).items(), what


@pytest.mark.parametrize("trial", TRIALS)
def test_a_damaged_state(trial: int, folder: Path, good: Path) -> None:
    dice = random.Random(f"state {trial}")
    words = words_of("train", folder)
    without(folder, "train")
    run(words, folder, killing("before", 3))
    (state,) = folder.glob("runs/*/resume.pt")
    what = damage(state, dice)
    finished("train", folder, good, what)


@pytest.mark.parametrize("trial", TRIALS)
def test_a_full_disk(trial: int, folder: Path, good: Path) -> None:
    """No file may grow above so many bytes."""
    dice = random.Random(f"full {trial}")
    name = dice.choice([*COMMANDS])
    words = words_of(name, folder)
    without(folder, name)
    size = dice.choice([0, 10, 500, 4000, 5000, 10_000, 15_000, 30_000])
    end = run(words, folder, small_files(size))
    assert end.allowed, (name, size, end.text)
    finished(name, folder, good, (name, size))


@pytest.mark.parametrize("trial", TRIALS[: max(1, COUNT // 4)])
def test_two_writers(trial: int, folder: Path, good: Path) -> None:
    name = random.Random(f"writers {trial}").choice(["train", "evaluate", "sweep"])
    words = words_of(name, folder)
    without(folder, name)
    for end in [ended(*one) for one in [started(words, folder), started(words, folder)]]:
        assert end.code == 0, (name, end.text)
    finished(name, folder, good, name)


@pytest.mark.parametrize("trial", TRIALS[: max(2, COUNT // 20)])
def test_nobody_is_left_behind(trial: int, folder: Path) -> None:
    """The parent of two workers is ended, by SIGKILL, SIGTERM or ctrl-C: five seconds later they have ended, too."""
    dice = random.Random(f"signal {trial}")
    number = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[trial % 3]
    words = [*words_of("sweep", folder), "--workers", "2", "--vary", "lr=0.1|0.2"]
    process, reader = started(words, folder)
    deadline = time.monotonic() + LIMIT
    # What multiprocessing starts beside them may be there from an earlier test.
    family: list[int] = []
    while sum(map(works, family)) < 2:
        family = endings.descendants(process)
        assert alive(process), ended(process, reader).text
        assert time.monotonic() < deadline, family
        time.sleep(0.05)
    time.sleep(dice.random() * (1 if COUNT < 100 else 20))
    os.kill(process, number)
    began = time.monotonic()
    end = ended(process, reader)
    assert end.code in ({signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number], 0), end.text
    while any(map(alive, family)):
        assert time.monotonic() < began + 5 * (1 + os.getloadavg()[0]), (number, family)
        time.sleep(0.05)
    assert "Traceback" not in end.text
    assert "leaked" not in end.text  # semaphores, of which multiprocessing's tracker tells


def works(process: int) -> bool:
    """Whether it is a worker that multiprocessing spawned."""
    try:
        return "spawn_main" in Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return False


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
