"""Picture of areas under the accuracy-noise curve."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from noiserobust.report.plots import COLOURS, MARKERS, QUIET, TEXT, save, wrapped
from noiserobust.report.table import lines_of, readings, seconds


def area_by_method(
    summary: pd.DataFrame, path: str | os.PathLike[str], title: str = "Area under the accuracy-noise curve"
) -> Path:
    """Save :func:`area_figure` as a PNG at 150 dpi, whole or not at all; returns the path written."""
    return save(area_figure(summary, title), path)


def area_figure(summary: pd.DataFrame, title: str = "Area under the accuracy-noise curve") -> Figure:
    """The mean area (%) of every method with its interval: a panel per noise (and time), a line per method."""
    chosen = lines_of(summary, "area")
    panels = {
        name + ("" if t != t else f", t {seconds(t)}"): block[block["t"].isna() if t != t else block["t"] == t]
        for name, block in readings(chosen).items()
        for t in sorted(block["t"].unique())
    }
    methods = list(dict.fromkeys(chosen["method"]))
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    size = (2.2 + 4.2 * columns, 0.9 + (0.8 + 0.32 * len(methods)) * rows)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.07))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, (name, panel) in zip(axes, panels.items(), strict=False):
        for index, method in enumerate(methods):
            for line in panel[panel["method"] == method].to_dict("records"):
                colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
                if not np.isnan(line["low"]):
                    axis.plot([line["low"], line["high"]], [index, index], color=colour, linewidth=2.2)
                axis.plot(line["mean"], index, marker, color=colour, markersize=7, markeredgecolor="white")
        axis.set_title(wrapped(name, 44), fontsize=10.5, color=TEXT)
        axis.set_yticks(range(len(methods)), [wrapped(method, 28) for method in methods], color=TEXT)
        axis.tick_params(left=False, color=QUIET, labelcolor=TEXT, labelbottom=True)
        axis.grid(True, axis="x", color="#e4e4e4", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color(QUIET)
        axis.set_ylim(len(methods) - 0.5, -0.5)
    for unused in axes[len(panels) :]:
        unused.remove()
    for axis in axes[max(len(panels) - columns, 0) : len(panels)]:
        axis.set_xlabel("mean accuracy over the range (%)", color=TEXT)
    figure.suptitle(wrapped(title, 60), fontsize=12.5, color=TEXT)
    if chosen["low"].notna().any():
        over, confidence = " or ".join(chosen["interval_over"].unique()), 100 * chosen["confidence"].iloc[0]
        note = f"lines: {confidence:g} % interval for the mean, over {over}"
        figure.supxlabel(note, fontsize=9, color=QUIET)
    return figure
