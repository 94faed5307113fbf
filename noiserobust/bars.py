"""Progress bars whose numbers stay in sight, however narrow the terminal and long the name of what is done."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm


class Bar(tqdm):
    """tqdm's bar, in which the name gives way where the line is too long, not the numbers."""

    @staticmethod
    def format_meter(n: float, total: float | None, elapsed: float, ncols: int | None = None, **rest: Any) -> str:
        """One line of at most ``ncols`` characters."""
        prefix = rest.pop("prefix", "") or ""
        if ncols and prefix:
            bare = tqdm.format_meter(n, total, elapsed, None, prefix="", **rest)
            room = max(ncols - len(bare) - 2, 0)
            prefix = prefix if len(prefix) <= room else prefix[: max(room - 3, 0)] + "..." * (room > 6)
        return str(tqdm.format_meter(n, total, elapsed, ncols, prefix=prefix, **rest))
