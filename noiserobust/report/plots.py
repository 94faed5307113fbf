"""Pictures of a summary. A matplotlib ``Figure`` is built directly: no pyplot, no global state, no display."""

from __future__ import annotations

import io
import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from noiserobust.errors import UserError
from noiserobust.report.table import lines_of, readings, seconds, symbol
from noiserobust.storage.files import write_atomically
from noiserobust.storage.rows import noise_free

# Okabe and Ito's palette without its yellow, which is lost on white.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
DASHES = ["-", "--", "-.", ":"]
NOISE_ALPHA, WEIGHT_ALPHA = 0.13, 0.36
LABEL_WIDTH = 44  # characters before a method label wraps
TEXT, QUIET = "#222222", "#777777"


def accuracy_against_strength(
    summary: pd.DataFrame, path: str | os.PathLike[str], title: str = "Accuracy under weight noise"
) -> Path:
    """Save :func:`strength_figure` as a PNG at 150 dpi, whole or not at all; returns the path written."""
    return save(strength_figure(summary, title), path)


def accuracy_against_time(
    summary: pd.DataFrame, path: str | os.PathLike[str], title: str = "Accuracy over time since programming"
) -> Path:
    """Save :func:`time_figure` as a PNG at 150 dpi, whole or not at all; returns the path written."""
    return save(time_figure(summary, title), path)


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Save any figure as a PNG at 150 dpi, whole or not at all; returns the path written."""
    return write_atomically(path, lambda temporary: _save_png(figure, temporary))


def strength_figure(summary: pd.DataFrame, title: str = "Accuracy under weight noise") -> Figure:
    """Accuracy (%) against noise strength: a panel per reading of the noise (and time), a line per method.

    Each line has two bands: mean ± ``noise_std`` (lighter, dotted edges) and mean ± ``weight_std`` (darker); a band
    that does not exist (one draw, one model) is not drawn. A method keeps its colour and marker in every panel.

    Raises :class:`UserError` when no line of the summary has both an accuracy and a strength.
    """
    chosen = lines_of(summary, "accuracy")
    panels = _panels(chosen[chosen["strength"].notna()])
    if not panels:
        raise UserError("expected noises with a swept strength to plot, got none; print the summary as a table instead")
    figure, axes = _figure(panels, chosen, title, "strength")
    for axis, (name, _) in zip(axes, panels, strict=True):
        axis.set_xlabel(_strength_label(name), color=TEXT)
    return figure


def time_figure(summary: pd.DataFrame, title: str = "Accuracy over time since programming") -> Figure:
    """Accuracy (%) against time since programming (log axis): a panel per noise and compensation, a line per method.

    Bands as in :func:`strength_figure`. Time 0 is drawn a decade before the first later time. Raises
    :class:`UserError` when the summary has fewer than two times.
    """
    chosen = lines_of(summary, "accuracy")
    timed = chosen[chosen["t"].notna()]
    times = sorted(timed["t"].unique())
    if len(times) < 2:
        raise UserError(f"expected lines at two or more times to plot, got {len(times)}; evaluate with times")
    places = {t: t if t > 0 else times[1] / 10 for t in times}
    panels = [
        (f"{name}, strength {strength:g}" if block["strength"].nunique() > 1 else name, lines)
        for name, block in readings(timed).items()
        for strength, lines in block.groupby("strength", sort=True)
    ]
    placed = [(name, lines.assign(place=lines["t"].map(places))) for name, lines in panels]
    figure, axes = _figure(placed, chosen, title, "place")
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xticks([places[t] for t in times], [seconds(t) for t in times], rotation=45, ha="right")
        axis.set_xticks([], minor=True)
        axis.set_xlabel("time since programming", color=TEXT)
    return figure


def _figure(
    panels: Sequence[tuple[str, pd.DataFrame]], summary: pd.DataFrame, title: str, x: str
) -> tuple[Figure, list[Axes]]:
    """A figure with one panel each, of accuracy against the column ``x``, and the panels' axes."""
    methods = list(dict.fromkeys(summary["method"]))
    columns = len(panels) if len(panels) <= 3 else 2 if len(panels) == 4 else 3
    rows = math.ceil(len(panels) / columns)
    legend = _legend_entries(methods, summary)
    width = 1.2 + {1: 5.6, 2: 4.2, 3: 3.7}[columns] * columns
    legend_columns, legend_height = legend_shape([label for _, label in legend], width)
    height = 0.6 + legend_height + (3.8 if rows == 1 else 3.1) * rows
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.07, hspace=0.03))
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for index, (axis, (name, panel)) in enumerate(zip(axes, panels, strict=False)):
        _draw(axis, panel, methods, x)
        _dress(axis, name, first=index % columns == 0)
    for unused in axes[len(panels) :]:
        unused.remove()
    figure.suptitle(wrapped(title, int(width * 9)), fontsize=12.5, color=TEXT)
    handles, labels = zip(*legend, strict=True)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=legend_columns, frameon=False, fontsize=9, labelcolor=TEXT
    )
    return figure, list(axes[: len(panels)])


