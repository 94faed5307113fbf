"""Result tables on disk, whole or not at all, and the versions that made them."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import torch

from noiserobust.errors import UserError

VARIANT: dict[str, Any] = {"compensation": "none", "recalibration": 0, "converters": "none", "backend": "direct"}
VARIANT |= {"subset": "all"}
"""What is done around a chip, and what it is when rows do not say: drift compensation, training images that batch
norm learns anew from, converters at the array's edge, what computes, and which images are looked at (``stopped`` and
``fixed``: a subset of them, see :mod:`noiserobust.evaluation.to_precision`)."""


def write_atomically(path: str | os.PathLike[str], writer: Callable[[Path], object]) -> Path:
    """Let ``writer(temporary)`` write a file beside ``path``, then put it in place of ``path`` in one step.

    A crash, a full disk or a ``writer`` that raises leaves the old file as it was (or no file). Folders on the way
    are created; a link is followed, so that its target is replaced. Returns the path written.

    The temporary name ends in ``.tmp`` so that no ``*.parquet`` pattern ever finds a half-written file: name the
    format where a writer would guess it from the suffix (``figure.savefig(temporary, format="png")``).

    Raises :class:`UserError` when ``path`` is a folder or its folder cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise UserError(f"expected the name of a file to write, got the folder {path}; add a file name")
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise UserError(
            f"expected a folder that can be written for {path}, got: {error.strerror}; name another"
        ) from None
    try:
        writer(temporary)
        _sync(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the new name is durable too, where the system can sync a folder
        _sync(target.parent)
    return target


def write_rows(rows: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write a table of rows as parquet, whole or not at all; returns the path written."""
    return write_atomically(path, lambda temporary: rows.to_parquet(temporary, index=False))


def read_rows(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The rows that :func:`write_rows` wrote; :class:`UserError` when there is no such file or it is not parquet."""
    if not Path(path).is_file():
        raise UserError(f"expected a file of result rows (parquet), got {path}, which is not a file; check the name")
    try:
        return pd.read_parquet(path)
    except (pyarrow.ArrowInvalid, OSError):
        raise UserError(
            f"expected result rows (parquet), got {path}, which cannot be read as parquet; write it again"
        ) from None


def completed(rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` with every column of :data:`VARIANT`: files written before there were any lack them."""
    return rows.assign(**{name: value for name, value in VARIANT.items() if name not in rows})


def noise_free(rows: pd.DataFrame) -> pd.Series[bool]:
    """Which rows (or lines of a summary) are noise-free: strength 0, and no part of a composition (pcm+gaussian:0)."""
    return (rows["strength"] == 0) & ~rows["noise"].str.contains("+", regex=False)


def provenance() -> dict[str, str]:
    """What computed a row: versions of noiserobust, torch, numpy and python, and the package's git commit.

    ``commit`` ends in ``-dirty`` when the package's files differ from it, and is empty when the package is not part
    of a checkout. No machine names and no paths: rows are made to be published.
    """
    return dict(_provenance())


@functools.cache
def _provenance() -> dict[str, str]:
    try:
        own = importlib.metadata.version("noiserobust")
    except importlib.metadata.PackageNotFoundError:
        own = ""
    versions = {"torch": str(torch.__version__), "numpy": np.__version__, "python": platform.python_version()}
    return {"noiserobust": own} | versions | {"commit": _commit(Path(__file__).resolve().parent)}


def _commit(package: Path) -> str:
    """The commit of the checkout that tracks the folder ``package``, or "" when none does."""
    # Tracked, not just inside: a virtual environment within somebody's checkout must not report their commit.
    if not _git(package, "ls-files", "--", Path(__file__).name):
        return ""
    commit = _git(package, "rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and _git(package, "status", "--porcelain", "--", ".") else commit


def _git(folder: Path, *arguments: str) -> str:
    """What git answers in ``folder``, or "" when it refuses, hangs or is not installed."""
    # GIT_DIR and its like (set inside hooks) would redirect the question; the optional lock could disturb a commit.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _sync(path: Path) -> None:
    """Have the system put ``path`` on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
