"""How every picture looks: colours, markers, fonts, panels with one title and one legend, and how it is saved.

A matplotlib ``Figure`` is built directly: no pyplot, no global state, no display.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from PIL import Image

from noiserobust.report.colours import HUES, colours_of
from noiserobust.storage.files import known_to_write, write_atomically

FIRST, SECOND = HUES[:2]
"""Colours of what belongs to no method."""
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

PLACES = [(side, up) for up in (4, -10, 14, -20, 24, -30, 34, -40, 44, 54, -50, 64, -60) for side in (5, -5, 24, -24)]
"""Where a remark may stand, in points from its own; the nearest come first."""

Entry = tuple[Any, str]
"""What a legend shows and says: a matplotlib artist and its label."""


@dataclass(frozen=True)
class Look:
    """How one method is drawn in all panels of a picture."""

    colour: str
    marker: str
    dash: str

    def line(self, **changes: Any) -> dict[str, Any]:
        """Keywords of ``Axes.plot``."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.dash,
            "linewidth": 1.8,
            "markersize": 5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.7,
            **changes,
        }


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """The look of every method of a picture: its rule's colour, and a marker by its place."""
    names = list(dict.fromkeys(methods))
    return {
        name: Look(colour, MARKERS[index % len(MARKERS)], DASHES[index // len(MARKERS) % len(DASHES)])
        for index, (name, colour) in enumerate(colours_of(names).items())
    }


class Picture(Figure):
    """A figure that a notebook shows where it is the last thing in a cell, though pyplot knows nothing of it."""

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        self.savefig(drawn, format="png", dpi=100)
        return drawn.getvalue()


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
    figure = Picture(layout=ConstrainedLayoutEngine(h_pad=0.07, hspace=0.03))
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


def shade(axis: Axes, x: Any, low: Any, high: Any, colour: str, alpha: float, **changes: Any) -> None:
    """A band from ``low`` to ``high``."""
    axis.fill_between(x, low, high, color=colour, alpha=alpha, linewidth=0, **changes)


def remark(axis: Axes, text: str, x: float, y: float, colour: str = QUIET) -> None:
    """A small word beside a point; :func:`spread_remarks` then moves those that would overlap."""
    halo = [withStroke(linewidth=2, foreground="white")]  # it may have to stand on a line
    axis.annotate(
        text,
        (x, y),
        xytext=(5, 4),
        textcoords="offset points",
        fontsize=TINY,
        color=colour,
        zorder=4,
        path_effects=halo,
    )


def spread_remarks(figure: Figure) -> None:
    """Move remarks to the place around their points where they cover least, the lowest first.

    A remark covers no other one where there is a place for it, then as few points and as little of lines as possible.
    """
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    for axis in figure.axes:
        points, lines = _drawn(axis)
        taken: list[Bbox] = []
        words = [one for one in axis.texts if isinstance(one, Annotation)]
        for word in sorted(words, key=lambda one: axis.transData.transform(one.xy)[1]):
            best = (math.inf, Bbox.unit(), PLACES[0])
            for far, place in enumerate(PLACES):
                _put(word, place)
                box = word.get_window_extent().padded(1)
                outside = not axis.bbox.contains(box.x0, box.y0) or not axis.bbox.contains(box.x1, box.y1)
                covered = 1000 * (outside + box.count_overlaps(taken)) + 20 * _inside(points, box) + _inside(lines, box)
                best = min(best, (covered + far, box, place), key=lambda one: one[0])
            _put(word, best[2])
            taken.append(best[1])


def _put(word: Annotation, place: tuple[int, int]) -> None:
    word.set_position(place)
    word.set_horizontalalignment("left" if place[0] > 0 else "right")


def _inside(places: NDArray[np.float64], box: Bbox) -> int:
    return int(((places > box.min) & (places < box.max)).all(axis=1).sum())


def _drawn(axis: Axes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where markers are, and where lines and bars run, some pixels apart, on the canvas."""
    paths = [axis.transData.transform(np.column_stack(line.get_data())) for line in axis.lines]
    bars = [
        axis.transData.transform(segment)
        for bar in axis.collections
        if isinstance(bar, LineCollection)
        for segment in bar.get_segments()
    ]
    dots = [axis.transData.transform(np.asarray(one.get_offsets())) for one in axis.collections]
    steps = np.linspace(0.0, 1.0, 40)[:, None]
    runs = [start + steps * (end - start) for path in [*paths, *bars] for start, end in itertools.pairwise(path)]
    nothing = np.empty((0, 2))
    return np.concatenate([nothing, *paths, *(dot for dot in dots if len(dot))]), np.concatenate([nothing, *runs])


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
