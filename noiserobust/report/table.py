"""Summaries as text: the papers' ``mean ± noise ± weight`` tables, and paired differences."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import pandas as pd

from noiserobust.errors import UserError, printable
from noiserobust.limits import TABLE_WIDTH
from noiserobust.minima.labels import without_strength
from noiserobust.report.leading import leading, quantity_of
from noiserobust.spec import Duration
from noiserobust.storage.rows import OPERATION, completed, noise_free

SYMBOLS = {"gaussian": "sigma", "laplace": "b"}
GAP = "–"


def robustness_table(
    summary: pd.DataFrame, metric: str | None = None, markdown: bool = False, intervals: bool = False
) -> str:
    """The summary as a text (or Markdown) table: methods down, noises across, one block per reading of the noise.

    A cell is ``mean ± noise_std ± weight_std``, noise first as in the papers; a noise-free one ``mean ± weight_std``.
    A spread that no cell has (one model, one draw) is left out; one that a single cell lacks shows as a dash.
    With ``intervals`` a cell is ``mean [low, high]``, the interval for the mean.
    The last line says the units, how many models and draws, and what the two ± or the interval are.

    ``metric`` is by default that of the rows' task. Raises :class:`UserError` when the summary has no line of it.
    """
    metric = metric or leading(summary)
    chosen = lines_of(summary, metric)
    unit, form, _ = quantity_of(chosen, metric)
    spreads = [name for name in ("noise_std", "weight_std") if chosen[name].notna().any() and not intervals]
    blocks = []
    for name, block in readings(chosen).items():
        grid = _grid(block, name, spreads, form, intervals)
        blocks.append(titled(f"noise: {name}" if name else "without noise", grid, markdown))
    words = {"noise_std": "std over noise draws", "weight_std": "std over trained models"}
    meaning = " ± ".join(["mean", *(words[name] for name in spreads)])
    noisy = chosen[~noise_free(chosen)]
    told = noisy if len(noisy) else chosen
    if intervals:
        meaning = f"mean [its {100 * told['confidence'].iloc[0]:g} % interval{_over(told)}]"
    caption = f"{metric}{f' in {unit}' if unit else ''}: {meaning}; {sizes(told)}{_design(told)}"
    return "\n\n".join([*blocks, caption])


def paired_table(paired: pd.DataFrame) -> str:
    """Differences as text, one line per noise: ``sigma 0.3: +12.3 points [95 %: +10.1, +14.5], 3 models x 10 draws``.

    Differences of percentages are in points. Takes what ``noiserobust.evaluation.paired`` returns.
    """
    paragraphs = []
    for name, block in readings(paired).items():
        first = block.iloc[0]
        title = printable(f"{first['method_a']} - {first['method_b']}, {first['metric']}, noise: {name or 'none'}")
        paragraphs.append("\n".join([title, *(_difference(line, name) for line in _records(block))]))
    return "\n\n".join(paragraphs)


def lines_of(summary: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The lines of one metric; :class:`UserError` naming the metrics there are when it has none."""
    chosen = summary[summary["metric"] == metric] if "metric" in summary else summary.iloc[:0]
    if chosen.empty:
        known = ", ".join(summary["metric"].unique()) if "metric" in summary else "none"
        raise UserError(f"expected a summary with the metric '{metric}', got one with {known}; choose one it has")
    return chosen


