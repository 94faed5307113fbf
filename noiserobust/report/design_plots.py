"""Pictures for the design of hardware: sensitive layers, layers to keep digital, noise budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from noiserobust.report.design_tables import ALL, effect, over, ranking, records, shown
from noiserobust.report.design_tables import limit as limit_of
from noiserobust.report.style import (
    FIRST,
    QUIET,
    SECOND,
    TEXT,
    TINY,
    Entry,
    dress,
    legend_below,
    looks,
    panels,
    shade,
    wrapped,
)
from noiserobust.report.table import seconds
from noiserobust.tasks.quantities import in_words, quantity

MOST = 30  # layers that a picture shows; the table has them all
EFFECTS = {"alone": "noise on this layer only", "spared": "gain when this layer alone is digital"}
TIMES = [1, 10, 60, 600, 3600, 6 * 3600, 86400, 10 * 86400, 100 * 86400, 365 * 86400, 10 * 365 * 86400]  # s, axis marks
SOLID = (1.0, 0.45)
"""How solid the bars of the two effects are, in the method's colour."""
HATCH = "////"
SHARES = {"weights_share": ("share of weights", "#888888"), "macs_share": ("share of multiply-accumulates", "#cccccc")}


def sensitivity_figure(effects: pd.DataFrame, by: str = "alone") -> Figure:
    """Bars with intervals, a panel per method on one scale, its most sensitive layer on top; beside them each layer's
    share of weights and multiply-accumulates. Takes the ``effects`` of ``noiserobust.evaluation.sensitivity``."""
    methods = list(dict.fromkeys(effects["method"]))
    tables = [effects[effects["method"] == method] for method in methods]
    ranks = [ranking(table, by) for table in tables]
    most = max(len(names[:MOST]) for names in ranks)
    look = looks(effects["method"])
    legend: list[Entry] = [
        (Patch(color=TEXT, alpha=alpha, linewidth=0), label)
        for label, alpha in zip(EFFECTS.values(), SOLID, strict=True)
    ]
    legend += [(Patch(facecolor=grey, hatch=HATCH, edgecolor="white"), label) for label, grey in SHARES.values()]
    title = f"Layer sensitivity under {_noise(effects)}"
    widths = [3.0, 1.2] * len(methods)
    figure, axes = panels(
        len(widths), title, legend=legend, size=(3.3, 0.9 + 0.36 * most), columns=len(widths), width_ratios=widths
    )
    for bars, shares, method, table, names in zip(axes[::2], axes[1::2], methods, tables, ranks, strict=True):
        metric = shown(table)
        cost = effect(table, ALL, "alone")["mean"]
        costs = f"{cost:.1f} points" if quantity(metric).unit == "%" else f"{cost:.4g} of {metric}"
        heading = f"{method}: all layers cost {costs}"
        left_out = f"\n({len(names) - MOST} less sensitive layers not shown)" if len(names) > MOST else ""
        _effect_bars(bars, table, names[:MOST], heading, left_out, look[method].colour)
        _share_bars(shares, table, names[:MOST])
    reach = [axis.get_xlim() for axis in axes[::2]]
    for axis in axes[::2]:
        axis.set_xlim(min(low for low, _ in reach), max(high for _, high in reach))
    return figure


def digital_figure(steps: pd.DataFrame, within: float | None = None) -> Figure:
    """Accuracy on fresh draws against the share of multiply-accumulates kept digital, and which layers those are: a
    panel per method. Takes the ``steps`` of ``noiserobust.evaluation.keep_digital``."""
    methods = list(dict.fromkeys(steps["method"]))
    height = max(3.1, 0.8 + 0.24 * steps["method"].value_counts().max())
    ratios, title = [5.2, 3.0] * len(methods), f"Which layers to keep digital under {_noise(steps)}"
    figure, axes = panels(len(ratios), title, size=(4.2, height), columns=len(ratios), width_ratios=ratios)
    for curve, key, method in zip(axes[::2], axes[1::2], methods, strict=True):
        table = steps[steps["method"] == method]
        _digital_curve(curve, table, within)
        _names_of_steps(key, table)
    legend_below(figure, list(zip(*axes[0].get_legend_handles_labels(), strict=True)))
    return figure


