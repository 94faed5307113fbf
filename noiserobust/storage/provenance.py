"""The versions of code that made a result."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch


def provenance() -> dict[str, str]:
    """What computed a row: versions of noiserobust, torch, numpy and python, and the package's git commit.

    ``commit`` ends in ``-dirty`` when the package's files differ from it, and is empty when the package is not part
    of a checkout. No machine names and no paths: rows are made to be published.
    """
    return dict(_provenance())


@functools.cache
def _provenance() -> dict[str, str]:
    try:
        package = importlib.metadata.version("noiserobust")
    except importlib.metadata.PackageNotFoundError:
        package = ""
    versions = {"torch": str(torch.__version__), "numpy": np.__version__, "python": platform.python_version()}
    return {"noiserobust": package} | versions | {"commit": _commit(Path(__file__).resolve().parents[1])}


def _commit(package: Path) -> str:
    """The commit of the checkout that tracks the folder ``package``, or "" when none does."""
    # Tracked, not just inside: a virtual environment within somebody's checkout must not report their commit.
    if not _git(package, "ls-files", "--", "__init__.py"):
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
