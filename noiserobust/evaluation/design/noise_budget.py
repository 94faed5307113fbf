"""Noise budget: how much of a noise a network may meet before it loses a stated number of points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from noiserobust.errors import UserError
from noiserobust.evaluation.design.crossing import Axis, Crossing, Point, first_crossing
from noiserobust.evaluation.design.layers import DIGITAL, at_once, by_method, check_single, contrast, level
from noiserobust.evaluation.evaluated_models import Models
from noiserobust.evaluation.monte_carlo import evaluate
from noiserobust.evaluation.settings import grouped
from noiserobust.noise import NoiseModel
from noiserobust.spec import Duration

NUMBER = "{x}"


@dataclass(frozen=True)
class Budget:
    """What :func:`budget` found: evaluation's ``rows``, one line of ``answers`` per method, and the ``curve``.

    ``answers``: ``value`` with its interval ``low`` to ``high`` (infinite where it lies outside the range on that side,
    NaN without an interval), ``state`` ("found", "always" or "never" within the range), ``easy`` and ``hard`` (the ends
    of the range), ``within`` (points), ``clean`` (percent), ``crossings`` (more than one: the loss is not monotone),
    ``evaluated`` (values tried). ``curve``: every value tried, with the points lost there and their interval.
    """

    rows: pd.DataFrame
    answers: pd.DataFrame
    curve: pd.DataFrame


@dataclass(frozen=True)
class Varied:
    """A noise with one free number: ``{x}`` in its text, or the time at which it is read."""

    template: str
    time: bool

    def __post_init__(self) -> None:
        if self.time == (NUMBER in self.template):
            what = "a noise with its numbers to vary the time of" if self.time else "one free number {x} in the noise"
            example = "pcm" if self.time else "gaussian:{x}"
            raise UserError(f"expected {what}, such as {example}, got '{self.template}'")

    def at(self, x: float) -> tuple[NoiseModel, float | None]:
        """The noise, and its time where that is what varies."""
        if self.time:
            return NoiseModel.parse(self.template), x
        return NoiseModel.parse(self.template.replace(NUMBER, f"{x:.10g}")), None

    def number(self, text: str | float) -> float:
        """An end of the range as a person wrote it."""
        if self.time:
            return float(Duration(text))
        try:
            return float(text)
        except ValueError:
            raise UserError(f"expected a number as an end of the range, got '{text}'") from None

    def axis(self, between: tuple[str | float, str | float], log: bool | None, tolerance: float) -> Axis:
        """How the number is searched: whole where the noise takes only whole ones; times, and wide ranges of whole
        numbers, in their logarithm."""
        low, high = (self.number(end) for end in between)
        for end in (low, high):
            self.at(end)
        whole = not self.time and self._refuses(math.floor((low + high) / 2) + 0.5)
        wide = whole and low > 0 and high >= 8 * low
        return Axis(low, high, (self.time or wide) if log is None else log, whole, tolerance)

    def _refuses(self, x: float) -> bool:
        try:
            self.at(x)
        except UserError:
            return True
        return False


def budget(
    models: Models,
    data: Any,
    vary: str,
    between: tuple[str | float, str | float],
    within: float = 1.0,
    draws: int = 10,
    seed: int = 0,
    *,
    vary_time: bool = False,
    log: bool | None = None,
    points: int = 5,
    tolerance: float = 0.02,
    confidence: float = 0.95,
    t: float | str | None = None,
    out: str | Path | None = None,
    progress: bool = False,
    **options: Any,
) -> Budget:
    """The largest (or fewest) x at which the mean accuracy stays within ``within`` points of clean.

    With ``vary`` such as ``"gaussian:{x}"``, ``"gaussian:0.05,reference=tile,rows={x},columns={x}"`` or a noise that
    takes bits; with ``vary_time``, ``vary`` is a noise such as ``"pcm"`` and x the time since programming. ``between``
    are the ends of x (times as ``"1h"``); the one that loses less is the easy one, from which the search starts.

    Every x meets the same draws (a noise scaled up is the same draw scaled up; read noise is drawn anew at every time),
    so that the loss is as smooth in x as the network is and the root of its mean can be searched for
    (:mod:`.crossing`). The interval inverts the pointwise one of the loss: it holds the x whose interval contains
    ``within``. That is over models where a method has several, else over draws: it then tells nothing about another
    training run. Where the loss is not monotone the answer is the first loss of more than ``within`` on the way from
    the easy end, as far as the grid of ``points`` sees it.

    Everything else is as for :func:`~noiserobust.evaluate`, whose rows these are. Raises
    :class:`~noiserobust.UserError` for input that cannot be evaluated, a text without (or with a needless) ``{x}``, and
    a range that the noise refuses.
    """
    varied = Varied(vary, vary_time)
    if not within >= 0:
        raise UserError(f"expected within >= 0 points of accuracy, got {within}")
    check_single(options)
    axis = varied.axis(between, log, tolerance)
    shared = {"data": at_once(data), "draws": draws, "seed": seed, "out": out} | options
    lines: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []
    tables: list[pd.DataFrame] = []
    with tqdm(unit="value", disable=not progress, delay=1) as bar:
        for method, members in by_method(models).items():
            bar.set_description_str(f"{method} ", refresh=False)
            loss = _Loss(varied, axis, t, shared | {"models": {method: members}}, confidence, bar)
            found = first_crossing(loss, axis, within, points)
            clean = level(loss.tables[0], confidence)["mean"]
            head = {"method": method, "vary": vary, "vary_time": vary_time, "within": within, "clean": clean}
            lines.append(head | _answer(found) | loss.about)
            curve += [
                head | {"x": point.x, "lost": point.mean, "low": point.low, "high": point.high} | loss.about
                for point in found.points
            ]
            tables += loss.tables
    return Budget(pd.concat(tables, ignore_index=True), pd.DataFrame(lines), pd.DataFrame(curve))


class _Loss:
    """Points that one method loses at a value, draw by draw against its clean accuracy."""

    def __init__(
        self,
        varied: Varied,
        axis: Axis,
        t: float | str | None,
        shared: Mapping[str, Any],
        confidence: float,
        bar: tqdm[Any],
    ) -> None:
        self.varied, self.t, self.shared, self.confidence, self.bar = varied, t, shared, confidence, bar
        self.tables = [evaluate(noises=varied.at(axis.low)[0].scaled(0), **grouped({**shared, **DIGITAL})).rows]
        self.about: dict[str, Any] = {}
        """What the intervals are over, and of how many."""

    def __call__(self, x: float) -> Point:
        noise, time = self.varied.at(x)
        options = grouped({**self.shared, "times": (self.t if time is None else time,)})
        self.tables.append(evaluate(noises=noise, **options).rows)
        self.about = contrast(self.tables[0], self.tables[-1], self.confidence)
        mean, low, high = (self.about.pop(name) for name in ("mean", "low", "high"))
        self.bar.update()
        rows = self.tables[-1]
        return Point(x, mean, low, high, rows.loc[rows["metric"] == "loss", "value"].mean())


def _answer(found: Crossing) -> dict[str, Any]:
    names: Sequence[str] = ("state", "value", "low", "high", "easy", "hard", "crossings")
    return {name: getattr(found, name) for name in names} | {"evaluated": len(found.points)}
