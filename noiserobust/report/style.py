"""How every picture looks: colours, markers, fonts, panels with one title and one legend, and how it is saved.

A matplotlib ``Figure`` is built directly: no pyplot, no global state, no display.
"""

from __future__ import annotations

import io
import math
import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from PIL import Image

from noiserobust.storage.files import known_to_write, write_atomically

# Okabe and Ito's palette without its yellow, which is lost on white.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
DASHES = ["-", "--", "-.", ":"]
TEXT, QUIET, GRID, ANY = "#222222", "#777777", "#e4e4e4", "#555555"
"""Words; axes and remarks; grid lines; what a legend shows that belongs to no method."""
TITLE, HEADING, SMALL, TINY = 12.5, 10.5, 9.0, 7.5
"""Font sizes in points: of the picture's title, a panel's title, the legend, and remarks inside a panel."""
NOISE_ALPHA, WEIGHT_ALPHA = 0.13, 0.36
"""Opacity of bands: the spread over noise draws, and that over trained models."""
METADATA: dict[str, dict[str, Any]] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
"""Formats beside PNG, without the time at which a picture is drawn."""
LABEL_WIDTH = 44
"""Characters before a label in a legend wraps."""

PLACES = [(side, up) for up in (4, -10, 14, -20, 24, -30, 34, -40, 44, 54, -50, 64, -60) for side in (5, -5)]
"""Where a remark may stand, in points from its own; the nearest come first."""

Entry = tuple[Any, str]
"""What a legend shows and says: a matplotlib artist and its label."""


def colour(index: int) -> str:
    """The colour of the method number ``index``; the palette starts again after seven."""
    return COLOURS[index % len(COLOURS)]


def line_style(index: int, **changes: Any) -> dict[str, Any]:
    """Keywords of ``Axes.plot`` for the line of the method number ``index``: colour, marker, dashes, widths."""
    return {
        "color": colour(index),
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
        "linewidth": 1.8,
        "markersize": 5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
        **changes,
    }


def panels(
    count: int,
    title: str,
    *,
    legend: Sequence[Entry] = (),
    size: tuple[float, float] | None = None,
    columns: int | None = None,
    **subplots: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels, its title above and its legend below them; the figure and the panels' axes.

    - ``size``: width and height of a panel in inches (default: the narrower, the more of them stand beside each other).
    - ``columns``: panels beside each other (default: up to three, four as two by two).
    - ``subplots``: further keywords of ``Figure.subplots``, such as ``sharey=True``.
    """
    columns = columns or (2 if count == 4 else min(count, 3))
    rows = math.ceil(count / columns)
    panel_width, panel_height = size or ({1: 5.6, 2: 4.2, 3: 3.7}[columns], 3.8 if rows == 1 else 3.1)
    width, height = 1.2 + panel_width * columns, 0.6 + panel_height * rows
    figure = Figure(layout=ConstrainedLayoutEngine(h_pad=0.07, hspace=0.03))
    figure.set_size_inches(width, height + (legend_below(figure, legend, width) if legend else 0.0))
    axes = figure.subplots(rows, columns, squeeze=False, **subplots).ravel()
    for unused in axes[count:]:
        unused.remove()
    figure.suptitle(wrapped(title, int(width * 9)), fontsize=TITLE, color=TEXT)
    return figure, list(axes[:count])


def in_first_column(axis: Axes) -> bool:
    """Whether a panel is the leftmost of its row: where panels share an axis, the one that names it."""
    place = axis.get_subplotspec()
    return place is None or place.is_first_col()


def legend_below(figure: Figure, entries: Sequence[Entry], width: float | None = None) -> float:
    """Put a legend below the panels, in as many columns as fit ``width`` inches; its height in inches."""
    handles: list[Artist] = [handle for handle, _ in entries]
    labels = [wrapped(label, LABEL_WIDTH) for _, label in entries]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    width = width or float(figure.get_size_inches()[0])
    columns = max(1, min(len(labels), int(width / (0.068 * (longest + 8)))))
    rows = math.ceil(len(labels) / columns)
    columns = math.ceil(len(labels) / rows)  # as few as give that many rows, so that the last one is not ragged
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=SMALL, labelcolor=TEXT
    )
    return 0.19 * rows * max(label.count("\n") + 1 for label in labels) + 0.15


def dress(
    axis: Axes, title: str = "", xlabel: str = "", ylabel: str = "", grid: Literal["both", "x", "none"] = "both"
) -> None:
    """Title, labels, ticks, grid and spines of one panel; ``grid="x"`` is for bars, ``"none"`` for images."""
    axis.set_title(wrapped(title, 44), fontsize=HEADING, color=TEXT)
    axis.set_xlabel(wrapped(xlabel, 60), color=TEXT)
    axis.set_ylabel(wrapped(ylabel, 44), color=TEXT)
    axis.tick_params(color=QUIET, labelcolor=TEXT)
    axis.grid(False)
    if grid != "none":
        axis.grid(True, axis=grid, color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(QUIET)


def shade(axis: Axes, x: Any, low: Any, high: Any, index: int, alpha: float, **changes: Any) -> None:
    """A band from ``low`` to ``high`` in the colour of the method number ``index``."""
    axis.fill_between(x, low, high, color=colour(index), alpha=alpha, linewidth=0, **changes)


def remark(axis: Axes, text: str, x: float, y: float, colour: str = QUIET) -> None:
    """A small word beside a point; :func:`spread_remarks` then moves those that would overlap."""
    axis.annotate(text, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=TINY, color=colour, zorder=4)


def spread_remarks(figure: Figure) -> None:
    """Move remarks that overlap to the nearest free place around their points, the lowest first."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    for axis in figure.axes:
        taken: list[Bbox] = []
        words = [one for one in axis.texts if isinstance(one, Annotation)]
        for word in sorted(words, key=lambda one: axis.transData.transform(one.xy)[1]):
            for place in PLACES:
                word.set_position(place)
                word.set_horizontalalignment("left" if place[0] > 0 else "right")
                box = word.get_window_extent().padded(1)
                if box.x0 > axis.bbox.x0 and not any(box.overlaps(other) for other in taken):
                    break
            taken.append(box)


def wrapped(text: str, width: int) -> str:
    """``text`` in lines of at most ``width`` characters, broken after commas where it can be, and shown literally."""
    if len(text) > width:
        text = re.sub(r",(?=\S)", ", ", text)
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, width)]
    # A pair of dollar signs would turn what it encloses into mathematics.
    return "\n".join(lines).replace("$", r"\$")


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Save a figure, whole or not at all: as PDF or SVG where ``path`` ends so, else as a PNG at 150 dpi.

    Returns the path written; raises :class:`~noiserobust.UserError` for another suffix.
    """
    kind = known_to_write(path, "picture").suffix.lower()
    if kind in METADATA:
        return write_atomically(path, lambda file: figure.savefig(file, format=kind[1:], metadata=METADATA[kind]))
    return write_atomically(path, lambda temporary: _save_png(figure, temporary))


def _save_png(figure: Figure, path: Path) -> None:
    """A palette of 256 colours: a third of the size of a full-colour file, and the eye sees no difference."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    image = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(path, format="png", optimize=True)
