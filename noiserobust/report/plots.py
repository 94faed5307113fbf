"""Accuracy under weight noise as pictures: against the strength of the noise, and against time since programming."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from noiserobust.errors import UserError
from noiserobust.report.leading import axis_label, leading
from noiserobust.report.style import (
    ANY,
    NOISE_ALPHA,
    SMALL,
    TEXT,
    WEIGHT_ALPHA,
    Entry,
    Look,
    dress,
    in_first_column,
    looks,
    panels,
    save,
    shade,
    wrapped,
)
from noiserobust.report.table import lines_of, readings, seconds, symbol
from noiserobust.storage.rows import noise_free

__all__ = ["save", "strength_figure", "time_figure"]

MOST_BANDED = 3
"""Methods whose two bands can be told apart in one panel."""


def strength_figure(summary: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy (%) against noise strength: a panel per reading of the noise (and time), a line per method.

    Each line has two bands: mean ± ``noise_std`` (lighter, dotted edges) and mean ± ``weight_std`` (darker); a band
    that does not exist (one draw, one model) is not drawn. More than three methods with both bands have a panel each,
    beside thin lines of the others. A rule has the same colour in every picture (:mod:`noiserobust.report.colours`).

    It is the metric of the rows' task that is drawn. Raises :class:`UserError` when no line has a strength.
    """
    chosen = lines_of(summary, leading(summary))
    blocks = _blocks(chosen[chosen["strength"].notna()])
    if not blocks:
        raise UserError("expected noises with a swept strength to plot, got none; print the summary as a table instead")
    title = title or f"{_named(chosen)} under weight noise"
    return _figure(blocks, chosen, title, "strength", _strength_label)


