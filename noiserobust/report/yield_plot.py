"""Picture of yields: the share of chips that reach an accuracy, with its bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from noiserobust.report.leading import axis_label
from noiserobust.report.style import ANY, DASHES, QUIET, Entry, Look, dress, in_first_column, looks, panels, shade
from noiserobust.report.yield_table import places

BAND_ALPHA = 0.15


def yield_figure(distribution: pd.DataFrame, yields: pd.DataFrame, title: str = "Yield under weight noise") -> Figure:
    """The share of chips (%) that reach an accuracy (%) against that accuracy: a panel per noise, a line per model.

    Takes ``distribution()`` and ``summary()`` of what ``noiserobust.evaluation.yields`` returns. A band lies
    between the lower and the upper bound of the share (not drawn where a method has several lines: they would hide
    each other); a dot marks the accuracy that the wanted share of chips reaches with the wanted confidence, where there
    are chips enough; grey lines are the wanted share and the accuracy asked for.
    """
    blocks, marked = places(distribution), places(yields)
    look = looks(distribution["method"])
    several = distribution.groupby("method")["model"].nunique().max() > 1
    legend = _legend(look, yields, several)
    metric, _, unit = axis_label(distribution).partition(" ")
    label = f"test {metric} of a chip {unit}".rstrip()
    figure, axes = panels(len(blocks), title, legend=legend, size=(4.4, 3.4), sharey=True)
    for axis, (name, block) in zip(axes, blocks.items(), strict=True):
        _draw(axis, block, marked[name], look, several)
        ylabel = "chips that reach it (%)" if in_first_column(axis) else ""
        dress(axis, name, label, ylabel)
    return figure


def _draw(axis: Axes, panel: pd.DataFrame, marked: pd.DataFrame, looks: dict[str, Look], several: bool) -> None:
    """One panel: bands, curves, the bounds that were asked for."""
    first = marked.iloc[0]
    axis.axhline(100 * first["share"], color=QUIET, linewidth=0.9, zorder=1)
    if not np.isnan(first["above"]):
        axis.axvline(first["above"], color=QUIET, linewidth=0.9, zorder=1)
    curves: dict[tuple[Any, ...], pd.DataFrame] = dict(iter(panel.groupby(["method", "model"], sort=False)))
    for (method, model), curve in curves.items():
        colour = looks[str(method)].colour
        copies = [name for owner, name in curves if owner == method]
        dash = DASHES[copies.index(model) % len(DASHES)]
        # Everybody reaches less than the lowest chip, nobody more than the highest; the bounds go on at its own.
        x = curve["value"].to_numpy()
        shares = {name: 100 * curve[name].to_numpy() for name in ("reaching", "low", "high")}
        if not several:
            shade(axis, x, shares["low"], shares["high"], colour, BAND_ALPHA, step="pre", zorder=2)
        style: dict[str, Any] = {"color": colour, "linestyle": dash, "linewidth": 1.6}
        axis.step([*x, x[-1]], [*shares["reaching"], 0], where="pre", zorder=3, **style)
        line = marked[(marked["method"] == method) & (marked["model"] == model)].iloc[0]
        if not np.isnan(line["bound"]):
            axis.plot(line["bound"], 100 * line["share"], "o", color=colour, markeredgecolor="white", zorder=4)
    axis.set_ylim(-2, 104)


def _legend(looks: dict[str, Look], yields: pd.DataFrame, several: bool) -> list[Entry]:
    """Methods, then what lines, band and dot mean."""
    entries: list[Entry] = [
        (Line2D([], [], color=look.colour, linewidth=1.6), method) for method, look in looks.items()
    ]
    first = yields.iloc[0]
    confidence, share = f"{100 * first['confidence']:g} %", f"{100 * first['share']:g} %"
    if several:
        entries.append((Line2D([], [], color=ANY, linestyle="--"), "one line per trained network"))
    else:
        band = Patch(facecolor=ANY, alpha=2 * BAND_ALPHA, linewidth=0)
        entries.append((band, f"{confidence} bounds, each alone"))
    if yields["bound"].notna().any():
        dot = Line2D([], [], color=ANY, marker="o", linestyle="", markeredgecolor="white")
        entries.append((dot, f"{share} of all chips reach this ({confidence})"))
    return entries
