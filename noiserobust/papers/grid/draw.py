"""Rows of an artefact -> its picture, in the papers' layout: one function per kind of figure. Reads results only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from noiserobust.report.curves import curves_figure, landscape_figure
from noiserobust.report.plots import COLOURS, MARKERS, QUIET, TEXT, wrapped

SPREAD = "± std over trained copies"


def draw(rows: pd.DataFrame, kind: str, title: str, x: str, y: str) -> Figure:
    """The picture of ``rows`` (columns row, column, x, replicate, draw, value): a panel per column, a line per row."""
    return KINDS[kind](rows, title, x, y)


def epochs(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """Mean over copies against x, a band of one standard deviation."""
    return curves_figure(_lines(rows), x or "epoch", title, ylabel=y, band=SPREAD)


def magnitudes(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """The same against the logarithm of x."""
    figure = epochs(rows, title, x, y)
    for axis in figure.axes:
        axis.set_xscale("log")
    return figure


def trajectory(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """The path of training: one logged quantity against another, the last epoch marked."""
    lines = _lines(rows, by="epoch")
    return curves_figure(lines, x, title, ylabel=y, directed=True)


def scatter(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """A large point per line, its mean, and a small one per copy; a family's are joined in order of strength."""
    copies = rows.groupby(["row", "column", "replicate"], sort=False)[["x", "value"]].mean().reset_index()
    figure, axes = _panels(copies, title)
    families = list(dict.fromkeys(_family(row) for row in copies["row"]))
    for axis, (panel, own) in zip(axes, copies.groupby("column", sort=False), strict=True):
        for row, points in own.groupby("row", sort=False):
            index = families.index(_family(str(row)))
            style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
            axis.scatter(points["x"], points["value"], s=14, alpha=0.35, linewidths=0, **style)
            axis.annotate(_strength(str(row)), (points["x"].mean(), points["value"].mean()), fontsize=7.5, color=QUIET,
                          xytext=(5, 4), textcoords="offset points")  # fmt: skip
        means = own.groupby("row", sort=False)[["x", "value"]].mean()
        for index, family in enumerate(families):
            joined = means[[_family(str(row)) == family for row in means.index]]
            colour = COLOURS[index % len(COLOURS)]
            axis.plot(joined["x"], joined["value"], color=colour, marker=MARKERS[index % len(MARKERS)], markersize=6,
                      linewidth=0.8, alpha=0.9)  # fmt: skip
            axis.scatter(
                [], [], color=COLOURS[index % len(COLOURS)], marker=MARKERS[index % len(MARKERS)], label=family
            )
        _dress(axis, str(panel), x, y, several=copies["column"].nunique() > 1)
    axes[0].legend(frameon=False, fontsize=9, labelcolor=TEXT)
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
    figure, axes = _panels(rows, title)
    for axis, (panel, own) in zip(axes, rows.groupby("column", sort=False), strict=True):
        grid = own.pivot_table(index="row", columns="x", values="value", sort=False)
        shown = axis.imshow(grid, cmap="viridis", aspect="auto", origin="lower")
        axis.set_xticks(range(grid.shape[1]), [f"{value:g}" for value in grid.columns])
        axis.set_yticks(range(grid.shape[0]), list(grid.index))
        middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
        for (i, j), value in np.ndenumerate(grid.to_numpy()):
            if not math.isnan(value):
                axis.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8,
                          color="white" if value < middle else "black")  # fmt: skip
        figure.colorbar(shown, ax=axis, label=y.split(";")[0])
        _dress(axis, str(panel), x, y.split(";")[-1].strip(), several=rows["column"].nunique() > 1)
        axis.grid(False)
    return figure


def histogram(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """The share of values by size, a line per row."""
    figure, axes = _panels(rows, title)
    bins = np.linspace(0, float(rows["value"].quantile(0.995)), 41)
    for axis, (panel, own) in zip(axes, rows.groupby("column", sort=False), strict=True):
        for index, (row, values) in enumerate(own.groupby("row", sort=False)):
            heights, edges = np.histogram(values["value"], bins, density=True)
            axis.stairs(heights, edges, color=COLOURS[index % len(COLOURS)], linewidth=1.8, label=str(row))
        _dress(axis, str(panel), x, y or "density", several=rows["column"].nunique() > 1)
    axes[0].legend(frameon=False, fontsize=9, labelcolor=TEXT)
    return figure


AXES = {"function": ("share of training", "p"), "coin": ("share of training", "p"), "error": ("", "test error (%)")}
"""Axes of panels that show another quantity than the figure's, by what they show."""


def families(rows: pd.DataFrame, title: str, x: str, y: str) -> Figure:
    """Points of one family joined in their order: a row's name is its family's and, as the last word, the point's.

    A panel per column; a column "..., against b" names its own x axis. Functions are lines of one colour scale, coins
    dots. What has no place on the x axis is left out.
    """
    rows = rows[rows["x"].notna()]
    figure, axes = _panels(rows, title)
    names = rows["row"].str.rsplit(" ", n=1)
    # Points of one network (or of one method) have one colour in all panels.
    rows = rows.assign(family=names.str[0], point=names.str[-1], owner=names.str[0].str.split(", ").str[0])
    measured = rows[~rows["quantity"].isin(("function", "coin"))]
    owners = list(dict.fromkeys(measured["owner"]))
    for axis, (panel, own) in zip(axes, rows.groupby("column", sort=False), strict=True):
        _functions(axis, own)
        points = own[own["quantity"].isin(measured["quantity"])]
        for (_, owner), family in points.groupby(["family", "owner"], sort=False):
            _family_line(axis, family, owners.index(owner))
        quantity = str(own["quantity"].iloc[0])
        if quantity == "extra_time":
            axis.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle="--", zorder=1)
        across, up = AXES.get(quantity, ("", ""))
        _, _, named = str(panel).partition(", against ")
        _dress(axis, str(panel), across or named or x, up or y, several=rows["column"].nunique() > 1)
    if len(owners) > 1:
        handles = [Line2D([], [], **_style(index)) for index in range(len(owners))]
        figure.legend(handles, owners, loc="outside lower center", ncols=min(len(owners), 6), frameon=False,
                      fontsize=9, labelcolor=TEXT)  # fmt: skip
    return figure


