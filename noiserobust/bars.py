"""Progress bars whose numbers stay in sight, however narrow the terminal and long the name of what is done."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import std
from tqdm.auto import tqdm

IN_A_FILE = 10.0
"""Seconds between two lines of a bar that no terminal shows: a cluster's log keeps every one."""


class Bar(tqdm):
    """tqdm's bar, in which the name gives way where the line is too long, not the numbers."""

    def __init__(self, *args: Any, **rest: Any) -> None:
        file = rest.get("file") or sys.stderr
        if file is None or getattr(file, "closed", False):  # a service without one: nowhere to draw, work goes on
            rest["disable"] = True
        elif tqdm.__mro__[1] is std.tqdm and not getattr(file, "isatty", bool)():  # a notebook has its own
            rest = {"mininterval": IN_A_FILE} | rest
        super().__init__(*args, **rest)

    @staticmethod
    def format_meter(n: float, total: float | None, elapsed: float, ncols: int | None = None, **rest: Any) -> str:
        """One line of at most ``ncols`` characters."""
        prefix = rest.pop("prefix", "") or ""
        if total is None:  # tqdm adds a colon to the one that is there
            prefix = prefix.removesuffix(": ")
        if ncols and prefix:
            bare = tqdm.format_meter(n, total, elapsed, None, prefix="", **rest)
            room = max(ncols - len(bare) - 2, 0)
            prefix = prefix if len(prefix) <= room else prefix[: max(room - 3, 0)] + "..." * (room > 6)
        return str(tqdm.format_meter(n, total, elapsed, ncols, prefix=prefix, **rest))
