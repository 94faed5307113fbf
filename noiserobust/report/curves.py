"""Curves with bands and contours: measures against strength, epoch or loss, and loss landscapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from noiserobust.errors import UserError
from noiserobust.minima.labels import without_strength
from noiserobust.report.plots import (
    COLOURS,
    LABEL_WIDTH,
    QUIET,
    TEXT,
    WEIGHT_ALPHA,
    _line_style,
    legend_shape,
    wrapped,
)


def curves_figure(
    lines: pd.DataFrame, xlabel: str, title: str, *, ylabel: str = "", band: str = "", directed: bool = False
) -> Figure:
    """A panel per value of the column ``panel``, a line per ``method``: ``mean`` against ``x``, a band of ± ``std``.

    - ``band``: what the band is, for the legend. ``directed``: points are joined in the order of the table, as epochs
      follow each other, and the last one is marked (else in order of x).

    Raises :class:`~noiserobust.UserError` when there is nothing finite to draw.
    """
    lines = lines[np.isfinite(lines["mean"]) & np.isfinite(lines["x"])]
    if lines.empty:
        raise UserError("expected something finite to draw, got none")
    panels, methods = list(dict.fromkeys(lines["panel"])), list(dict.fromkeys(lines["method"]))
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    handles = [Line2D([], [], **_line_style(index)) for index in range(len(methods))]
    labels = [wrapped(method, LABEL_WIDTH) for method in methods]
    if band and lines["std"].notna().any():
        handles.append(Line2D([], [], color="#555555", linewidth=7, alpha=WEIGHT_ALPHA))
        labels.append(band)
    if directed:
        handles.append(Line2D([], [], color="#555555", marker="o", linestyle="", markersize=9, fillstyle="none"))
        labels.append("last epoch")
    width = 1.2 + {1: 5.6, 2: 4.2, 3: 3.7}[columns] * columns
    legend_columns, legend_height = legend_shape(labels, width)
    size = (width, 0.6 + legend_height + (3.8 if rows == 1 else 3.1) * rows)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.07, hspace=0.03))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        own = lines[lines["panel"] == panel]
        for index, method in enumerate(methods):
            _draw(axis, own[own["method"] == method], index, directed)
        _dress(axis, panel if len(panels) > 1 else "", xlabel, ylabel or (panel if len(panels) == 1 else ""))
    for unused in axes[len(panels) :]:
        unused.remove()
    figure.suptitle(wrapped(title, int(width * 9)), fontsize=12.5, color=TEXT)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=legend_columns, frameon=False, fontsize=9, labelcolor=TEXT
    )
    return figure


def measures_figure(summary: pd.DataFrame, title: str = "Measures against strength") -> Figure:
    """Every measure that was taken at two or more strengths, against the strength.

    Bands are ± std over draws, or over trained models where a measure has one draw.
    """
    pairs = zip(summary["noise"], summary["strength"], strict=True)
    names = [without_strength(noise, strength) for noise, strength in pairs]
    panels = [f"{m}, {name}" for m, name in zip(summary["metric"], names, strict=True)]
    lines = summary.assign(panel=panels, x=summary["strength"], std=summary["noise_std"].fillna(summary["weight_std"]))
    swept = lines.groupby("panel")["strength"].transform("nunique") > 1
    if not swept.any():
        raise UserError("expected measures at two or more strengths to draw, got none; sweep with strengths")
    return curves_figure(lines[swept], "strength", title, band="± std over draws (over trained models if there is one)")


def landscape_figure(points: pd.DataFrame, title: str = "Loss landscape along filter-normalised directions") -> Figure:
    """The averaged points of a landscape: lines over x in one dimension, contours, a panel per method, in two."""
    if points["y"].nunique() == 1:
        lines = points.assign(panel="loss", x=points["x"])
        return curves_figure(lines, "distance, in filter norms", title, band="± std over directions and trained models")
    methods = list(dict.fromkeys(points["method"]))
    columns = 2 if len(methods) == 4 else min(len(methods), 3)
    rows = math.ceil(len(methods) / columns)
    figure = Figure(figsize=(1.2 + 3.6 * columns, 0.7 + 3.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    low, high = points["mean"].min(), points["mean"].max()
    # Equal steps of the logarithm: the valley shows beside the walls.
    levels = np.geomspace(max(low, 1e-4), max(high, 2e-4), 16)
    for axis, method in zip(axes, methods, strict=False):
        grid = points[points["method"] == method].pivot_table(index="y", columns="x", values="mean")
        filled = axis.contourf(grid.columns, grid.index, grid.to_numpy(), levels, cmap="viridis", extend="both")
        drawn = axis.contour(grid.columns, grid.index, grid.to_numpy(), levels[::3], colors="white", linewidths=0.6)
        axis.clabel(drawn, fmt="%.2g", fontsize=7)
        axis.plot(0, 0, marker="+", color="white", markersize=9, markeredgewidth=1.6)
        axis.set_aspect("equal")
        _dress(axis, method, "direction 1, in filter norms", "direction 2")
        axis.grid(False)
    for unused in axes[len(methods) :]:
        unused.remove()
    bar = figure.colorbar(filled, ax=list(axes[: len(methods)]), label="loss", shrink=0.9)
    bar.set_ticks([float(level) for level in levels[::3]], labels=[f"{level:.2g}" for level in levels[::3]])
    figure.suptitle(wrapped(title, int(9 * figure.get_size_inches()[0])), fontsize=12.5, color=TEXT)
    return figure


def _draw(axis: Axes, line: pd.DataFrame, index: int, directed: bool) -> None:
    line = line if directed else line.sort_values("x")
    x, mean, std = (line[name].to_numpy(dtype=float) for name in ("x", "mean", "std"))
    colour = COLOURS[index % len(COLOURS)]
    if not directed and np.isfinite(std).any():
        axis.fill_between(x, mean - std, mean + std, color=colour, alpha=WEIGHT_ALPHA / 2, linewidth=0, zorder=1)
    axis.plot(x, mean, **_line_style(index) | {"markevery": max(1, len(x) // 12)}, zorder=3)
    if directed and len(x):
        axis.plot(x[-1:], mean[-1:], marker="o", markersize=11, fillstyle="none", color=colour, zorder=4)


def _dress(axis: Axes, title: str, xlabel: str, ylabel: str) -> None:
    if title:
        axis.set_title(wrapped(title, 40), fontsize=10.5, color=TEXT)
    axis.set_xlabel(wrapped(xlabel, 44), color=TEXT)
    axis.set_ylabel(wrapped(ylabel, 44), color=TEXT)
    axis.tick_params(color=QUIET, labelcolor=TEXT)
    axis.grid(True, color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(QUIET)


def epochs_figure(lines: pd.DataFrame, x: str, title: str) -> Figure:
    """What :func:`noiserobust.evaluation.curves` made of runs' logs: against epochs, or along the trajectory."""
    against = x != "epoch"
    return curves_figure(lines, x, title, band="" if against else "± std over trained models", directed=against)


def severity_figure(summary: pd.DataFrame, title: str = "Accuracy on corrupted images") -> Figure:
    """Accuracy (mean over corruptions) against severity; bands are ± std over trained models."""
    chosen = summary[summary["metric"] == "accuracy"]
    noises: Sequence[str] = list(dict.fromkeys(chosen["noise"]))
    names = ["accuracy (%)" if len(noises) == 1 else f"accuracy (%), {noise}" for noise in chosen["noise"]]
    lines = chosen.assign(panel=names, x=chosen["severity"], std=chosen["weight_std"])
    return curves_figure(lines, "severity of the corruption", title, band="± std over trained models")
