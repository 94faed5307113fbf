"""Picture of areas under the accuracy-noise curve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from noiserobust.report.leading import metric_of, quantity_of
from noiserobust.report.style import QUIET, SMALL, TEXT, dress, looks, panels, wrapped
from noiserobust.report.table import at_time, lines_of, readings


def area_figure(summary: pd.DataFrame, title: str = "") -> Figure:
    """The mean area (%) of every method with its interval: a panel per noise (and time), a line per method."""
    chosen = lines_of(summary, "area")
    metric, unit = metric_of(chosen) or "metric", quantity_of(chosen, "area").unit
    title = title or f"Area under the {metric}-noise curve"
    label = f"mean {metric} over the range" + (f" ({unit})" if unit else "")
    blocks = {
        name + at_time(t): block[block["t"].isna() if t != t else block["t"] == t]
        for name, block in readings(chosen).items()
        for t in sorted(block["t"].unique())
    }
    look = looks(chosen["method"])
    methods = list(look)
    columns = min(len(blocks), 2)
    size = (4.2 + 1.0 / columns, 0.8 + 0.32 * len(methods))
    figure, axes = panels(len(blocks), title, size=size, columns=columns, sharex=True, sharey=True)
    for number, (axis, (name, block)) in enumerate(zip(axes, blocks.items(), strict=True)):
        for index, method in enumerate(methods):
            for line in block[block["method"] == method].to_dict("records"):
                if not np.isnan(line["low"]):
                    axis.plot([line["low"], line["high"]], [index, index], color=look[method].colour, linewidth=2.2)
                style: dict[str, Any] = {"color": look[method].colour, "marker": look[method].marker}
                axis.plot(line["mean"], index, markersize=7, markeredgecolor="white", **style)
        last = number >= len(blocks) - columns
        dress(axis, name, label if last else "", grid="x")
        axis.set_yticks(range(len(methods)), [wrapped(method, 28) for method in methods], color=TEXT)
        axis.tick_params(left=False, labelbottom=True)
        axis.spines["left"].set_visible(False)
        axis.set_ylim(len(methods) - 0.5, -0.5)
    if chosen["low"].notna().any():
        over, confidence = " or ".join(chosen["interval_over"].unique()), 100 * chosen["confidence"].iloc[0]
        note = f"lines: {confidence:g} % interval for the mean, over {over}"
        figure.supxlabel(note, fontsize=SMALL, color=QUIET)
    return figure
