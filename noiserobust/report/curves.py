"""Curves with bands and contours: measures against strength, epoch or loss, and loss landscapes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from noiserobust.errors import UserError
from noiserobust.minima.labels import without_strength
from noiserobust.report.leading import axis_label, leading
from noiserobust.report.style import ANY, TINY, WEIGHT_ALPHA, Entry, Look, dress, looks, panels, shade


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
    names, look = list(dict.fromkeys(lines["panel"])), looks(lines["method"])
    legend: list[Entry] = [(Line2D([], [], **one.line()), method) for method, one in look.items()]
    if band and lines["std"].notna().any():
        legend.append((Line2D([], [], color=ANY, linewidth=7, alpha=WEIGHT_ALPHA), band))
    if directed:
        ring = Line2D([], [], color=ANY, marker="o", linestyle="", markersize=9, fillstyle="none")
        legend.append((ring, "last epoch"))
    figure, axes = panels(len(names), title, legend=legend)
    for axis, name in zip(axes, names, strict=True):
        shown = lines[lines["panel"] == name]
        for method, one in look.items():
            _draw(axis, shown[shown["method"] == method], one, directed)
        dress(axis, name if len(names) > 1 else "", xlabel, ylabel or (name if len(names) == 1 else ""))
        if (shown["x"] % 1 == 0).all():  # epochs, severities
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
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
    figure, axes = panels(len(methods), title, size=(3.6, 3.5))
    low, high = points["mean"].min(), points["mean"].max()
    # Equal steps of the logarithm: the valley shows beside the walls.
    levels = np.geomspace(max(low, 1e-4), max(high, 2e-4), 16)
    for axis, method in zip(axes, methods, strict=True):
        grid = points[points["method"] == method].pivot_table(index="y", columns="x", values="mean")
        filled = axis.contourf(grid.columns, grid.index, grid.to_numpy(), levels, cmap="viridis", extend="both")
        drawn = axis.contour(grid.columns, grid.index, grid.to_numpy(), levels[::3], colors="white", linewidths=0.6)
        axis.clabel(drawn, fmt="%.2g", fontsize=TINY)
        axis.plot(0, 0, marker="+", color="white", markersize=9, markeredgewidth=1.6)
        axis.set_aspect("equal")
        dress(axis, method, "direction 1, in filter norms", "direction 2", grid="none")
    bar = figure.colorbar(filled, ax=axes, label="loss", shrink=0.9)
    bar.set_ticks([float(level) for level in levels[::3]], labels=[f"{level:.2g}" for level in levels[::3]])
    return figure


def _draw(axis: Axes, line: pd.DataFrame, look: Look, directed: bool) -> None:
    """The line of one method, and its band or, of a path, its end."""
    line = line if directed else line.sort_values("x")
    x, mean, std = (line[name].to_numpy(dtype=float) for name in ("x", "mean", "std"))
    if not directed and np.isfinite(std).any():
        shade(axis, x, mean - std, mean + std, look.colour, WEIGHT_ALPHA / 2, zorder=1)
    axis.plot(x, mean, **look.line(markevery=max(1, len(x) // 12)), zorder=3)
    if directed and len(x):
        axis.plot(x[-1:], mean[-1:], marker="o", markersize=11, fillstyle="none", color=look.colour, zorder=4)


def epochs_figure(lines: pd.DataFrame, x: str, title: str) -> Figure:
    """What was logged in training, against epochs or as a path: the lines of ``evaluation.training_logs.curves``."""
    against = x != "epoch"
    return curves_figure(lines, x, title, band="" if against else "± std over trained models", directed=against)


def severity_figure(summary: pd.DataFrame, title: str = "") -> Figure:
    """The task's metric, such as accuracy (mean over corruptions), against severity; bands are ± std over trained
    models."""
    chosen = summary[summary["metric"] == leading(summary)]
    noises, label = list(dict.fromkeys(chosen["noise"])), axis_label(chosen)
    names = [label if len(noises) == 1 else f"{label}, {noise}" for noise in chosen["noise"]]
    title = title or f"{label.split(' (')[0].capitalize()} on corrupted images"
    lines = chosen.assign(panel=names, x=chosen["severity"], std=chosen["weight_std"])
    return curves_figure(lines, "severity of the corruption", title, band="± std over trained models")
