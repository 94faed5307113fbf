"""The reproduction map: of every table and figure how far it has been reproduced, and what keeps the rest away."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd
from scipy import stats

from noiserobust.errors import UserError
from noiserobust.models import ModelSpec, cost
from noiserobust.papers.grid.artefacts import Artefact, artefacts_of, grid_of
from noiserobust.papers.grid.bench import unlogged
from noiserobust.papers.grid.estimate import in_words, sizes_of
from noiserobust.papers.grid.markdown import KEY, copies_of
from noiserobust.papers.grid.plan import quantities
from noiserobust.papers.grid.scale import PAPER
from noiserobust.report.table import as_markdown
from noiserobust.storage.rows import is_number, read_rows
from noiserobust.sweep.pieces import mean_cost
from noiserobust.training import TrainSettings

REACHED = 120e12
"""FLOP a second of one H100 in bf16: 30 % of 400e12 (docs/scale.md)."""
COMMAND = "noiserobust reproduce map docs/results/*-{mini,four-epochs,small}.parquet"
HELP = """For every table and figure: what was computed of it at which scale, and how it agrees with what is printed.

- **copies**: trained copies of each run, the fewest and the most; **cells**: how many printed numbers are compared, all
  of one quantity. One data set stands for all at `mini` and `small`, so that two cells, of CIFAR-10 and of CIFAR-100,
  often compare the same runs with what is printed of each. Figures print no numbers, and of some tables the paper's
  text lost them ([what is transcribed](../noiserobust/papers/published/README.md)).
- **ranks**: Spearman's rank correlation of measured and printed cells; **of effects**: of the differences from the
  first row of the same column, which the levels of the columns do not flatter.
- **signs**: share of printed effects that have the same sign here; **within**: share that lie inside the 95 % interval
  (t, over copies) of the effect measured here. With three copies intervals are wide, and much lies within them.
- **left**: what the scale `paper` would take: its trainings, the hours of one H100 that their passes cost (400 TFLOP/s,
  of which 30 % are reached), and data that must be had. Evaluations and several seeds are not in it."""


def read_all(files: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Rows by their scale, which the name of their file says (``rwp-mini.parquet``), or else the folder that they lie
    in (``reproduced/mini/rwp/table1.parquet``)."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for file in files:
        name, rows = file.stem.partition("-")[2] or file.parent.parent.name, read_rows(file)
        if "paper" not in rows:
            raise UserError(f"expected rows of reproduce, got {file} without a column paper; leave it out")
        if not {"artefact", "published", *KEY} - {*rows.columns}:  # else verdicts, no cells
            numbers = all(is_number(rows[one]) or rows[one].isna().all() for one in ("value", "published"))
            if not numbers or rows[KEY].isna().any(axis=None):
                raise UserError(
                    f"expected numbers as values, and a {', '.join(KEY)} each, got {file} with others; leave it out or "
                    "reproduce it again"
                )
            parts.setdefault(name, []).append(rows)
    if not parts:
        raise UserError("expected rows of tables and figures, as noiserobust reproduce writes them, got none in these")
    return {name: pd.concat(rows, ignore_index=True) for name, rows in parts.items()}


def map_text(rows: Mapping[str, pd.DataFrame], papers: Sequence[str]) -> str:
    """The map as Markdown, a table per paper."""
    lines = ["# How far the papers are reproduced", HELP, f"    {COMMAND}    # makes this page"]
    for paper in papers:
        table = [["", "shows", "scale", "copies", "cells", "ranks", "of effects", "signs", "within", "left"]]
        for artefact in artefacts_of(paper).values():
            table += _lines(artefact, rows)
        lines += [f"## {paper}", as_markdown(table)]
    return "\n\n".join(lines)


def _lines(artefact: Artefact, rows: Mapping[str, pd.DataFrame]) -> Iterator[list[str]]:
    """A line per scale at which something of ``artefact`` is computed."""
    found, title, left = False, artefact.title, _left(artefact)
    for name, table in rows.items():
        own = table[(table["paper"] == artefact.paper) & (table["artefact"] == artefact.name)]
        if not len(own):
            continue
        yield [artefact.name, title, name, copies_of(most_shown(own)), *agreement(own), left]
        found, title, left = True, "", ""
    if not found:
        yield [artefact.name, title, "none", "", "", "", "", "", "", left]


def most_shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the quantity that most cells have; times and counts of passes are of one copy."""
    cells = rows.astype(dict.fromkeys(KEY, str)).drop_duplicates(KEY)
    return rows[rows["quantity"] == cells["quantity"].value_counts().idxmax()]


def agreement(rows: pd.DataFrame) -> list[str]:
    """Cells, rank correlations, and shares of effects with the same sign and within the interval, as text."""
    printed = rows[rows["published"].notna() & rows["value"].notna()].astype(dict.fromkeys(KEY, str))
    if not len(printed):
        return ["none printed", "", "", "", ""]
    main = printed.groupby("quantity")["row"].count().idxmax()
    printed = printed[printed["quantity"] == main]
    cells = printed.groupby(["column", "row"], sort=False).agg(mean=("value", "mean"), published=("published", "first"))
    each = printed.groupby(["column", "row"])
    copies = {place: own.groupby("replicate")["value"].mean() for place, own in each}
    effects = []
    for column, own in cells.groupby("column", sort=False):
        first, *others = own.index.get_level_values("row")
        for row in others:
            differences = (copies[column, row] - copies[column, first]).dropna()
            shown = own["published"][column, row] - own["published"][column, first]
            # 98.27 - 98.2 is not quite 70.27 - 70.2: without rounding, no difference would have a sign.
            effects.append((round(float(differences.mean()), 9), *_interval(differences), float(shown)))
    correlation = _ranks(list(cells["mean"]), list(cells["published"]))
    if not effects:
        return [f"{len(cells)} ({main})", correlation, "", "", ""]
    mean, low, high, shown = zip(*effects, strict=True)
    signed = [a * b > 0 for a, b in zip(mean, shown, strict=True) if b]
    inside = [a <= b <= c for a, b, c in zip(low, shown, high, strict=True) if not math.isnan(a)]
    shares = [f"{sum(one)} of {len(one)}" if one else "" for one in (signed, inside)]
    return [f"{len(cells)} ({main})", correlation, _ranks(mean, shown), *shares]


def _interval(differences: pd.Series) -> tuple[float, float]:
    n = len(differences)
    if n < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / math.sqrt(n))
    return float(differences.mean()) - half, float(differences.mean()) + half


def _ranks(ours: Sequence[float], theirs: Sequence[float]) -> str:
    if len({*ours}) < 2 or len({*theirs}) < 2 or len(ours) < 4:
        return ""
    return f"{stats.spearmanr(ours, theirs).statistic:+.2f}"


def _left(artefact: Artefact) -> str:
    """What the trainings of ``artefact`` cost as published."""
    grid = grid_of(artefact.paper, PAPER)
    runs = {unlogged(run) for quantity in quantities(artefact, grid) for run in quantity.runs}
    if not runs:
        return "nothing is trained for it"
    data = sorted({run.data for run in runs} - {"digits"})
    return f"{len(runs)} trainings, {in_words(sum(map(_seconds, runs)))}; {', '.join(data)}"


@cache
def _seconds(run: TrainSettings) -> float:
    images, _, channels, size, classes = sizes_of(run.data)
    passes = run.epochs * images * mean_cost(run, 100)
    return passes * _flops(run.model, channels, size, classes) / REACHED


@cache
def _flops(model: ModelSpec, channels: int, size: int, classes: int) -> int:
    return cost(model, channels, size, classes).forward_backward
