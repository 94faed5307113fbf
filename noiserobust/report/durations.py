"""Durations as people say them."""

from __future__ import annotations


def spoken(seconds: float) -> str:
    """About so long, in the one or two units that matter.

    >>> [spoken(one) for one in (0.4, 42.3, 200, 3000, 9000, 400_000)]
    ['1 s', '42 s', '3 min 20 s', '50 min', '2 h 30 min', '4 d 15 h']
    """
    whole = max(1, round(seconds))
    for unit, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest and whole < 20 * size else "")
    return f"{whole} s"
