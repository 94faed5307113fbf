"""What a designer asks, as pictures: sensitive layers, layers to keep digital, noise budgets."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from noiserobust.report.design_tables import ALL, effect, over, ranking, records
from noiserobust.report.plots import COLOURS, MARKERS, QUIET, TEXT, save, wrapped
from noiserobust.report.table import seconds

MOST = 30  # layers that a picture shows; the table has them all
EFFECTS = {"alone": "noise on this layer only", "spared": "gain when this layer alone is digital"}
TIMES = [1, 10, 60, 600, 3600, 6 * 3600, 86400, 10 * 86400, 100 * 86400, 365 * 86400, 10 * 365 * 86400]  # s, axis marks
SHARES = {"weights_share": "weights", "macs_share": "multiply-accumulates"}


def sensitive_layers(effects: pd.DataFrame, path: str | os.PathLike[str], by: str = "alone") -> Path:
    """Save :func:`sensitivity_figure` as a PNG; returns the path written."""
    return save(sensitivity_figure(effects, by), path)


def sensitivity_figure(effects: pd.DataFrame, by: str = "alone") -> Figure:
    """Bars with intervals, a panel per method on one scale, its most sensitive layer on top; beside them each layer's
    share of weights and multiply-accumulates. Takes the ``effects`` of ``evaluation.sensitivity``."""
    methods = list(dict.fromkeys(effects["method"]))
    tables = [effects[effects["method"] == method] for method in methods]
    ranks = [ranking(own, by) for own in tables]
    shown = max(len(names[:MOST]) for names in ranks)
    widths = [w for _ in methods for w in (3.0, 1.2)]
    figure = Figure(
        figsize=(1.6 + 1.5 * sum(widths), 1.9 + 0.36 * shown), layout=ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.08)
    )
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    for index, (method, own, names) in enumerate(zip(methods, tables, ranks, strict=True)):
        bars, shares = axes[2 * index], axes[2 * index + 1]
        _effect_bars(bars, own, names[:MOST])
        whole = effect(own, ALL, "alone")
        bars.set_title(wrapped(f"{method}: all layers cost {whole['mean']:.1f} points", 46), fontsize=10.5, color=TEXT)
        _share_bars(shares, own, names[:MOST])
        if len(names) > MOST:
            bars.set_xlabel(bars.get_xlabel() + f"\n({len(names) - MOST} less sensitive layers not shown)", color=TEXT)
    reach = [axis.get_xlim() for axis in axes[::2]]
    for axis in axes[::2]:
        axis.set_xlim(min(low for low, _ in reach), max(high for _, high in reach))
    first = records(effects)[0]
    time = "" if math.isnan(first["t"]) else f" at {seconds(first['t'])}"
    figure.suptitle(wrapped(f"Layer sensitivity under {first['noise']}{time}", 90), fontsize=12.5, color=TEXT)
    handles, labels = axes[0].get_legend_handles_labels()
    others, words = axes[1].get_legend_handles_labels()
    labels += [f"share of {word}" for word in words]
    columns = 4 if len(methods) > 1 else 2
    figure.legend(
        handles + others, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, labelcolor=TEXT
    )
    return figure


def digital_layers(steps: pd.DataFrame, path: str | os.PathLike[str], within: float | None = None) -> Path:
    """Save :func:`digital_figure` as a PNG; returns the path written."""
    return save(digital_figure(steps, within), path)


def digital_figure(steps: pd.DataFrame, within: float | None = None) -> Figure:
    """Accuracy on fresh draws against the share of multiply-accumulates kept digital, and which layers those are: a
    panel per method. Takes the ``steps`` of ``keep_digital``."""
    methods = list(dict.fromkeys(steps["method"]))
    most = max(len(steps[steps["method"] == method]) for method in methods)
    height = max(4.2, 1.9 + 0.24 * most)
    figure = Figure(figsize=(8.4 * len(methods), height), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    axes = figure.subplots(1, 2 * len(methods), width_ratios=[5.2, 3.0] * len(methods), squeeze=False)[0]
    for index, method in enumerate(methods):
        own = steps[steps["method"] == method]
        _digital_curve(axes[2 * index], own, within)
        _names_of_steps(axes[2 * index + 1], own)
    first = records(steps)[0]
    time = "" if math.isnan(first["t"]) else f" at {seconds(first['t'])}"
    title = f"Which layers to keep digital under {first['noise']}{time}"
    figure.suptitle(wrapped(title, 80 * len(methods)), fontsize=12.5, color=TEXT)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(4, len(labels)),
        frameon=False,
        fontsize=9,
        labelcolor=TEXT,
    )
    return figure


def noise_budget(answers: pd.DataFrame, curve: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Save :func:`budget_figure` as a PNG; returns the path written."""
    return save(budget_figure(answers, curve), path)


