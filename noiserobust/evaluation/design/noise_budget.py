"""Noise budget: how much of a noise a network may meet before it loses a stated number of points."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from noiserobust.analog.backends import Backend
from noiserobust.analog.converters import Converters
from noiserobust.analog.coverage import Coverage
from noiserobust.analog.layer_table import LayerSettings, LayerTable
from noiserobust.bars import Bar
from noiserobust.errors import UserError
from noiserobust.evaluation.design.crossing import Point, Range, crossing, search
from noiserobust.evaluation.design.layers import by_method, differences, require_one_condition, turned
from noiserobust.evaluation.evaluated_models import Models
from noiserobust.evaluation.monte_carlo import evaluate
from noiserobust.evaluation.result import Result, drawn
from noiserobust.evaluation.settings import Chips, Compute, Where
from noiserobust.evaluation.statistics.components import require_confidence
from noiserobust.models import ModelSpec
from noiserobust.noise import NoiseModel
from noiserobust.report.design_tables import budget_table
from noiserobust.report.leading import leading, quantity_of
from noiserobust.spec import Duration
from noiserobust.spec.kinds import check_fields, typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBER = "{x}"


@dataclass(frozen=True)
class Axis:
    """What x is, and how finely it is searched."""

    time: bool = False
    """Whether x is the time since programming; otherwise it is the number ``{x}`` in the noise."""
    log: bool | None = None
    """Search in the logarithm (None: for times, and for wide ranges of whole numbers)."""
    points: int = 5
    """Values on the first grid, which shows whether the loss is monotone."""
    tolerance: float = 0.02
    """How finely the answer is searched, as a fraction of it (of the range, on a logarithmic axis)."""
    confidence: float = 0.95
    """Of the interval whose ends are searched as finely; those of others are interpolated between the values tried."""

    def __post_init__(self) -> None:
        check_fields(self)
        require_confidence(self.confidence)


@dataclass(frozen=True)
class Budget(Result):
    """How much noise a network may meet: rows of :func:`evaluate`, with the value tried in their column ``x``."""

    vary: str
    axis: Axis
    between: Range
    within: float

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """One line per method: ``value`` with its interval ``low`` to ``high``.

        They are infinite where they lie outside the range on that side, NaN without an interval. ``state``: "found",
        "always" or "never" within the range; ``easy`` and ``hard``: the ends of the range; ``within`` (points);
        ``clean`` (percent, or the unit of the task's ``metric``); ``crossings``: more than one says that the loss is
        not monotone; ``evaluated``: values tried.
        """
        lines = []
        for method, curve in self.curve(confidence).groupby("method", sort=False):
            points = _points(curve)
            metric = leading(self.rows)
            rows = self.rows[(self.rows["method"] == method) & (self.rows["metric"] == metric)]
            clean = rows.loc[rows["x"].isna(), "value"].mean()
            answer = vars(crossing(points, self.between, self.within))
            about = curve.iloc[0][["interval_over", "models", "draws", "confidence"]].to_dict()
            head = {"method": method, "vary": self.vary, "vary_time": self.axis.time, "within": self.within}
            head |= {"metric": metric}
            lines.append(head | {"clean": clean} | answer | {"evaluated": len(points)} | about)
        return pd.DataFrame(lines)

    def curve(self, confidence: float = 0.95) -> pd.DataFrame:
        """Every value ``x`` tried: the points ``lost`` there against clean with their interval, and the mean loss
        (nats) as ``harm``."""
        curves = [
            _curve(rows, confidence).assign(method=method) for method, rows in self.rows.groupby("method", sort=False)
        ]
        return pd.concat(curves, ignore_index=True)

    def table(self, markdown: bool = False, confidence: float = 0.95) -> str:
        """One line per method: the answer, its interval, and in words what stands in its way."""
        return budget_table(self.summary(confidence), markdown)

    def plot(self, path: str | Path | None = None, confidence: float = 0.95) -> Figure:
        """Points lost against what is varied, and where they reach the limit."""
        from noiserobust.report.design_plots import budget_figure

        return drawn(budget_figure(self.summary(confidence), self.curve(confidence)), path)


@dataclass(frozen=True)
class Varied:
    """What has one free number, ``{x}`` in its text (a noise, converters, a backend, the noise or converters of the
    layers that a pattern matches), or the time at which it is read; everything else of an evaluation with it."""

    template: str
    time: bool
    noise: str | None = None
    """The weights' noise meanwhile, where the number is not in it (None: none)."""
    chips: Chips = Chips()
    where: Where = Where()

    def __post_init__(self) -> None:
        if self.time == (NUMBER in self.template):
            what = "a noise with its numbers to vary the time of" if self.time else "one free number {x} in the noise"
            example = "pcm" if self.time else "gaussian:{x}, io:adc={x} or head.*: quantize:{x}"
            raise UserError(f"expected {what}, such as {example}, got '{self.template}'")
        if self.kind == "noise" and self.noise is not None:
            raise UserError(f"expected no noise beside {self.template}, which is one, got {self.noise}; leave it out")

    @property
    def kind(self) -> str:
        """``noise``, ``converters``, ``backend`` or ``layers``."""
        if ": " in self.template:
            return "layers"
        name = self.template.partition(":")[0]
        return "converters" if name in Converters.registry else "backend" if name in Backend.registry else "noise"

    def at(self, x: float) -> dict[str, Any]:
        """The noise, chips and layers of an evaluation at x."""
        text = self.template if self.time else self.template.replace(NUMBER, f"{x:.10g}")
        noise = NoiseModel.parse(text if self.kind == "noise" else self.noise or "gaussian:0")
        settings: dict[str, Any] = {"noises": noise, "chips": self.chips, "where": self.where}
        if self.time:
            settings["chips"] = replace(self.chips, times=(x,))
        elif self.kind == "layers":
            pattern, _, value = text.partition(": ")
            own = LayerSettings(noise=value)
            if value.partition(":")[0] in Converters.registry:
                own = LayerSettings(converters=value)
            row = (pattern, own.checked())
            settings["where"] = replace(self.where, layers=LayerTable((*LayerTable.of(self.where.layers).rows, row)))
        elif self.kind == "converters":
            settings["chips"] = replace(self.chips, converters=Converters.parse(text))
        elif self.kind == "backend":
            settings["chips"] = replace(self.chips, backend=Backend.parse(text))
        return settings

    @property
    def clean(self) -> dict[str, Any]:
        """Those of the digital network: nothing is done around a chip where there is none."""
        return {"noises": "gaussian:0", "where": self.where.clean()}

    def number(self, text: str | float) -> float:
        """An end of the range as a person wrote it."""
        if self.time:
            return float(Duration(text))
        try:
            return float(text)
        except ValueError:
            raise UserError(f"expected a number as an end of the range, got '{text}'") from None

    def range(self, between: tuple[str | float, str | float], axis: Axis) -> Range:
        """How the number is searched: whole where the noise takes only whole ones; times, and wide ranges of whole
        numbers, in their logarithm."""
        low, high = (self.number(end) for end in between)
        for end in (low, high):
            self.at(end)
        whole = not self.time and self._refuses(math.floor((low + high) / 2) + 0.5)
        wide = whole and low > 0 and high >= 8 * low
        return Range(low, high, (self.time or wide) if axis.log is None else axis.log, whole, axis.tolerance)

    def _refuses(self, x: float) -> bool:
        try:
            self.at(x)
        except UserError:
            return True
        return False


@typed
def budget(
    models: Models,
    data: Any = None,
    vary: str = "gaussian:{x}",
    between: tuple[str | float, str | float] = (0, 0.5),
    within: float = 1.0,
    draws: int | range = 10,
    seed: int = 0,
    *,
    noise: str | None = None,
    axis: Axis = Axis(),
    images: int | None = None,
    model: ModelSpec | str | None = None,
    task: Any = None,
    chips: Chips = Chips(),
    compute: Compute = Compute(),
    where: Where = Where(),
    out: str | Path | None = None,
    progress: bool = False,
) -> Budget:
    """How much noise may there be? The largest (or least) x that costs at most ``within`` points of accuracy (or units
    of the task's metric).

    >>> print(budget("runs", vary="gaussian:{x}", between=(0, 0.5), within=2.0))  # doctest: +SKIP

    ``vary`` is a noise with a free number, such as ``"gaussian:{x}"``,
    ``"gaussian:0.05,reference=tile,rows={x},columns={x}"`` or a noise that takes bits; with ``axis=Axis(time=True)`` it
    is a noise such as ``"pcm"`` and x the time since programming. It may also be converters, ``"io:adc={x}"``, a
    backend, or a pattern with the noise or converters of the layers that it matches, ``"head.*: quantize:{x}"``; the
    weights' ``noise`` meanwhile is then named beside it (default: none). ``between`` are the ends of x (times as
    ``"1h"``); the one that loses less is the easy one, from which the search starts.

    Every x meets the same draws (a noise scaled up is the same draw scaled up; read noise is drawn anew at every time),
    so that the loss is as smooth in x as the network is and the root of its mean can be searched for
    (:mod:`.crossing`). The interval inverts the pointwise one of the loss: it holds the x whose interval contains
    ``within``. That is over models where a method has several, else over draws: it then tells nothing about another
    training run. Where the loss is not monotone the answer is the first loss of more than ``within`` on the way from
    the easy end, as far as the grid of ``axis.points`` sees it.

    Everything else is as for :func:`~noiserobust.evaluate`, under one condition. Raises
    :class:`~noiserobust.UserError` for input that cannot be evaluated, a text without (or with a needless) ``{x}``, and
    a range that the noise refuses.
    """
    varied = Varied(vary, axis.time, noise, chips, where)
    if not within >= 0:
        raise UserError(f"expected within >= 0 points of accuracy, got {within}")
    require_one_condition(chips)
    whole_range = varied.range(between, axis)
    methods, data = by_method(models, data, task, varied.at(varied.number(between[0]))["chips"])
    fixed: dict[str, Any] = {"data": data, "draws": draws, "seed": seed, "images": images, "model": model, "task": task}
    fixed |= {"compute": compute, "out": out}
    coverage: dict[str, Coverage] = {}

    def measured(group: Any) -> list[pd.DataFrame]:
        """The rows of one method: clean first, then those of every value tried."""
        run = partial(evaluate, group, **fixed)
        clean = run(**varied.clean)
        coverage.update(clean.coverage)
        tables = [clean.rows.assign(x=math.nan)]

        def loss(x: float) -> Point:
            tables.append(run(**varied.at(x)).rows.assign(x=x))
            bar.update()
            return _points(_curve(pd.concat([tables[0], tables[-1]]), axis.confidence))[0]

        search(loss, whole_range, within, axis.points)
        return tables

    with Bar(unit="value", disable=not progress, delay=1) as bar:
        tables = [table for method, members in methods.items() for table in measured({method: members})]
    return Budget(pd.concat(tables, ignore_index=True), vary, axis, whole_range, within, coverage=coverage)


def _curve(rows: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Points that one method loses at every x, draw by draw against its clean accuracy."""
    clean, noisy = rows[rows["x"].isna()], dict(iter(rows.groupby("x")))
    metric = leading(rows)
    pairs = turned([(clean, one) for one in noisy.values()], quantity_of(rows, metric).sign)
    lost = differences(pairs, confidence, metric).rename(columns={"mean": "lost"})
    losses = rows[rows["metric"] == "loss"]
    harm = losses.groupby("x")["value"].mean() if len(losses) else lost["lost"]
    return lost.assign(x=list(noisy), harm=harm.to_numpy())


def _points(curve: pd.DataFrame) -> list[Point]:
    return [Point(*line) for line in curve[["x", "lost", "low", "high", "harm"]].itertuples(index=False)]
