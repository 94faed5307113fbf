"""The pictures of a paper's figures, in the paper's layout: one function per kind of figure, which reads rows alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from noiserobust.report.curves import curves_figure, landscape_figure
from noiserobust.report.style import (
    FIRST,
    QUIET,
    SMALL,
    TEXT,
    Entry,
    Look,
    dress,
    looks,
    panels,
    remark,
    spread_remarks,
)

PANEL, ALONE = (4.6, 3.9), (6.4, 4.6)
"""Width and height in inches of one of several panels, and of the only one."""
SPREAD = "± std over trained copies"


def draw(rows: pd.DataFrame, kind: str, title: str, x: str, y: str) -> Figure:
    """The picture of ``rows`` (columns row, column, x, replicate, draw, value): a panel per column, a line per row."""
    return KINDS[kind](rows, title, x, y)


def strengths(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """Mean over copies against x, a band of one standard deviation."""
    return curves_figure(_lines(rows), x, title, ylabel=y, band=SPREAD)


def epochs(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """The same along training, at the epochs that all copies of a line logged."""
    return strengths(_logged_by_all(rows, "x"), title, x or "epoch", y)


def magnitudes(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """Mean over copies against the logarithm of x."""
    figure = strengths(rows, title, x, y)
    for axis in figure.axes:
        axis.set_xscale("log")
    return figure


def trajectory(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """The path of training: one logged quantity against another, the last epoch marked; ``x`` names them by panel."""
    figure = curves_figure(_lines(_logged_by_all(rows, "epoch"), by="epoch"), x, title, ylabel=y, directed=True)
    names = x.split("; ")
    for axis, name in zip(figure.axes, names if len(names) > 1 else names * len(figure.axes), strict=True):
        axis.set_xlabel(name)
    return figure


def scatter(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """A large point per line, its mean, and a small one per copy; a family's are joined in order of strength."""
    copies = rows.groupby(["row", "column", "replicate"], sort=False)[["x", "value"]].mean().reset_index()
    figure, blocks = _panels(copies, title, x, y)
    look = looks(_family(row) for row in copies["row"])
    for axis, panel in blocks:
        for row, points in panel.groupby("row", sort=False):
            own = look[_family(str(row))]
            axis.scatter(
                points["x"], points["value"], s=14, alpha=0.35, linewidths=0, color=own.colour, marker=own.marker
            )
            remark(axis, _strength(str(row)), points["x"].mean(), points["value"].mean(), own.colour)
        means = panel.groupby("row", sort=False)[["x", "value"]].mean()
        for name, own in look.items():
            joined = means[[_family(str(row)) == name for row in means.index]]
            axis.plot(joined["x"], joined["value"], label=name, **own.line(linewidth=0.8, markersize=6))
    blocks[0][0].legend(frameon=False, fontsize=SMALL, labelcolor=TEXT)
    spread_remarks(figure)
    return figure