def budget_figure(answers: pd.DataFrame, curve: pd.DataFrame) -> Figure:
    """Points lost against what is varied, a line with its band per method, and where each meets the limit.

    Takes the ``answers`` and ``curve`` of ``evaluation.budget``. Losses far above the limit are left out of sight.
    """
    figure = Figure(figsize=(7.6, 5.2), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    axis = figure.subplots()
    lines = records(answers)
    limit = lines[0]["within"]
    axis.axhline(limit, color=TEXT, linewidth=1.1, linestyle="--", label=f"limit: {limit:g} points")
    for index, line in enumerate(lines):
        own = curve[curve["method"] == line["method"]].sort_values("x")
        colour, x, lost = COLOURS[index % len(COLOURS)], own["x"].to_numpy(), own["lost"].to_numpy()
        axis.fill_between(x, own["low"].to_numpy(), own["high"].to_numpy(), color=colour, alpha=0.15, linewidth=0)
        style: dict[str, Any] = {"color": colour, "marker": MARKERS[index % len(MARKERS)], "markersize": 4}
        label = wrapped(f"{line['method']} (clean {line['clean']:.1f} %)", 44)
        axis.plot(x, lost, label=label, linewidth=1.6, **style)
        if not math.isnan(line["low"]):
            # Beside each other around the limit, so that every method's interval is in sight.
            height = limit + (index - (len(lines) - 1) / 2) * 0.1 * limit
            ends = [min(max(line[name], x.min()), x.max()) for name in ("low", "high")]
            axis.plot(ends, [height, height], color=colour, linewidth=5, alpha=0.6, solid_capstyle="butt", zorder=4)
        if math.isfinite(line["value"]):
            axis.plot([line["value"]] * 2, [0, limit], color=colour, linewidth=1.2, linestyle=(0, (3, 2)), zorder=3)
    axis.plot([], [], color=QUIET, linewidth=5, alpha=0.6, label=f"{_confidence(answers)} interval of the budget")
    axis.fill_between(
        [], [], color=QUIET, alpha=0.25, linewidth=0, label=f"{_confidence(answers)} interval of the loss"
    )
    _budget_axes(axis, answers, curve)
    axis.set_title("Noise budget", fontsize=12.5, color=TEXT)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9, labelcolor=TEXT)
    return figure


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
    edges = pd.concat([answers[name][np.isfinite(answers[name])] for name in ("low", "high", "value")])
    inside = pd.concat([x[curve["lost"] <= top], edges])
    beyond = x[sign * x > (sign * inside).max()]
    axis.set_xlim(first["easy"], sign * (sign * beyond).min() if len(beyond) else first["hard"])
    axis.set_ylim(-0.4 * limit, top)
    what = f"time since programming, {first['vary']}" if time else f"x in {first['vary']}"
    axis.set_xlabel(wrapped(what, 80), color=TEXT)
    axis.set_ylabel(f"points of accuracy lost against clean\n(intervals over {over(answers)})", color=TEXT)
    _dress(axis)


