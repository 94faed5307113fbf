"""Rows that are written as soon as something ends, and that say what is done already."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from common import machine

from experiments.gpu.run import AGAIN, append


@dataclass(frozen=True)
class Options:
    """What every part is told."""

    out: str
    """Folder of the rows."""
    work: str
    """Folder of images and trainings under way."""
    device: str = "cuda"
    tiny: bool = False
    images: str = ""
    commit: str = ""
    call: str = ""
    """Name of the command that all rows of one start share."""
    trainings: int = 0
    seeds: int = 3
    deadline: float = float("inf")
    """When the part ends, in seconds of the clock."""

    @property
    def left(self) -> float:
        """Seconds until then."""
        return self.deadline - time.time()


class OutOfTimeError(Exception):
    """The part's time is up."""


class Rows:
    """The rows of one part.

    A thing of the same name, done by the same commit on the same card, is not done again; one that failed is tried
    again, but only once in one call of the command. ``of`` tells processes of one part apart.
    """

    def __init__(self, options: Options, part: str, of: str = "") -> None:
        self.options, self.part = options, part
        self.out, self.now = Path(options.out), Path(options.out) / f".{part}{of}"
        self.about = machine(options.device) | {"cuda": torch.version.cuda, "commit": options.commit}
        self.about |= {"call": options.call, "tiny": options.tiny}
        rows = self.read()
        self.met = {row["name"] for row in rows if self._settles(row)}
        self.tried = {row["name"] for row in rows if row["call"] == options.call}

    def _settles(self, row: Mapping[str, object]) -> bool:
        same = all(row.get(key) == self.about[key] for key in ("device", "torch", "commit", "tiny"))
        return row.get("call") == self.options.call or (bool(row["ok"]) and same)

    def read(self) -> list[dict[str, object]]:
        """All rows of the part so far."""
        file = self.out / "rows.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        return [row for row in rows if row["part"] == self.part]

    def forget(self, name: str) -> None:
        """What an earlier call of the command did is not there any more, and is done again."""
        self.met -= {name} - self.tried

    def add(self, name: str, **values: object) -> None:
        """Write a row; ``ok`` unless ``values`` say otherwise."""
        append(self.out, {"part": self.part, "name": name, "ok": True} | values | self.about)
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in values.items()}
        print(f"{self.part} {name}: {shown}", flush=True)

    def each(self, name: str, make: Callable[[], Mapping[str, object] | None]) -> None:
        """Do one thing, unless it is done, and write what it gives: numbers, or its error.

        Raises :class:`OutOfTimeError` instead when the part's time is up. A device that does not answer any more ends
        the process, so that a new one goes on behind this.
        """
        if name in self.met:
            return
        if self.options.left < 0:
            raise OutOfTimeError
        self.met.add(name)
        self.now.write_text(name)
        began = time.perf_counter()
        try:
            values: Mapping[str, object] = make() or {}
        except Exception as error:
            values = {"ok": False, "error": f"{type(error).__name__}: {str(error)[:400]}", "where": where(error)}
            lost = "CUDA error" in str(error)
        else:
            lost = False
        self.now.unlink(missing_ok=True)
        self.add(name, **values, took=round(time.perf_counter() - began, 3))
        if lost:
            sys.exit(AGAIN)


def where(error: BaseException) -> list[str]:
    """The innermost places of an error, without their folders."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