def readings(summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The lines by reading of the noise: its text without the strength number, and what is done around the chip.

    Noise-free lines that name no reading (``none``) belong to all of them; the name is "" if there is nothing else.
    """
    pairs = zip(summary["noise"], summary["strength"], strict=True)
    texts = pd.Series(
        [without_strength(noise, strength) for noise, strength in pairs], index=summary.index, dtype=object
    )
    around = pd.Series(map(variant, completed(summary).to_dict("records")), index=summary.index, dtype=object)
    everywhere = noise_free(summary) & (texts == summary["noise"]) & (around == "")
    names = texts + around
    return {name: summary[everywhere | (names == name)] for name in names[~everywhere].unique()} or {"": summary}


def variant(line: Mapping[Any, Any]) -> str:
    """What is done around the chip, in words: ``, global compensation, batch norm from 500 images``."""
    words = {"compensation": "{} compensation", "recalibration": "batch norm from {} images"}
    words["layer_outputs"] = "{} outputs of some layers"
    said = [words.get(key, key + " {}").format(line[key]) for key in OPERATION if line[key] != OPERATION[key]]
    return "".join(f", {words}" for words in said)


def symbol(name: str) -> str:
    """What the swept number of a reading is called: sigma, b, or strength."""
    return SYMBOLS.get(re.split(r"\W", name, maxsplit=1)[0], "strength")


def seconds(t: float) -> str:
    """A time in its largest unit: ``25 s``, ``1 h``, ``1 d``, ``1.16 d``, ``1 y``."""
    unit, size = next(((unit, size) for unit, size in Duration.UNITS.items() if t >= size), ("s", 1.0))
    return f"{t / size:.3g} {unit}"


def at_time(t: float) -> str:
    """A time as it follows the name of a noise: ``, t 1 d``; nothing where no time is named."""
    return "" if math.isnan(t) else f", t {seconds(t)}"


def _records(block: pd.DataFrame) -> list[dict[Any, Any]]:
    """The lines as dictionaries in column order: noise-free first, then by strength, then by time."""
    records = block.assign(noise_free=noise_free(block)).to_dict("records")
    return sorted(records, key=lambda line: (not line["noise_free"], _number(line["strength"]), _number(line["t"])))


def _number(value: float) -> float:
    """A key to sort by: NaN, which compares with nothing, goes first."""
    return -math.inf if math.isnan(value) else value


def _label(line: dict[Any, Any], name: str) -> str:
    """The column (or line) label of one noise within its reading."""
    if line["metric"] == "area":
        strength = "area"
    elif line["noise_free"]:
        strength = "noise-free"
    elif math.isnan(line["strength"]) or without_strength(line["noise"], line["strength"]) == line["noise"]:
        # Nothing is swept: a device profile as it is.
        strength = "" if not math.isnan(line["t"]) else line["noise"]
    else:
        strength = f"{symbol(name)} {line['strength']:g}"
    return (strength + at_time(line["t"])).removeprefix(", ")


def _grid(block: pd.DataFrame, name: str, spreads: list[str], form: str, intervals: bool = False) -> list[list[str]]:
    """Header and rows of one block."""
    records = _records(block)
    columns = {_column(line): _label(line, name) for line in records}
    cells = {(line["method"], _column(line)): line for line in records}
    header = ["method", *columns.values()]
    body = [
        [method, *(_cell(cells.get((method, column)), spreads, form, intervals) for column in columns)]
        for method in block["method"].unique()
    ]
    return [header, *body]


def _column(line: dict[Any, Any]) -> tuple[str, float]:
    return line["noise"], _number(line["t"])


def _cell(line: dict[Any, Any] | None, spreads: list[str], form: str, intervals: bool) -> str:
    if line is None:
        return GAP
    shown = [name for name in spreads if not (name == "noise_std" and line["noise_free"])]
    mean, *others = (
        GAP if math.isnan(line[name]) else f"{line[name]:{form}}"
        for name in ["mean", *(["low", "high"] if intervals else shown)]
    )
    return f"{mean} [{', '.join(others)}]" if intervals else " ± ".join([mean, *others])


def aligned(grid: list[list[str]]) -> str:
    """Aligned columns; those beyond :data:`~noiserobust.limits.TABLE_WIDTH` continue below, beside the methods again.

    What is too wide even so is broken within its cell: names at half of the width, others at what is left.
    """
    width = TABLE_WIDTH.get()
    names, *columns = ([printable(cell) for cell in column] for column in zip(*grid, strict=True))
    first = _broken(names, width // 2 if columns else width)
    parts = [[first]]
    for column in columns:
        cells = _broken(column, width - _width(first) - 2)
        if len(parts[-1]) > 1 and sum(_width(one) + 2 for one in [*parts[-1], cells]) > width + 2:
            parts.append([first])
        parts[-1].append(cells)
    return "\n\n".join(map(_part, parts))


Cells = list[list[str]]
"""A column: the lines of every cell."""


def _broken(column: list[str], width: int) -> Cells:
    """Every cell in lines of at most so many characters, broken after commas where it can be."""
    return [[cell] if len(cell) <= width else textwrap.wrap(re.sub(r",(?=\S)", ", ", cell), width) for cell in column]


def _width(cells: Cells) -> int:
    return max(len(line) for cell in cells for line in cell)


def _part(columns: list[Cells]) -> str:
    widths = list(map(_width, columns))
    head, *body = ([*zip_longest(*cells, fillvalue="")] for cells in zip(*columns, strict=True))
    lines = [*head, ["-" * width for width in widths], *(line for row in body for line in row)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def titled(title: str, grid: list[list[str]], markdown: bool) -> str:
    """A grid under its title, as text or Markdown."""
    title = printable(title)
    return f"**{title}**\n\n{as_markdown(grid)}" if markdown else f"{title}\n{aligned(grid)}"


def as_markdown(grid: list[list[str]]) -> str:
    escaped = [[printable(cell).replace("|", "\\|") for cell in line] for line in grid]
    lines = [escaped[0], ["---"] * len(grid[0]), *escaped[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _difference(line: dict[Any, Any], name: str) -> str:
    table = pd.DataFrame([line])
    kind = quantity_of(table, line["metric"])
    unit, form = (" points", "+.1f") if kind.unit == "%" else ("", f"+{kind.form}")
    interval = f"{100 * line['confidence']:g} %: {line['low']:{form}}, {line['high']:{form}}{_over(table)}"
    if math.isnan(line["low"]):
        interval = "no interval from a single draw"
    mean = f"{_label(line, name)}: {line['mean']:{form}}{unit}"
    return f"{mean} [{interval}], {sizes(table)}{_design(table)}"


def _over(summary: pd.DataFrame) -> str:
    """What an interval leaves out, in words: one over draws is for these models only, and the other way round."""
    kinds = summary["interval_over"].unique()
    if len(kinds) > 1 and "draws" in kinds:
        return " over draws only where there is one model"
    over = kinds[0]
    return f" over {over} only" if over == "draws" or (over == "models" and _design(summary)) else ""


def sizes(summary: pd.DataFrame) -> str:
    """``3 models x 10 draws``, or the range where lines differ."""
    return " x ".join(_count(summary[column], word) for column, word in (("models", "model"), ("draws", "draw")))


def _design(summary: pd.DataFrame) -> str:
    crossed = "design" in summary and (summary["design"] == "crossed").any()
    return ", crossed: the models share their draws" if crossed else ""


def _count(numbers: pd.Series[int], word: str) -> str:
    low, high = numbers.min(), numbers.max()
    return f"{low}{f' to {high}' if high > low else ''} {word}{'s' if high > 1 else ''}"