def _effect_bars(axis: Axes, own: pd.DataFrame, names: Sequence[str]) -> None:
    places = np.arange(len(names))
    for index, (kind, label) in enumerate(EFFECTS.items()):
        lines = [effect(own, name, kind) for name in names]
        means = np.array([line["mean"] for line in lines])
        reach = np.array([[line["mean"] - line["low"], line["high"] - line["mean"]] for line in lines]).T
        axis.barh(places + 0.38 * index - 0.19, means, 0.36, color=COLOURS[index], label=label, zorder=2)
        if not np.isnan(reach).all():
            axis.errorbar(
                means,
                places + 0.38 * index - 0.19,
                xerr=reach,
                fmt="none",
                ecolor=TEXT,
                elinewidth=1.1,
                capsize=2,
                zorder=3,
            )
    axis.axvline(0, color=QUIET, linewidth=0.8)
    axis.set_yticks(places, [wrapped(name, 34) for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    first = records(own)[0]
    axis.set_xlabel(f"points of accuracy\n({100 * first['confidence']:g} % intervals over {over(own)})", color=TEXT)
    _dress(axis)
    axis.grid(False, axis="y")


def _share_bars(axis: Axes, own: pd.DataFrame, names: Sequence[str]) -> None:
    places = np.arange(len(names))
    for index, (column, label) in enumerate(SHARES.items()):
        shares = [effect(own, name, "alone")[column] for name in names]
        axis.barh(
            places + 0.38 * index - 0.19, shares, 0.36, color=["#888888", "#cccccc"][index], label=label, zorder=2
        )
    axis.set_yticks(places, [""] * len(names))
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel("% of the network", color=TEXT)
    _dress(axis)
    axis.grid(False, axis="y")


def _digital_curve(axis: Axes, own: pd.DataFrame, within: float | None) -> None:
    x, mean = own["macs_share"].to_numpy(), own["accuracy"].to_numpy()
    known = not own["macs_share"].isna().any()
    if not known:
        x = own["step"].to_numpy()
    clean = own["clean"].iloc[0]
    axis.axhline(clean, color=TEXT, linewidth=1.1, label="clean")
    if within is not None:
        axis.axhline(clean - within, color=TEXT, linewidth=1.1, linestyle="--", label=f"{within:g} points below clean")
    axis.plot(
        x, own["search_accuracy"], color=COLOURS[1], linestyle=":", linewidth=1.4, marker=".", label="in the search"
    )
    reach = np.array([mean - own["low"], own["high"] - mean])
    axis.errorbar(
        x,
        mean,
        yerr=None if np.isnan(reach).any() else reach,
        color=COLOURS[0],
        marker="o",
        markersize=10,
        capsize=3,
        linewidth=1.6,
        label=f"fresh draws, {100 * own['confidence'].iloc[0]:g} % over {over(own)}",
    )
    for place, height, step in zip(x, mean, own["step"], strict=True):
        axis.annotate(str(step), (place, height), ha="center", va="center", fontsize=7.5, color="white", zorder=6)
    axis.set_xlabel("% of multiply-accumulates kept digital" if known else "layers kept digital", color=TEXT)
    axis.set_ylabel("test accuracy (%)", color=TEXT)
    axis.set_title(wrapped(own["method"].iloc[0], 44), fontsize=10.5, color=TEXT)
    _dress(axis)
    axis.margins(x=0.06, y=0.1)


def _names_of_steps(axis: Axes, own: pd.DataFrame) -> None:
    """The key to the numbers of the curve."""
    lines = [f"{line['step']}  + {line['layer']}" for line in records(own) if line["layer"]]
    text = "\n".join(["0  all analog", *lines])
    axis.text(0, 1, text.replace("$", r"\$"), va="top", ha="left", fontsize=8.5, color=TEXT, linespacing=1.5)
    axis.axis("off")


def _dress(axis: Axes) -> None:
    axis.tick_params(color=QUIET, labelcolor=TEXT)
    axis.grid(True, color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(QUIET)