def landscape(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """Contours of the loss around each network; of one direction lines, a panel per column."""
    if "y" not in rows or rows["y"].nunique() == 1:
        band = "± std over directions and trained copies"
        places = rows.groupby(["row", "column", "x"], sort=False)["value"].agg(mean="mean", std="std").reset_index()
        lines = places.rename(columns={"row": "method", "column": "panel"})
        return curves_figure(lines, "distance, in filter norms", title, ylabel="loss", band=band)
    several = rows["column"].nunique() > 1
    names = rows["row"] + (", " + rows["column"] if several else "")
    points = rows.assign(method=names)
    mean = points.groupby(["method", "x", "y"], sort=False)["value"].agg(mean="mean", std="std").reset_index()
    return landscape_figure(mean, title)


def image(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """A coloured grid: x across, the number in the row's name down; a panel per column."""
    across, _, down = y.partition(";")
    figure, blocks = _panels(rows, title, x, down.strip(), grid="none")
    for axis, panel in blocks:
        table = panel.pivot_table(index="row", columns="x", values="value", sort=False)
        shown = axis.imshow(table, cmap="viridis", aspect="auto", origin="lower")
        axis.set_xticks(range(table.shape[1]), [f"{value:g}" for value in table.columns])
        axis.set_yticks(range(table.shape[0]), list(table.index))
        middle = (np.nanmin(table) + np.nanmax(table)) / 2
        for (i, j), value in np.ndenumerate(table.to_numpy()):
            if not math.isnan(value):
                ink = "white" if value < middle else "black"
                axis.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, color=ink)
        figure.colorbar(shown, ax=axis, label=across)
    return figure


def histogram(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """The share of values by size, a line per row."""
    figure, blocks = _panels(rows, title, x, y or "density")
    look = looks(map(str, rows["row"]))
    bins = np.linspace(0, float(rows["value"].quantile(0.995)), 41)
    for axis, panel in blocks:
        for row, values in panel.groupby("row", sort=False):
            heights, _ = np.histogram(values["value"], bins, density=True)
            axis.stairs(heights, bins, color=look[str(row)].colour, linewidth=1.8, label=str(row))
    blocks[0][0].legend(frameon=False, fontsize=SMALL, labelcolor=TEXT)
    return figure


AXES = {"function": ("share of training", "p"), "coin": ("share of training", "p"), "error": ("", "test error (%)")}
"""Axes of panels that show another quantity than the figure's, by what they show."""


def families(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """Points of one family joined in their order: a row's name is its family's and, as the last word, the point's.

    A panel per column; a column "..., against b" names its own x axis. Functions are lines of one colour scale, coins
    dots. What has no place on the x axis is left out.
    """
    rows = rows[rows["x"].notna()]
    names = rows["row"].str.rsplit(" ", n=1)
    # Points of one network (or of one method) have one colour in all panels.
    rows = rows.assign(family=names.str[0], point=names.str[-1], owner=names.str[0].str.split(", ").str[0])
    measured = rows[~rows["quantity"].isin(("function", "coin"))]
    look = looks(map(str, measured["owner"]))
    legend: list[Entry] = [(Line2D([], [], **one.line()), owner) for owner, one in look.items()]
    figure, blocks = _panels(rows, title, x, y, legend=legend if len(look) > 1 else [])
    for axis, panel in blocks:
        _functions(axis, panel)
        points = panel[panel["quantity"].isin(measured["quantity"])]
        for (_, owner), family in points.groupby(["family", "owner"], sort=False):
            _family_line(axis, family, look[str(owner)])
        quantity = str(panel["quantity"].iloc[0])
        if quantity == "extra_time":
            axis.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle="--", zorder=1)
        across, up = AXES.get(quantity, ("", ""))
        _, _, named = str(panel["column"].iloc[0]).partition(", against ")
        axis.set_xlabel(across or named or x)
        axis.set_ylabel(up or y)
    spread_remarks(figure)
    return figure


def _functions(axis: Axes, panel: pd.DataFrame) -> None:
    """Functions of a panel as lines from dark to light, coins as dots on them."""
    functions = list(panel[panel["quantity"] == "function"].groupby("row", sort=False))
    for index, (_, line) in enumerate(functions):
        tone = colormaps["viridis"](0.9 * index / max(len(functions) - 1, 1))
        axis.plot(line["x"], line["value"], color=tone, linewidth=1.6, label=line["point"].iloc[0])
    if len(functions) > 1:
        low, high = axis.get_ylim()  # a constant may be the highest of them: the legend stands above it
        axis.set_ylim(low, high + 0.08 * math.ceil(len(functions) / 4) * (high - low))
        axis.legend(loc="upper center", frameon=False, fontsize=7, labelcolor=TEXT, ncols=4)
    coins = panel[panel["quantity"] == "coin"]
    axis.scatter(coins["x"], coins["value"], s=7, color=FIRST, linewidths=0, zorder=3)


def _family_line(axis: Axes, family: pd.DataFrame, look: Look) -> None:
    """Means over copies with bars of one standard deviation; points that are not numbers are named."""
    copies = family.groupby(["point", "replicate"], sort=False)[["x", "value"]].mean().reset_index()
    points = copies.groupby("point", sort=False).agg(x=("x", "mean"), mean=("value", "mean"), std=("value", "std"))
    style = look.line(linewidth=1.4)
    axis.errorbar(points["x"], points["mean"], points["std"].fillna(0.0), capsize=2, elinewidth=1, **style)
    for name, point in points.iterrows():
        if not str(name).replace(".", "").isdigit():
            remark(axis, str(name), point["x"], point["mean"], look.colour)


KINDS: dict[str, Callable[[pd.DataFrame, str, str, str], Figure]] = {
    "epochs": epochs,
    "strengths": strengths,
    "magnitudes": magnitudes,
    "trajectory": trajectory,
    "scatter": scatter,
    "landscape": landscape,
    "image": image,
    "histogram": histogram,
    "families": families,
}


def _logged_by_all(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Without the epochs at which fewer copies of a line were measured than at others: its mean would jump there."""
    copies = rows.groupby(["row", "column", by], sort=False)["replicate"].transform("nunique")
    return rows[copies == copies.groupby([rows["row"], rows["column"]], sort=False).transform("max")]


def _lines(rows: pd.DataFrame, by: str = "x") -> pd.DataFrame:
    """Mean over draws, then mean and standard deviation over copies, as ``curves_figure`` takes them."""
    place = ["row", "column", by]
    copies = rows.groupby([*place, "replicate"], sort=False)[sorted({"x", "value"} - {by})].mean().reset_index()
    groups = copies.groupby(place, sort=False)
    lines = groups["value"].agg(mean="mean", std="std").reset_index()
    lines["x"] = groups["x"].mean().to_numpy() if by != "x" else lines["x"]
    return lines.rename(columns={"row": "method", "column": "panel"})


def _panels(
    rows: pd.DataFrame, title: str, x: str, y: str, grid: Literal["both", "none"] = "both", legend: Sequence[Entry] = ()
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """The figure, and for each column of the rows its panel and its rows."""
    blocks = dict(iter(rows.groupby("column", sort=False)))
    figure, axes = panels(len(blocks), title, size=PANEL if len(blocks) > 1 else ALONE, legend=legend)
    for axis, column in zip(axes, blocks, strict=True):
        dress(axis, str(column) if len(blocks) > 1 else "", x, y, grid)
    return figure, list(zip(axes, blocks.values(), strict=True))


def _family(row: str) -> str:
    """A method's name without its strength: points of one family share colour and marker."""
    return row.split(" ")[0].rstrip(",")


def _strength(row: str) -> str:
    return row.split(" ", 1)[1] if " " in row else ""
