"""Where data lie, seen from a run's folder: relative paths are those of the folder that the run was started in."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from noiserobust.data.source import DataSource
from noiserobust.data.subset import Subset


def started_in(data: str, root: str, folder: Path) -> str | None:
    """The working folder, relative to the run's ``folder``, where its ``data`` have relative paths; else None."""
    here, source = Path.cwd(), DataSource.parse(data)
    while isinstance(source, Subset):
        source = source.of
    in_root = source.in_root and not os.path.isabs(root) and os.path.isdir(root)
    return os.path.relpath(here, folder.resolve()) if in_root or beside(data, here) != data else None


def handed_over(data: str, named: Sequence[str], name: str) -> dict[str, bool]:
    """What a checkpoint says where its data were not loaded as its setting ``data`` says, but handed to fit:
    ``handed_over``; and ``own_data``, where evaluation must not take the usual data for them, as nothing else names
    them."""
    if named[1:2] and str(DataSource.parse(named[1])) == str(DataSource.parse(data)):
        return {}
    return {"handed_over": True} | ({"own_data": True} if (data, name) == ("digits", "data") else {})


def beside(data: str, folder: Path) -> str:
    """``data`` with every relative path in it that leads somewhere from ``folder`` made to lead there from anywhere.

    >>> beside("subset:nowhere/images,per_class=5", Path("/"))
    'subset:nowhere/images,per_class=5'
    """

    def absolute(match: re.Match[str]) -> str:
        word = match.group()
        known = word in DataSource.registry or os.path.isabs(word) or not (folder / word).exists()
        return word if known else os.path.abspath(folder / word)

    return re.sub(r"[^:,=()]+", absolute, data)
