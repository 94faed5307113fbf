"""Accuracy under weight noise as pictures: against the strength of the noise, and against time since programming."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    WEIGHT_ALPHA,
    Entry,
    colour,
    dress,
    in_first_column,
    line_style,
    panels,
    save,
    shade,
)
from noiserobust.report.table import lines_of, readings, seconds, symbol
from noiserobust.storage.rows import noise_free

__all__ = [
    "save",
    "strength_figure",
    "time_figure",
]


def strength_figure(summary: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy (%) against noise strength: a panel per reading of the noise (and time), a line per method.

    Each line has two bands: mean ± ``noise_std`` (lighter, dotted edges) and mean ± ``weight_std`` (darker); a band
    that does not exist (one draw, one model) is not drawn. A method keeps its colour and marker in every panel.

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
    """A panel for each block of lines, of accuracy against the column ``x``, which ``label`` names for each block."""
    methods = list(dict.fromkeys(summary["method"]))
    shared = _alike([block for _, block in blocks])
    figure, axes = panels(len(blocks), title, legend=_legend(methods, summary), sharey=shared)
    for axis, (name, block) in zip(axes, blocks, strict=True):
        _draw(axis, block, methods, x)
        named = in_first_column(axis) or not shared
        dress(axis, name, label(name), f"test {axis_label(summary)}" if named else "")
        axis.margins(x=0.03)
    return figure


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


def _draw(axis: Axes, panel: pd.DataFrame, methods: Sequence[str], column: str) -> None:
    """Every method of a panel: noise bands at the back, then weight bands, then lines."""
    for index, method in enumerate(methods):
        line = panel[panel["method"] == method].sort_values(column)
        x, mean = line[column].to_numpy(), line["mean"].to_numpy()
        # A noise-free point has no spread over draws: its noise band closes there.
        noise = line["noise_std"].mask(noise_free(line) & line["noise_std"].isna(), 0.0).to_numpy()
        weight = line["weight_std"].to_numpy()
        if line["noise_std"].notna().any():
            shade(axis, x, mean - noise, mean + noise, index, NOISE_ALPHA, zorder=1)
            # The dotted edge keeps the noise band in sight where the weight band is the wider one.
            for bound in (mean - noise, mean + noise):
                axis.plot(x, bound, color=colour(index), linestyle=(0, (1, 1.6)), linewidth=0.9, alpha=0.8, zorder=2.5)
        if line["weight_std"].notna().any():
            shade(axis, x, mean - weight, mean + weight, index, WEIGHT_ALPHA, zorder=2)
        axis.plot(x, mean, **line_style(index), zorder=3)


def _strength_label(name: str) -> str:
    """What the x axis measures. The literal reading's sigma is no fraction: its std is sigma sqrt(max|w|)."""
    letter = {"sigma": "σ", "b": "b"}.get(symbol(name))
    if letter is None:
        return "noise strength"
    return f"noise strength {letter}" + ("" if "literal" in name else ", as a fraction of max|w|")


def _legend(methods: Sequence[str], summary: pd.DataFrame) -> list[Entry]:
    """Methods, then what the two bands mean."""
    entries: list[Entry] = [(Line2D([], [], **line_style(index)), method) for index, method in enumerate(methods)]
    if summary["noise_std"].notna().any():
        light = Patch(facecolor=f"{ANY}22", edgecolor=ANY, linestyle=(0, (1, 1.6)), linewidth=0.9)
        entries.append((light, "± std over noise draws"))
    if summary["weight_std"].notna().any():
        entries.append((Patch(facecolor=f"{ANY}8c", linewidth=0), "± std over trained models"))
    return entries
