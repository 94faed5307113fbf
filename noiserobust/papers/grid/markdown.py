"""Tables and notes of a paper as Markdown: measured beside published."""

from __future__ import annotations

import math

import pandas as pd

from noiserobust.papers.grid.artefacts import Artefact
from noiserobust.papers.grid.scale import Grid
from noiserobust.report.table import as_markdown

DECIMALS = {"accuracy": 2, "error": 2, "top5_accuracy": 2, "gain": 2, "images_per_second": 0, "speed": 1, "memory": 2}
DECIMALS |= {"seconds_per_step": 4}
KEY = ["row", "column", "quantity"]
PERCENT = ("accuracy", "error", "top5_accuracy", "speed")


def text_of(artefact: Artefact, rows: pd.DataFrame, grid: Grid, seeds: int) -> str:
    """The artefact as Markdown: a title, its table, and what the scale changed.

    A cell is ``mean ± std over draws ± std over copies [published]``; a spread that does not exist is left out.
    ``seeds``: how many copies of every run were asked for.
    """
    parts = [f"**{artefact.says}: {artefact.title}** (scale {grid.scale.name})"]
    if artefact.kind == "table":
        parts.append(as_markdown(_grid(rows)))
        draws = rows.groupby([*KEY, "replicate"])["draw"].nunique().max()
        meaning = f"mean ± std over {draws} noise draws" if draws > 1 else "mean"
        shown = ", ".join(map(_unit, dict.fromkeys(rows["quantity"])))
        parts.append(f"{shown}: {meaning} ± std over {copies_of(rows)} trained copies [published]")
        if "choice" in rows:
            chosen = rows.dropna(subset="choice").drop_duplicates(["row", "column"])
            listed = "; ".join(f"{r.row}, {r.column}: {r.choice}" for r in chosen.itertuples())
            parts.append(f"best choices, made on the values shown: {listed}")
    elif rows["published"].notna().any():
        parts.append(as_markdown(_grid(rows[rows["published"].notna()])))
        parts.append("mean ± std over trained copies [published], where the paper prints numbers of this figure")
    if artefact.note:
        parts.append(artefact.note)
    says = list(grid.says)
    if seeds != grid.scale.seeds and (copies := copies_of(rows)) != str(grid.scale.seeds):
        which = "here" if " to " in copies else "of every run here"
        says.append(f"trained copies {which}: {copies} instead of {grid.scale.seeds}")
    parts.append("\n".join(f"- {line}" for line in says))
    return "\n\n".join(parts)


def copies_of(rows: pd.DataFrame) -> str:
    """Trained copies of the cells: ``3``, or the fewest and the most, ``1 to 3`` (over one there is no spread)."""
    counts = rows.astype(dict.fromkeys(KEY, str)).groupby(KEY)["replicate"].nunique()
    return f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"


def _grid(rows: pd.DataFrame) -> list[list[str]]:
    """Rows down, columns across; a column per quantity where there are several."""
    several = rows["quantity"].nunique() > 1
    places = list(dict.fromkeys(zip(rows["column"], rows["quantity"], strict=True)))
    heads = [f"{column}, {_unit(quantity)}" if several else column for column, quantity in places]
    cells = {key: _cell(values) for key, values in rows.groupby(KEY, sort=False)}
    names = list(dict.fromkeys(rows["row"]))
    return [["", *heads], *([name, *(cells.get((name, *place), "") for place in places)] for name in names)]


def _cell(values: pd.DataFrame) -> str:
    decimals = DECIMALS.get(values["quantity"].iloc[0], 3)
    means, first = values.groupby("replicate")["value"].mean(), values.iloc[0]
    noise = math.sqrt(values.groupby("replicate")["value"].var(ddof=1).mean())
    spreads = [s for s in (noise, means.std(ddof=1)) if not math.isnan(s)]
    return _written(means.mean(), spreads, decimals) + _published(first, decimals)


def _published(line: pd.Series, decimals: int) -> str:
    if math.isnan(line["published"]):
        return ""
    spreads = [s for s in (line["published_noise_std"], line["published_weight_std"]) if not math.isnan(s)]
    return f" [{_written(line['published'], spreads, decimals)}]"


def _written(value: float, spreads: list[float], decimals: int) -> str:
    return " ± ".join(f"{number:.{decimals}f}" for number in (value, *spreads))


def _unit(quantity: str) -> str:
    return f"{quantity.replace('_', ' ')} (%)" if quantity in PERCENT else quantity.replace("_", " ")
