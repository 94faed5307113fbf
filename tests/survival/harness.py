"""Commands that are killed, starved or fed damaged files: what they leave behind is compared with an undisturbed run.

Commands run in forked processes, which find everything imported. Allowed ends: success, or one line and exit code 2.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import resource
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from noiserobust.cli import main
from noiserobust.storage import database, files

COUNT = int(os.environ.get("SURVIVAL", "4"))
"""Trials of each kind: few in ``make test``, many in ``make nightly``."""
FIRST = int(os.environ.get("SURVIVAL_FROM", "0"))
"""Number of the first: others than those of the runs before."""
TINY = ["--epochs", "2", "--batch-size", "800", "--model", "digits:2", "--select-draws", "1", "--validation", "0.5"]
COMMANDS: dict[str, list[str]] = {
    "train": ["train", *TINY, "--out", "runs"],
    "evaluate": ["evaluate", "runs", "--draws", "3", "--images", "40", "--out", "rows.parquet"],
    "sweep": ["sweep", *TINY, "--draws", "2", "--images", "40", "--seeds", "0", "1", "--out", "sweep"],
    "program": ["program", "runs/NAME", "--chips", "1", "--out", "chips"],
}
POINTS = ("before", "half-way", "synced", "renamed", "in a transaction")
"""Places in the writing of one file at which a process is killed."""


@dataclass(frozen=True)
class End:
    """How a command ended: its exit code (negative: the signal) and its words."""

    code: int
    text: str

    @property
    def allowed(self) -> bool:
        lines = [line for line in re.split(r"[\r\n]+", self.text) if "noiserobust: error: " in line]
        refused = self.code == 2 and len(lines) == 1 and self.text.rstrip().endswith(lines[0].rstrip())
        return (self.code == 0 or refused) and "Traceback" not in self.text and "Exception ignored" not in self.text


def started(words: list[str], folder: Path, before: Callable[[], object] = lambda: None) -> tuple[int, int]:
    """A forked process that runs a command in ``folder``; its id, and where its words can be read."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads
        process = os.fork()
    if process:
        os.close(writer)
        return process, reader
    code = 1
    try:
        os.chdir(folder)
        for number in (1, 2):
            os.dup2(writer, number)
        warnings.simplefilter("ignore")  # which are errors in tests, but not to a person
        torch.set_num_threads(1)
        files._cleaned.clear()
        import sys

        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        before()
        main(words)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise AssertionError


def ended(process: int, reader: int, limit: float = 600.0) -> End:
    """How it ends, or was ended when the time was over."""
    text, deadline = b"", time.monotonic() + limit
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(reader, 1 << 16) if ready else b""
        text += part
        if not part:
            break
    if not ready:
        os.kill(process, signal.SIGKILL)
    os.close(reader)
    _, status = os.waitpid(process, 0)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return End(code, text.decode(errors="replace"))


def run(words: list[str], folder: Path, before: Callable[[], object] = lambda: None) -> End:
    return ended(*started(words, folder, before))


def words_of(name: str, folder: Path) -> list[str]:
    """A command for ``folder``, where the one run has a name."""
    runs = [path.name for path in (folder / "runs").glob("*")] or [""]
    return [word.replace("NAME", runs[0]) for word in COMMANDS[name]]


def content(folder: Path) -> dict[str, str]:
    """What a person finds in ``folder``, by file, without what clocks and places say."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name.endswith((".ledger", ".corrupt", ".lock", ".ledger-journal")):
            continue
        if path.suffix == ".csv":
            text = pd.read_csv(path).drop(columns="seconds", errors="ignore").to_csv()
        elif path.suffix == ".parquet":
            rows = pd.read_parquet(path).drop(columns=["model", "commit"], errors="ignore")
            text = rows.sort_values([name for name in rows if rows[name].nunique() > 1], ignore_index=True).to_csv()
        else:
            text = path.read_bytes().decode("latin-1")
        found[str(path.relative_to(folder))] = hashlib.sha256(text.encode()).hexdigest()[:12]
    return found


def killing(point: str, number: int) -> Callable[[], None]:
    """What makes a process kill itself at a ``point`` of its write number ``number``, counted from 1."""
    count = 0

    def die_when_due() -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def install() -> None:
        begin, finish, replace, insert = files._temporary_beside, files.seal, os.replace, database.Database._insert

        def before(target: Path) -> Path:
            die_when_due()
            return begin(target)

        def half_way(path: Path) -> None:
            if count + 1 == number:
                os.truncate(path, path.stat().st_size // 2)
            die_when_due()
            finish(path)

        def synced(source: Path, target: Path) -> None:
            die_when_due()
            replace(source, target)

        def renamed(source: Path, target: Path) -> None:
            replace(source, target)
            die_when_due()

        def in_a_transaction(self: database.Database, *arguments: object) -> None:
            insert(self, *arguments)  # type: ignore[arg-type]
            die_when_due()

        match point:
            case "before":
                files._temporary_beside = before
            case "half-way":
                files.seal = half_way
            case "synced":
                os.replace = synced  # type: ignore[assignment]
            case "renamed":
                os.replace = renamed  # type: ignore[assignment]
            case _:
                database.Database._insert = in_a_transaction  # type: ignore[method-assign]

    return install


def small_files(size: int) -> Callable[[], None]:
    """What makes the system refuse every file above ``size`` bytes, as a full disk refuses the next byte."""

    def install() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return install


def damage(path: Path, dice: random.Random) -> str:
    """Flip a bit of a file, or cut it short; says what."""
    content = bytearray(path.read_bytes())
    if dice.random() < 0.25 or not content:
        size = dice.randrange(len(content) + 1) if content else 0
        path.write_bytes(content[:size])
        return f"{path.name} cut to {size}"
    at, bit = dice.randrange(len(content)), dice.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"{path.name} bit {bit} of byte {at}"
