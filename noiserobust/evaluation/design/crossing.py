"""Where a curve first exceeds a limit, with an interval: root finding on a mean and on its confidence band.

The band's two edges are searched like the mean itself. Where the mean's own limit x* is true, its pointwise interval
contains the limit with the stated confidence, and then x* lies between the points where the upper and where the lower
edge reach the limit (for edges that rise along the search): an inverted test, which needs no slope and no linear curve.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from noiserobust.errors import UserError

DIGITS = 4  # significant ones of a value that is tried, so that it reads well and is found again in a file


@dataclass(frozen=True)
class Axis:
    """The values that the searched number may take, and how finely it is searched."""

    low: float
    high: float
    log: bool = False
    whole: bool = False
    tolerance: float = 0.02
    """A bracket this narrow is narrow enough: as a fraction of its larger end (or 50 times less, of the range); on a
    logarithmic axis as a fraction of the range's logarithm. Within it the answer is interpolated."""

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise UserError(f"expected a range from a smaller to a larger number, got {self.low:g} to {self.high:g}")
        if self.log and self.low <= 0:
            raise UserError(f"expected a range above 0 for a logarithmic search, got {self.low:g} to {self.high:g}")
        if self.whole and (self.low % 1 or self.high % 1):
            raise UserError(f"expected whole numbers as range, got {self.low:g} to {self.high:g}")
        if not 0.001 <= self.tolerance < 1:
            raise UserError(f"expected a tolerance of 0.001 to below 1 (0.02 is 2 %), got {self.tolerance}")

    def grid(self, points: int) -> list[float]:
        """``points`` values from low to high, evenly spaced (in the logarithm); fewer where whole numbers coincide."""
        if points < 2:
            raise UserError(f"expected at least 2 points to begin with, got {points}")
        inner = [self.at(self.low, self.high, index / (points - 1)) for index in range(1, points - 1)]
        return sorted({self.low, *inner, self.high})

    def at(self, a: float, b: float, fraction: float) -> float:
        """The value that far on the way from ``a`` to ``b``."""
        value = a * (b / a) ** fraction if self.log else a + fraction * (b - a)
        return float(round(value)) if self.whole else float(f"{value:.{DIGITS}g}")

    def between(self, a: float, b: float, fraction: float) -> float | None:
        """A value strictly between, about that far on the way; ``None`` when the bracket is narrow enough."""
        if self.whole:
            if abs(b - a) <= 1:
                return None
            return min(max(self.at(a, b, fraction), min(a, b) + 1), max(a, b) - 1)
        if self.log:
            near = abs(math.log(b / a)) <= self.tolerance * math.log(self.high / self.low)
        else:
            near = abs(b - a) <= self.tolerance * max(abs(a), abs(b), (self.high - self.low) / 50)
        if near:
            return None
        value = self.at(a, b, fraction)
        return value if min(a, b) < value < max(a, b) else None


@dataclass(frozen=True)
class Point:
    """The curve at one value, with the interval of its mean."""

    x: float
    mean: float
    low: float
    high: float
    harm: float = 0.0
    """Tells which end of the range is the easy one where both have the same mean."""


@dataclass(frozen=True)
class Crossing:
    """The last value before the curve exceeds the limit, seen from its easy end, and its interval.

    ``state`` is ``"found"``, ``"always"`` (the whole range stays within the limit: the answer lies beyond its ``hard``
    end) or ``"never"`` (even the ``easy`` end exceeds it). ``value``, ``low`` and ``high`` are infinite, with the sign
    of the side, where they lie outside the range; an edge without a value (a single draw) is NaN.
    """

    state: str
    easy: float
    hard: float
    value: float
    low: float
    high: float
    crossings: int
    """How often the points seen change sides: more than once means that the curve is not monotone."""
    points: tuple[Point, ...]


def first_crossing(measure: Callable[[float], Point], axis: Axis, limit: float, points: int = 5) -> Crossing:
    """Search the curve that ``measure`` gives at single values.

    It is measured on a grid of ``points`` first, so that a curve that is not monotone is searched in the first part in
    which it exceeds the limit; the end with the lower mean is the easy one. Then each of mean, upper and lower edge is
    narrowed down by false position and halving in turn, sharing all that was measured. A dip between two points of the
    grid is not seen.
    """
    seen: dict[float, Point] = {}

    def at(x: float) -> Point:
        if x not in seen:
            seen[x] = measure(x)
        return seen[x]

    grid = axis.grid(points)
    ends = at(grid[0]), at(grid[-1])
    # NaN (a network that gives no numbers there) is as hard as can be.
    first, last = ((_height(end.mean, limit), end.harm) for end in ends)
    if first > last:
        grid.reverse()
    for x in grid:
        at(x)
    value = _last_within(lambda x: at(x).mean, axis, limit, seen, grid)
    edges = [math.nan, math.nan]
    if not any(math.isnan(point.low) and not math.isnan(point.mean) for point in seen.values()):
        edges = [
            _last_within(lambda x: at(x).high, axis, limit, seen, grid),
            _last_within(lambda x: at(x).low, axis, limit, seen, grid),
        ]
    state = "found" if math.isfinite(value) else "never" if value == _beyond(grid, easy=True) else "always"
    along = [seen[x].mean for x in sorted(seen)]
    sides = [_height(mean, limit) > 0 for mean in along]
    crossings = sum(a != b for a, b in itertools.pairwise(sides))
    low, high = sorted(edges) if not math.isnan(edges[0]) else edges
    return Crossing(state, grid[0], grid[-1], value, low, high, crossings, tuple(seen[x] for x in sorted(seen)))


def _last_within(
    curve: Callable[[float], float], axis: Axis, limit: float, seen: Iterable[float], grid: list[float]
) -> float:
    """The last value on the way from the easy end at which ``curve`` has not exceeded the limit."""
    way = sorted(seen, reverse=grid[0] > grid[-1])
    heights = [_height(curve(x), limit) for x in way]
    over = next((index for index, height in enumerate(heights) if height > 0), None)
    if over is None:
        return _beyond(grid, easy=False)
    if over == 0:
        return _beyond(grid, easy=True)
    a, b, below, above = way[over - 1], way[over], heights[over - 1], heights[over]
    halve = False
    while True:
        straight = -below / (above - below) if math.isfinite(above) else 0.5
        x = axis.between(a, b, 0.5 if halve else min(max(straight, 0.1), 0.9))
        if x is None:
            return a if axis.whole else axis.at(a, b, straight)
        height = _height(curve(x), limit)
        a, b, below, above = (x, b, height, above) if height <= 0 else (a, x, below, height)
        halve = not halve


def _height(value: float, limit: float) -> float:
    """How far above the limit; not a number counts as infinitely far."""
    return math.inf if math.isnan(value) else value - limit


def _beyond(grid: list[float], easy: bool) -> float:
    """Outside the range on the easy or on the hard side."""
    return math.inf if (grid[0] > grid[-1]) == easy else -math.inf