def _functions(axis: Axes, own: pd.DataFrame) -> None:
    """Functions of a panel as lines from dark to light, coins as dots on them."""
    functions = list(own[own["quantity"] == "function"].groupby("row", sort=False))
    for index, (_, line) in enumerate(functions):
        shade = colormaps["viridis"](0.9 * index / max(len(functions) - 1, 1))
        axis.plot(line["x"], line["value"], color=shade, linewidth=1.6, label=line["point"].iloc[0])
    if len(functions) > 1:
        axis.legend(frameon=False, fontsize=7, labelcolor=TEXT, ncols=2)
    coins = own[own["quantity"] == "coin"]
    axis.scatter(coins["x"], coins["value"], s=7, color=COLOURS[0], linewidths=0, zorder=3)


def _family_line(axis: Axes, family: pd.DataFrame, index: int) -> None:
    """Means over copies with bars of one standard deviation; points that are not numbers are named."""
    copies = family.groupby(["point", "replicate"], sort=False)[["x", "value"]].mean().reset_index()
    points = copies.groupby("point", sort=False).agg(x=("x", "mean"), mean=("value", "mean"), std=("value", "std"))
    axis.errorbar(points["x"], points["mean"], points["std"].fillna(0.0), capsize=2, elinewidth=1, **_style(index))
    for name, point in points.iterrows():
        if not str(name).replace(".", "").isdigit():
            axis.annotate(str(name), (point["x"], point["mean"]), fontsize=7.5, color=QUIET, xytext=(5, 4),
                          textcoords="offset points")  # fmt: skip


def _style(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "markersize": 5,
            "linewidth": 1.4, "markeredgecolor": "white", "markeredgewidth": 0.6}  # fmt: skip


KINDS: dict[str, Callable[[pd.DataFrame, str, str, str], Figure]] = {
    "epochs": epochs,
    "strengths": epochs,
    "magnitudes": magnitudes,
    "trajectory": trajectory,
    "scatter": scatter,
    "landscape": landscape,
    "image": image,
    "histogram": histogram,
    "families": families,
}


def _lines(rows: pd.DataFrame, by: str = "x") -> pd.DataFrame:
    """Mean over draws, then mean and standard deviation over copies, as ``curves_figure`` takes them."""
    place = ["row", "column", by]
    copies = rows.groupby([*place, "replicate"], sort=False)[sorted({"x", "value"} - {by})].mean().reset_index()
    found = copies.groupby(place, sort=False)
    lines = found["value"].agg(mean="mean", std="std").reset_index()
    lines["x"] = found["x"].mean().to_numpy() if by != "x" else lines["x"]
    return lines.rename(columns={"row": "method", "column": "panel"})


def _panels(rows: pd.DataFrame, title: str):  # type: ignore[no-untyped-def]
    count = rows["column"].nunique()
    columns = 2 if count == 4 else min(count, 3)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(1.0 + 4.6 * columns, 0.6 + 3.9 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.remove()
    figure.suptitle(wrapped(title, 46 * columns + 12), fontsize=12.5, color=TEXT)
    return figure, axes[:count]


def _dress(axis, title: str, x: str, y: str, *, several: bool) -> None:  # type: ignore[no-untyped-def]
    if several:
        axis.set_title(wrapped(title, 40), fontsize=10.5, color=TEXT)
    axis.set_xlabel(x, color=TEXT)
    axis.set_ylabel(y, color=TEXT)
    axis.tick_params(color=QUIET, labelcolor=TEXT)
    axis.grid(True, color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(QUIET)


def _family(row: str) -> str:
    """A method's name without its strength: points of one family share colour and marker."""
    return row.split(" ")[0].rstrip(",")


def _strength(row: str) -> str:
    return row.split(" ", 1)[1] if " " in row else ""
