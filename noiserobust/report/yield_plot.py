"""Picture of yields: the share of chips that reach an accuracy, with its bounds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from noiserobust.report.plots import COLOURS, DASHES, LABEL_WIDTH, QUIET, TEXT, legend_shape, save, wrapped
from noiserobust.report.yield_table import places

BAND_ALPHA = 0.15


def yield_against_accuracy(
    distribution: pd.DataFrame,
    yields: pd.DataFrame,
    path: str | os.PathLike[str],
    title: str = "Yield under weight noise",
) -> Path:
    """Save :func:`yield_figure` as a PNG at 150 dpi, whole or not at all; returns the path written."""
    return save(yield_figure(distribution, yields, title), path)


def yield_figure(distribution: pd.DataFrame, yields: pd.DataFrame, title: str = "Yield under weight noise") -> Figure:
    """The share of chips (%) that reach an accuracy (%) against that accuracy: a panel per noise, a line per model.

    Takes what ``evaluation.distribution`` and ``evaluation.yields`` found. A band lies between the lower and the upper
    bound of the share (not drawn where a method has several lines: they would hide each other); a dot marks the
    accuracy that the wanted share of chips reaches with the wanted confidence, where there are chips enough; grey lines
    are the wanted share and the accuracy asked for.
    """
    panels = places(distribution)
    methods = list(dict.fromkeys(distribution["method"]))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    several = distribution.groupby("method")["model"].nunique().max() > 1
    legend = _legend(methods, yields, several)
    width = 1.2 + 4.4 * columns
    legend_columns, legend_height = legend_shape([label for _, label in legend], width)
    figure = Figure(figsize=(width, 0.6 + legend_height + 3.4 * rows), layout=ConstrainedLayoutEngine(h_pad=0.07))
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    marked = places(yields)
    for axis, (name, panel) in zip(axes, panels.items(), strict=False):
        _draw(axis, panel, marked[name], methods, several)
        axis.set_title(wrapped(name, 40), fontsize=10.5, color=TEXT)
    for unused in axes[len(panels) :]:
        unused.remove()
    for axis in axes[: len(panels) : columns]:
        axis.set_ylabel("chips that reach it (%)", color=TEXT)
    figure.suptitle(wrapped(title, 70), fontsize=12.5, color=TEXT)
    handles, labels = zip(*legend, strict=True)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=legend_columns, frameon=False, fontsize=9, labelcolor=TEXT
    )
    return figure


def _draw(axis: Axes, panel: pd.DataFrame, marked: pd.DataFrame, methods: list[str], several: bool) -> None:
    """One panel: bands, curves, the bounds that were asked for."""
    first = marked.iloc[0]
    axis.axhline(100 * first["share"], color=QUIET, linewidth=0.9, zorder=1)
    if not np.isnan(first["above"]):
        axis.axvline(first["above"], color=QUIET, linewidth=0.9, zorder=1)
    curves: dict[tuple[Any, ...], pd.DataFrame] = dict(iter(panel.groupby(["method", "model"], sort=False)))
    for (method, model), curve in curves.items():
        colour = COLOURS[methods.index(method) % len(COLOURS)]
        copies = [name for owner, name in curves if owner == method]
        dash = DASHES[copies.index(model) % len(DASHES)]
        # Everybody reaches less than the lowest chip, nobody more than the highest; the bounds go on at its own.
        x = curve["value"].to_numpy()
        shares = {name: 100 * curve[name].to_numpy() for name in ("reaching", "low", "high")}
        if not several:
            axis.fill_between(
                x, shares["low"], shares["high"], step="pre", color=colour, alpha=BAND_ALPHA, linewidth=0, zorder=2
            )
        axis.step(
            [*x, x[-1]], [*shares["reaching"], 0], where="pre", color=colour, linestyle=dash, linewidth=1.6, zorder=3
        )
        line = marked[(marked["method"] == method) & (marked["model"] == model)].iloc[0]
        if not np.isnan(line["bound"]):
            axis.plot(line["bound"], 100 * line["share"], "o", color=colour, markeredgecolor="white", zorder=4)
    axis.set_xlabel("test accuracy of a chip (%)", color=TEXT)
    axis.set_ylim(-2, 104)
    axis.tick_params(color=QUIET, labelcolor=TEXT)
    axis.grid(True, color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(QUIET)


def _legend(methods: list[str], yields: pd.DataFrame, several: bool) -> list[tuple[Artist, str]]:
    """Methods, then what lines, band and dot mean."""
    entries: list[tuple[Artist, str]] = [
        (Line2D([], [], color=COLOURS[index % len(COLOURS)], linewidth=1.6), wrapped(method, LABEL_WIDTH))
        for index, method in enumerate(methods)
    ]
    first = yields.iloc[0]
    confidence, share = f"{100 * first['confidence']:g} %", f"{100 * first['share']:g} %"
    if several:
        entries.append((Line2D([], [], color="#555555", linestyle="--"), "one line per trained network"))
    else:
        band = Patch(facecolor="#555555", alpha=2 * BAND_ALPHA, linewidth=0)
        entries.append((band, f"{confidence} bounds, each alone"))
    if yields["bound"].notna().any():
        dot = Line2D([], [], color="#555555", marker="o", linestyle="", markeredgecolor="white")
        entries.append((dot, f"{share} of all chips reach this ({confidence})"))
    return entries