def budget_figure(answers: pd.DataFrame, curve: pd.DataFrame) -> Figure:
    """Points lost against what is varied, a line with its band per method, and where each meets the limit.

    Takes the ``answers`` and ``curve`` of ``noiserobust.evaluation.budget``. Losses far above the limit are left
    out of sight.
    """
    lines = records(answers)
    limit = lines[0]["within"]
    legend: list[Entry] = [(Line2D([], [], color=TEXT, linewidth=1.1, linestyle="--"), f"limit: {limit_of(lines[0])}")]
    look = looks(answers["method"])
    for line in lines:
        handle = Line2D([], [], **look[line["method"]].line())
        percent = quantity(line["metric"]).unit == "%"
        clean = f"{line['clean']:.1f} %" if percent else f"{line['clean']:.4g}"
        legend.append((handle, f"{line['method']} (clean {clean})"))
    interval = f"{_confidence(answers)} interval of the"
    legend.append((Line2D([], [], color=QUIET, linewidth=5, alpha=0.6), f"{interval} budget"))
    legend.append((Patch(color=QUIET, alpha=0.25, linewidth=0), f"{interval} loss"))
    figure, (axis,) = panels(1, "Noise budget", legend=legend, size=(6.4, 4.0))
    axis.axhline(limit, color=TEXT, linewidth=1.1, linestyle="--")
    for index, line in enumerate(lines):
        points = curve[curve["method"] == line["method"]].sort_values("x")
        x, own = points["x"].to_numpy(), look[line["method"]]
        shade(axis, x, points["low"].to_numpy(), points["high"].to_numpy(), own.colour, 0.15)
        axis.plot(x, points["lost"].to_numpy(), **own.line())
        if not math.isnan(line["low"]):
            # Beside each other around the limit, so that every method's interval is in sight.
            height = limit + (index - (len(lines) - 1) / 2) * 0.1 * limit
            ends = [min(max(line[name], x.min()), x.max()) for name in ("low", "high")]
            axis.plot(ends, [height, height], color=own.colour, linewidth=5, alpha=0.6, solid_capstyle="butt", zorder=4)
        if math.isfinite(line["value"]):
            axis.plot([line["value"]] * 2, [0, limit], color=own.colour, linewidth=1.2, linestyle=(0, (3, 2)), zorder=3)
    _budget_axes(axis, answers, curve)
    return figure


def _noise(table: pd.DataFrame) -> str:
    """Noise and time in words."""
    first = records(table)[0]
    return first["noise"] + ("" if math.isnan(first["t"]) else f" at {seconds(first['t'])}")


def _confidence(table: pd.DataFrame) -> str:
    return f"{100 * table['confidence'].iloc[0]:g} %"


def _budget_axes(axis: Axes, answers: pd.DataFrame, curve: pd.DataFrame) -> None:
    """Scales, and the part of the range in which the limit is met."""
    first = records(answers)[0]
    limit, time, x = first["within"], bool(first["vary_time"]), curve["x"]
    top = max(3 * limit, 1e-3)
    if x.min() > 0 and (time or x.max() >= 8 * x.min()):
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_locator(FixedLocator(TIMES) if time else LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: seconds(value) if time else f"{value:g}"))
    # To the first value, from the easy end, from which on every method's mean is out of sight.
    sign = -1 if first["easy"] > first["hard"] else 1
    budgets = pd.concat([answers[name][np.isfinite(answers[name])] for name in ("low", "high", "value")])
    inside = pd.concat([x[curve["lost"] <= top], budgets])
    beyond = x[sign * x > (sign * inside).max()]
    axis.set_xlim(first["easy"], sign * (sign * beyond).min() if len(beyond) else first["hard"])
    axis.set_ylim(-0.4 * limit, top)
    what = f"time since programming, {first['vary']}" if time else f"x in {first['vary']}"
    dress(axis, "", what, f"{in_words(first['metric'])} lost against clean\n(intervals over {over(answers)})")