def time_figure(summary: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy (%) against time since programming (log axis): a panel per noise and compensation, a line per method.

    Bands as in :func:`strength_figure`. Time 0 is drawn a decade before the first later time. Raises
    :class:`UserError` when the summary has fewer than two times.
    """
    chosen = lines_of(summary, leading(summary))
    timed = chosen[chosen["t"].notna()]
    times = sorted(timed["t"].unique())
    if len(times) < 2:
        raise UserError(f"expected lines at two or more times to plot, got {len(times)}; evaluate with times")
    places = {t: t if t > 0 else times[1] / 10 for t in times}
    blocks = [
        (f"{name}, strength {strength:g}" if block["strength"].nunique() > 1 else name, lines)
        for name, block in readings(timed).items()
        for strength, lines in block.groupby("strength", sort=True)
    ]
    placed = [(name, lines.assign(place=lines["t"].map(places))) for name, lines in blocks]
    title = title or f"{_named(chosen)} over time since programming"
    figure = _figure(placed, chosen, title, "place", lambda name: "time since programming")
    for axis in figure.axes:
        axis.set_xscale("log")
        axis.set_xticks([places[t] for t in times], [seconds(t) for t in times], rotation=45, ha="right")
        axis.set_xticks([], minor=True)
    return figure


def _figure(
    blocks: Sequence[tuple[str, pd.DataFrame]], summary: pd.DataFrame, title: str, x: str, label: Callable[[str], str]
) -> Figure:
    """Accuracy against the column ``x``, which ``label`` names for each block of lines: a panel per block.

    Where more than :data:`MOST_BANDED` methods have both bands, a panel per block and method.
    """
    look, shared = looks(summary["method"]), _alike([block for _, block in blocks])
    legend, what = _legend(look, summary), f"test {axis_label(summary)}"
    if len(look) > MOST_BANDED and all(summary[name].notna().any() for name in ("noise_std", "weight_std")):
        return _facets(blocks, look, title, legend, x, what, label)
    figure, axes = panels(len(blocks), title, legend=legend, sharey=shared)
    for axis, (name, block) in zip(axes, blocks, strict=True):
        for method, one in look.items():
            _draw(axis, block[block["method"] == method], one, x)
        dress(axis, name, label(name), what if in_first_column(axis) or not shared else "")
        axis.margins(x=0.03)
    return figure


def _facets(
    blocks: Sequence[tuple[str, pd.DataFrame]],
    look: Mapping[str, Look],
    title: str,
    legend: Sequence[Entry],
    x: str,
    what: str,
    label: Callable[[str], str],
) -> Figure:
    """A panel per block and method: that method with its bands, the others as thin lines; a block has one axis."""
    columns = 4 if len(look) in (4, 7, 8) else 3
    rows = -(-len(look) // columns)
    figure, axes = panels(len(blocks) * rows * columns, title, legend=legend, size=(2.9, 2.3), columns=columns)
    for number, (name, block) in enumerate(blocks):
        places = axes[number * rows * columns :][: rows * columns]
        for index, (axis, (method, one)) in enumerate(zip(places, look.items(), strict=False)):
            if index:
                axis.sharey(places[0])
            for other, its in look.items():
                line = block[block["method"] == other].sort_values(x)
                axis.plot(line[x], line["mean"], color=its.colour, linewidth=0.9, alpha=0.55, zorder=1)
            _draw(axis, block[block["method"] == method], one, x)
            lowest = index + columns >= len(look)
            dress(axis, "", wrapped(label(name), 34) if lowest else "", what if index % columns == 0 else "")
            axis.set_title("\n".join(filter(None, map(_short, (name, method)))), fontsize=SMALL, color=TEXT)
            axis.margins(x=0.03)
            axis.tick_params(labelleft=index % columns == 0)
        for axis in places[len(look) :]:
            axis.remove()
    return figure


def _short(text: str) -> str:
    """``text`` as two lines of a narrow panel's title; the legend has all of it."""
    first, *rest = wrapped(text, 38).split("\n") if text else [""]
    return "\n".join([first, *(f"{line} …" if len(rest) > 1 else line for line in rest[:1])])


def _alike(blocks: Sequence[pd.DataFrame]) -> bool:
    """Whether panels can share an axis: not where the means of one fill less than a quarter of it."""
    spans = [block["mean"].max() - block["mean"].min() for block in blocks]
    whole = max(block["mean"].max() for block in blocks) - min(block["mean"].min() for block in blocks)
    return bool(min(spans) >= whole / 4)


def _named(chosen: pd.DataFrame) -> str:
    """The metric as a title begins."""
    name = str(chosen["metric"].iloc[0])
    return name[:1].upper() + name[1:]


def _blocks(summary: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Title and lines by reading and time; noise-free lines without a time open every line of their reading."""
    blocks = []
    for name, block in readings(summary).items():
        timeless = block["t"].isna()
        if (timeless & ~noise_free(block)).any() or (name and timeless.all()):
            blocks.append((name, block[timeless]))
        for t in block["t"].dropna().unique():
            blocks.append((f"{name}, t = {seconds(t)}", block[(block["t"] == t) | (timeless & noise_free(block))]))
    return blocks


def _draw(axis: Axes, line: pd.DataFrame, look: Look, column: str) -> None:
    """One method of a panel: its noise band at the back, then its weight band, then its line."""
    line = line.sort_values(column)
    x, mean = line[column].to_numpy(), line["mean"].to_numpy()
    # A noise-free point has no spread over draws: its noise band closes there.
    noise = line["noise_std"].mask(noise_free(line) & line["noise_std"].isna(), 0.0).to_numpy()
    weight = line["weight_std"].to_numpy()
    if line["noise_std"].notna().any():
        shade(axis, x, mean - noise, mean + noise, look.colour, NOISE_ALPHA, zorder=1)
        # The dotted edge keeps the noise band in sight where the weight band is the wider one.
        for bound in (mean - noise, mean + noise):
            axis.plot(x, bound, color=look.colour, linestyle=(0, (1, 1.6)), linewidth=0.9, alpha=0.8, zorder=2.5)
    if line["weight_std"].notna().any():
        shade(axis, x, mean - weight, mean + weight, look.colour, WEIGHT_ALPHA, zorder=2)
    axis.plot(x, mean, **look.line(), zorder=3)


def _strength_label(name: str) -> str:
    """What the x axis measures. The literal reading's sigma is no fraction: its std is sigma sqrt(max|w|)."""
    letter = {"sigma": "σ", "b": "b"}.get(symbol(name))
    if letter is None:
        return "noise strength"
    return f"noise strength {letter}" + ("" if "literal" in name else ", as a fraction of max|w|")


def _legend(looks: Mapping[str, Look], summary: pd.DataFrame) -> list[Entry]:
    """Methods, then what the two bands mean."""
    entries: list[Entry] = [(Line2D([], [], **look.line()), method) for method, look in looks.items()]
    if summary["noise_std"].notna().any():
        light = Patch(facecolor=f"{ANY}22", edgecolor=ANY, linestyle=(0, (1, 1.6)), linewidth=0.9)
        entries.append((light, "± std over noise draws"))
    if summary["weight_std"].notna().any():
        entries.append((Patch(facecolor=f"{ANY}8c", linewidth=0), "± std over trained models"))
    return entries
