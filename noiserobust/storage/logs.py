"""Logs of training runs: ``log.csv`` for people, with a line per epoch; the checkpoint holds the lines, too."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from noiserobust.errors import UserError
from noiserobust.limits import read_text_bytes
from noiserobust.storage.checkpoints import WEIGHTS, is_whole, read_checkpoint
from noiserobust.storage.files import set_aside, write_atomically
from noiserobust.storage.rows import is_number

CLOCK = ("seconds", "log_seconds")
"""Columns that differ between equal runs."""


def write_log(folder: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """Write ``log.csv`` into the ``folder`` of a run, whole or not at all."""
    return write_atomically(folder / "log.csv", lambda file: pd.DataFrame(lines).to_csv(file, index=False))


def without_clock(line: Mapping[str, Any]) -> dict[str, Any]:
    """``line`` without what a clock said."""
    return {name: value for name, value in line.items() if name not in CLOCK}


def read_log(folder: Path) -> pd.DataFrame:
    """The log of the run in ``folder``, a line per epoch.

    One that is damaged or missing is written again from the lines that the finished run's checkpoint holds; where
    there are none, as in older runs, that is a :class:`~noiserobust.UserError`.
    """
    path, checkpoint = folder / "log.csv", folder / WEIGHTS[0]
    lines = read_checkpoint(checkpoint).about.get("lines") if is_whole(checkpoint) else None
    try:
        log, wrong = _parsed(path)
    except UserError:  # there is none, or something else in its place
        if lines is None:
            raise
        log, wrong = pd.DataFrame(), ""
    if lines is not None and not _holds(log, lines):
        if os.path.lexists(path):
            set_aside(path, "damaged", "written again from what the checkpoint holds")
        write_log(folder, lines)
        return pd.read_csv(path)
    if wrong:
        raise UserError(f"expected the log of a run, got {path}: {wrong}; train into another folder to have it")
    return log


def require_log(path: Path) -> pd.DataFrame:
    """The lines of a log that lies anywhere; :class:`~noiserobust.UserError` for what is none."""
    log, wrong = _parsed(path)
    if wrong:
        raise UserError(f"expected the log of a run, got {path}: {wrong}")
    return log


def _parsed(path: Path) -> tuple[pd.DataFrame, str]:
    """The lines of a log, and what is wrong with them; "" where nothing is. UserError for what is no file."""
    content = read_text_bytes(path, "the log of a run")
    try:
        log = pd.read_csv(io.BytesIO(content))
    except (OSError, ValueError, pd.errors.ParserError) as error:
        return pd.DataFrame(), (str(error).splitlines() or [type(error).__name__])[0]
    texts = [str(name) for name in log if not is_number(log[name]) and not log[name].isna().all()]
    wrong = "has no column epoch" if "epoch" not in log else "" if len(log) else "has no lines"
    return log, f"expected numbers, got others in {', '.join(texts)}" if texts else wrong


def _holds(log: pd.DataFrame, lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a log holds these lines, and no others."""
    expected = pd.read_csv(io.StringIO(pd.DataFrame(lines).to_csv(index=False)))
    return log.drop(columns=list(CLOCK), errors="ignore").equals(expected)
