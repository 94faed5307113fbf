"""Where a curve first exceeds a limit, with an interval: root finding on its mean and on both ends of its interval.

Where x* is the point at which the true mean meets the limit, the mean's pointwise interval at x* contains the limit
with the stated confidence. Then x* lies between the points where the upper and where the lower end reach the limit (for
ends that rise along the search): an inverted test, which needs no slope and no linear curve.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from noiserobust.errors import UserError

DIGITS = 4  # significant ones of a value that is tried, so that it reads well and is known again in a file
ENDS = ("mean", "high", "low")


@dataclass(frozen=True)
class Range:
    """The values that the searched number may take, and how finely it is searched."""

    low: float
    high: float
    log: bool = False
    whole: bool = False
    tolerance: float = 0.02
    """A bracket this narrow is narrow enough: as a fraction of its larger end (plus 50 times less, of the range); on a
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
        spaced = (np.geomspace if self.log else np.linspace)(self.low, self.high, points)[1:-1]
        return sorted({self.low, *map(self.rounded, spaced), self.high})

    def rounded(self, x: float) -> float:
        """The nearest value that is tried."""
        return float(round(x)) if self.whole else float(f"{x:.{DIGITS}g}")

    def narrow(self, a: float, b: float) -> bool:
        """Whether there is nothing left to try between ``a`` and ``b``."""
        if self.whole:
            return abs(b - a) <= 1
        u, v = self.scale(a), self.scale(b)
        absolute, relative = self.tolerances
        close = abs(v - u) <= absolute + relative * max(abs(u), abs(v))
        return close or self.rounded(self.unscale((u + v) / 2)) in (a, b)

    @property
    def tolerances(self) -> tuple[float, float]:
        """Absolute and relative, of :meth:`scale`."""
        if self.whole:
            return 0.5, 1e-15  # rounded, the ends are neighbours
        span = self.scale(self.high) - self.scale(self.low)
        return (self.tolerance * span, 1e-15) if self.log else (self.tolerance * span / 50, self.tolerance)

    def scale(self, x: float) -> float:
        """Where x stands on the axis that is searched."""
        return math.log(x) if self.log and not self.whole else x

    def unscale(self, u: float) -> float:
        """The inverse of :meth:`scale`."""
        return math.exp(u) if self.log and not self.whole else u


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
    of the side, where they lie outside the range; without an interval (a single draw) low and high are NaN.
    """

    state: str
    easy: float
    hard: float
    value: float
    low: float
    high: float
    crossings: int
    """How often the points change sides: more than once means that the curve is not monotone."""


def search(measure: Callable[[float], Point], axis: Range, limit: float, points: int = 5) -> list[Point]:
    """Points of the curve that ``measure`` gives at single values, close together where it first meets the ``limit``.

    It is measured on a grid of ``points`` first, so that a curve that is not monotone is searched in the first part in
    which it exceeds the limit; the end with the lower mean is the easy one. Then its mean and both ends of its interval
    are bracketed within the axis' tolerance: Brent's method (:func:`scipy.optimize.brentq`), halving for whole
    numbers. All three share what was measured. A dip between two points of the grid is not seen.
    """
    known: dict[float, Point] = {}

    def at(x: float) -> Point:
        x = axis.rounded(x) if axis.low < x < axis.high else x
        if x not in known:
            known[x] = measure(x)
        return known[x]

    for x in axis.grid(points):
        at(x)
    count = 0
    while count < len(known):  # a value tried for one end may reopen another's bracket
        count = len(known)
        for end in ENDS:
            a, b = _bracket(known.values(), end, limit)
            if a is not None and b is not None and not axis.narrow(a.x, b.x):
                _approach(lambda x, end=end: _height(at(x), end, limit), axis, a.x, b.x)  # type: ignore[misc]
    return sorted(known.values(), key=lambda point: point.x)


def _approach(height: Callable[[float], float], axis: Range, a: float, b: float) -> None:
    """Bracket the root between ``a``, where the height is below 0, and ``b``, where it is above."""
    absolute, relative = axis.tolerances
    ends = axis.scale(a), axis.scale(b)
    optimize.brentq(lambda u: height(axis.unscale(u)), *ends, xtol=absolute, rtol=relative, disp=False)


def crossing(points: Sequence[Point], axis: Range, limit: float) -> Crossing:
    """Where the curve through ``points`` first exceeds the ``limit``, from its easy end, and the interval of that."""
    way = _from_easy(points)
    value, upper, lower = (_last_within(points, end, axis, limit) for end in ENDS)
    beyond = _beyond(way)
    state = "found" if math.isfinite(value) else "always" if value == beyond else "never"
    sides = [_height(point, "mean", limit) > 0 for point in way]
    crossings = sum(a != b for a, b in itertools.pairwise(sides))
    if any(math.isnan(point.low) and not math.isnan(point.mean) for point in points):
        upper = lower = math.nan
    return Crossing(state, way[0].x, way[-1].x, value, min(upper, lower), max(upper, lower), crossings)


def _bracket(points: Iterable[Point], end: str, limit: float) -> tuple[Point | None, Point | None]:
    """The last point before the curve first exceeds the limit, from the easy end, and the first one after."""
    before = None
    for point in _from_easy(points):
        if _height(point, end, limit) > 0:
            return before, point
        before = point
    return before, None


def _last_within(points: Sequence[Point], end: str, axis: Range, limit: float) -> float:
    """The last value on the way from the easy end at which the curve has not exceeded the limit."""
    a, b = _bracket(points, end, limit)
    beyond = _beyond(_from_easy(points))
    if a is None or b is None:
        return beyond if b is None else -beyond
    if axis.whole:
        return a.x
    below, above = (_height(point, end, limit) for point in (a, b))
    straight = -below / (above - below) if math.isfinite(above) else 0.5
    return axis.rounded(axis.unscale(axis.scale(a.x) + straight * (axis.scale(b.x) - axis.scale(a.x))))


def _from_easy(points: Iterable[Point]) -> list[Point]:
    """The points from the easy end of the range to the hard one."""
    way = sorted(points, key=lambda point: point.x)
    easy, hard = ((_height(point, "mean", 0.0), point.harm) for point in (way[0], way[-1]))
    return way[::-1] if easy > hard else way


def _beyond(way: Sequence[Point]) -> float:
    """Outside the range on the hard side."""
    return math.copysign(math.inf, way[-1].x - way[0].x)


def _height(point: Point, end: str, limit: float) -> float:
    """How far above the limit; not a number (a network that gives none) counts as infinitely far."""
    value = getattr(point, end)
    return math.inf if math.isnan(value) else value - limit