def _effect_bars(
    axis: Axes, effects: pd.DataFrame, names: Sequence[str], heading: str, left_out: str, colour: str
) -> None:
    """What the noise of each layer costs alone, and what is gained when it alone is digital, with intervals."""
    places = np.arange(len(names))
    for index, kind in enumerate(EFFECTS):
        lines = [effect(effects, name, kind) for name in names]
        means, heights = np.array([line["mean"] for line in lines]), places + 0.38 * index - 0.19
        reach = np.array([[line["mean"] - line["low"], line["high"] - line["mean"]] for line in lines]).T
        axis.barh(heights, means, 0.36, color=colour, alpha=SOLID[index], zorder=2)
        if not np.isnan(reach).all():
            style: dict[str, Any] = {"fmt": "none", "ecolor": TEXT, "elinewidth": 1.1, "capsize": 2}
            axis.errorbar(means, heights, xerr=reach, zorder=3, **style)
    axis.axvline(0, color=QUIET, linewidth=0.8)
    axis.set_yticks(places, [wrapped(name, 34) for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    about = f"{in_words(shown(effects))}\n({_confidence(effects)} intervals over {over(effects)})"
    dress(axis, heading, about + left_out, grid="x")


def _share_bars(axis: Axes, effects: pd.DataFrame, names: Sequence[str]) -> None:
    """The shares of each layer in the network's weights and multiply-accumulates."""
    places = np.arange(len(names))
    for index, (column, (_, grey)) in enumerate(SHARES.items()):
        shares = [effect(effects, name, "alone")[column] for name in names]
        style: dict[str, Any] = {"facecolor": grey, "hatch": HATCH, "edgecolor": "white", "linewidth": 0}
        axis.barh(places + 0.38 * index - 0.19, shares, 0.36, zorder=2, **style)
    axis.set_yticks(places, [""] * len(names))
    axis.set_ylim(len(names) - 0.4, -0.6)
    dress(axis, "", "% of the network", grid="x")


def _digital_curve(axis: Axes, steps: pd.DataFrame, within: float | None) -> None:
    """Accuracy of one method step by step, numbered, beside clean accuracy and what the search saw."""
    known = not steps["macs_share"].isna().any()
    metric = shown(steps)
    x, mean = steps["macs_share" if known else "step"].to_numpy(), steps[metric].to_numpy()
    clean = steps["clean"].iloc[0]
    axis.axhline(clean, color=TEXT, linewidth=1.1, label="clean")
    if within is not None:
        side = "below" if quantity(metric).higher_is_better else "above"
        label = f"{limit_of({'within': within, 'metric': metric})} {side} clean"
        axis.axhline(clean - quantity(metric).sign * within, color=TEXT, linewidth=1.1, linestyle="--", label=label)
    dotted: dict[str, Any] = {"color": SECOND, "linestyle": ":", "linewidth": 1.4, "marker": "."}
    axis.plot(x, steps[f"search_{metric}"], label="in the search", **dotted)
    reach = np.array([mean - steps["low"], steps["high"] - mean])
    label = f"fresh draws, {_confidence(steps)} over {over(steps)}"
    style: dict[str, Any] = {"color": FIRST, "marker": "o", "markersize": 10, "capsize": 3, "linewidth": 1.6}
    axis.errorbar(x, mean, yerr=None if np.isnan(reach).any() else reach, label=label, **style)
    for place, height, step in zip(x, mean, steps["step"], strict=True):
        axis.annotate(str(step), (place, height), ha="center", va="center", fontsize=TINY, color="white", zorder=6)
    what = "% of multiply-accumulates kept digital" if known else "layers kept digital"
    dress(axis, steps["method"].iloc[0], what, f"test {metric}" + (" (%)" if quantity(metric).unit else ""))
    axis.margins(x=0.06, y=0.1)


def _names_of_steps(axis: Axes, steps: pd.DataFrame) -> None:
    """The key to the numbers of the curve."""
    lines = [f"{line['step']}  + {line['layer']}" for line in records(steps) if line["layer"]]
    text = "\n".join(["0  all analog", *lines])
    axis.text(0, 1, text.replace("$", r"\$"), va="top", ha="left", fontsize=8.5, color=TEXT, linespacing=1.5)
    axis.axis("off")
