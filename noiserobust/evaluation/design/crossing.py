"""Where a curve first exceeds a limit, with an interval: root finding on its mean and on both ends of its interval.

Where x* is the point at which the true mean meets the limit, the mean's pointwise interval at x* contains the limit
with the stated confidence. Then x* lies between the points where the upper and where the lower end reach the limit (for
ends that rise along the search): an inverted test, which needs no slope and no linear curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import optimize

from noiserobust.errors import UserError

DIGITS = 4  # significant ones of a value that is tried, so that it reads well and is known again in a file


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
        value = float(round(x)) if self.whole else float(f"{x:.{DIGITS}g}")
        return min(max(value, self.low), self.high)

    @property
    def tolerances(self) -> tuple[float, float]:
        """Absolute and relative, of :meth:`scale`."""
        if self.whole:
            return 0.5, 1e-15  # rounded, the ends are neighbours
        span = self.tolerance * float(self.scale(self.high) - self.scale(self.low))
        return (span, 1e-15) if self.log else (span / 50, self.tolerance)

    def scale(self, x: Any) -> Any:
        """Where x stands on the axis that is searched."""
        return np.log(x) if self.log and not self.whole else x

    def unscale(self, x: Any) -> Any:
        """The inverse of :meth:`scale`."""
        return np.exp(x) if self.log and not self.whole else x


@dataclass(frozen=True)
class Point:
    """The curve at one value, with the interval of its mean."""

    x: float
    mean: float
    low: float
    high: float
    harm: float = 0.0
    """Tells which end of the range is the easy one where their means do not."""


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
    """Points of the curve that ``measure`` gives at single values, close to each other where it first meets ``limit``.

    It is measured on a grid of ``points`` first, so that a curve that is not monotone is searched in the first part in
    which it exceeds the limit; the end with the lower mean is the easy one, or that with less harm where neither end
    exceeds it and their intervals overlap. Then its mean and both ends of its interval are bracketed within the axis'
    tolerance by Brent's method (:func:`scipy.optimize.brentq`), sharing what was measured. A dip between two points of
    the grid is not seen.
    """
    known: dict[float, Point] = {}

    def height(x: float, end: int) -> float:
        if x not in known:
            known[x] = measure(x)
        return float(_heights([known[x]], limit)[0, end])

    for x in axis.grid(points):
        height(x, 0)
    absolute, relative = axis.tolerances
    for end in [0, 1, 2] * 2:  # a value tried for one end may open another's bracket anew
        ordered = _from_easy(known.values(), limit)
        over = _first_over(_heights(ordered, limit)[:, end])
        if 0 < over < len(ordered):
            # The ends have more digits than what is tried, and no logarithm brings them back.
            bracket = {float(axis.scale(point.x)): point.x for point in ordered[over - 1 : over + 1]}
            curve = partial(
                lambda end, exact, u: height(exact.get(u, axis.rounded(axis.unscale(u))), end), end, bracket
            )
            optimize.brentq(curve, *bracket, xtol=absolute, rtol=relative, disp=False)
    return sorted(known.values(), key=lambda point: point.x)


def crossing(points: Sequence[Point], axis: Range, limit: float) -> Crossing:
    """Where the curve through ``points`` first exceeds the ``limit``, from its easy end, and the interval of that."""
    ordered = _from_easy(points, limit)
    heights = _heights(ordered, limit)
    value, *ends = (_last_within([point.x for point in ordered], column, axis) for column in heights.T)
    if any(math.isnan(point.low) and not math.isnan(point.mean) for point in points):
        ends = [math.nan, math.nan]
    state = "found" if math.isfinite(value) else "always" if value == _beyond(ordered[0].x, ordered[-1].x) else "never"
    crossings = int(np.count_nonzero(np.diff(heights[:, 0] > 0)))
    return Crossing(state, ordered[0].x, ordered[-1].x, value, min(ends), max(ends), crossings)


def _last_within(x: Sequence[float], heights: np.ndarray, axis: Range) -> float:
    """The last value on the way from the easy end at which the curve has not exceeded the limit."""
    over = _first_over(heights)
    if over in (0, len(x)):
        return _beyond(x[0], x[-1]) if over else _beyond(x[-1], x[0])
    if axis.whole:
        return x[over - 1]
    a, b = axis.scale(x[over - 1]), axis.scale(x[over])
    below, above = heights[over - 1 : over + 1]
    straight = -below / (above - below) if math.isfinite(above) else 0.5
    return axis.rounded(axis.unscale(a + straight * (b - a)))


def _from_easy(points: Iterable[Point], limit: float) -> list[Point]:
    """The points from the easy end of the range to the hard one."""
    ordered = sorted(points, key=lambda point: point.x)
    first, last = ordered[0], ordered[-1]
    overlap = max(first.low, last.low) <= min(first.high, last.high)
    if overlap and first.harm != last.harm and max(first.mean, last.mean) <= limit:  # their means may be luck
        return ordered[::-1] if first.harm > last.harm else ordered
    easy, hard = ((_heights([point], 0.0)[0, 0], point.harm) for point in (first, last))
    return ordered[::-1] if easy > hard else ordered


def _heights(points: Sequence[Point], limit: float) -> np.ndarray:
    """How far mean, upper and lower end are above the limit; not a number counts as infinitely far."""
    heights = np.array([[point.mean, point.high, point.low] for point in points]) - limit
    return np.where(np.isnan(heights), np.inf, heights)


def _first_over(heights: np.ndarray) -> int:
    """The place of the first height above 0, or how many there are."""
    return int(np.argmax(np.append(heights, np.inf) > 0))


def _beyond(a: float, b: float) -> float:
    """Infinity, on the side of ``b`` seen from ``a``."""
    return math.copysign(math.inf, b - a)