def _save_png(figure: Figure, path: Path) -> None:
    """A palette of 256 colours: a third of the size of a full-colour file, and the eye sees no difference."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    image = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(path, format="png", optimize=True)


def _panels(summary: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Title and lines by reading and time; noise-free lines without a time open every line of their reading."""
    panels = []
    for name, block in readings(summary).items():
        timeless = block["t"].isna()
        if (timeless & ~noise_free(block)).any() or (name and timeless.all()):
            panels.append((name, block[timeless]))
        for t in block["t"].dropna().unique():
            panels.append((f"{name}, t = {seconds(t)}", block[(block["t"] == t) | (timeless & noise_free(block))]))
    return panels


def _draw(axis: Axes, panel: pd.DataFrame, methods: Sequence[str], column: str) -> None:
    """Every method of a panel: noise bands at the back, then weight bands, then lines."""
    for index, method in enumerate(methods):
        line = panel[panel["method"] == method].sort_values(column)
        x, mean = line[column].to_numpy(), line["mean"].to_numpy()
        # A noise-free point has no spread over draws: its noise band closes there.
        noise = line["noise_std"].mask(noise_free(line) & line["noise_std"].isna(), 0.0).to_numpy()
        weight = line["weight_std"].to_numpy()
        colour = COLOURS[index % len(COLOURS)]
        if line["noise_std"].notna().any():
            axis.fill_between(x, mean - noise, mean + noise, color=colour, alpha=NOISE_ALPHA, linewidth=0, zorder=1)
            # The dotted edge keeps the noise band in sight where the weight band is the wider one.
            for edge in (mean - noise, mean + noise):
                axis.plot(x, edge, color=colour, linestyle=(0, (1, 1.6)), linewidth=0.9, alpha=0.8, zorder=2.5)
        if line["weight_std"].notna().any():
            axis.fill_between(x, mean - weight, mean + weight, color=colour, alpha=WEIGHT_ALPHA, linewidth=0, zorder=2)
        axis.plot(x, mean, **_line_style(index), zorder=3)


def _line_style(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
        "linewidth": 1.8,
        "markersize": 5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
    }


def _dress(axis: Axes, name: str, first: bool) -> None:
    """Labels, grid and spines of one panel."""
    if name:
        axis.set_title(wrapped(name, 40), fontsize=10.5, color=TEXT)
    if first:
        axis.set_ylabel("test accuracy (%)", color=TEXT)
    axis.tick_params(labelbottom=True, left=first, labelleft=first, color=QUIET, labelcolor=TEXT)
    axis.grid(True, color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(QUIET)
    axis.margins(x=0.03)


def _strength_label(name: str) -> str:
    """What the x axis measures. The literal reading's sigma is no fraction: its std is sigma sqrt(max|w|)."""
    letter = {"sigma": "σ", "b": "b"}.get(symbol(name))
    if letter is None:
        return "noise strength"
    return f"noise strength {letter}" + ("" if "literal" in name else ", as a fraction of max|w|")


def _legend_entries(methods: Sequence[str], summary: pd.DataFrame) -> list[tuple[Artist, str]]:
    """Methods, then what the two bands mean, each with its label wrapped."""
    entries: list[tuple[Artist, str]] = [
        (Line2D([], [], **_line_style(index)), wrapped(method, LABEL_WIDTH)) for index, method in enumerate(methods)
    ]
    if summary["noise_std"].notna().any():
        light = Patch(facecolor="#55555522", edgecolor="#555555", linestyle=(0, (1, 1.6)), linewidth=0.9)
        entries.append((light, "± std over noise draws"))
    if summary["weight_std"].notna().any():
        entries.append((Patch(facecolor="#5555558c", linewidth=0), "± std over trained models"))
    return entries


def legend_shape(labels: Sequence[str], width: float) -> tuple[int, float]:
    """As many columns as fit the figure's width, and the height (inches) of the legend that results."""
    longest = max(len(line) for label in labels for line in label.split("\n"))
    columns = max(1, min(len(labels), int(width / (0.068 * (longest + 8)))))
    rows = math.ceil(len(labels) / columns)
    columns = math.ceil(len(labels) / rows)  # as few as give that many rows, so that the last one is not ragged
    tallest = max(label.count("\n") + 1 for label in labels)
    return columns, 0.19 * rows * tallest + 0.15


def wrapped(text: str, width: int) -> str:
    """``text`` in lines of ``width``, broken after commas where it can be, and shown literally."""
    if len(text) > width:
        text = text.replace(",", ", ")
    # A pair of dollar signs would turn what it encloses into mathematics.
    return "\n".join(textwrap.wrap(text, width)).replace("$", r"\$")
