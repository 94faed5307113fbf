"""What the tests of the papers' grids share."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path

from noiserobust.papers.grid import Grid, Scale, artefacts_of
from noiserobust.papers.grid.bench import unlogged
from noiserobust.papers.grid.plan import quantities
from noiserobust.training import TrainSettings

Key = tuple[str, str, str, str]
PUBLISHED = Path(__file__).parents[1] / "noiserobust" / "papers" / "published"


def grid(paper: str, scale: Scale) -> Grid:
    return Grid(scale, importlib.import_module(f"noiserobust.papers.{paper}").RECIPE)


def cells_of_tables(paper: str, scale: Scale) -> list[Key]:
    """(artefact, row, column, quantity) of every cell of every table."""
    return [
        (artefact.name, cell.row, cell.column, cell.quantity.unit)
        for artefact in artefacts_of(paper).values()
        if artefact.kind == "table"
        for cell in artefact.cells(grid(paper, scale))
    ]


def printed(paper: str) -> set[Key]:
    """The same of what the paper prints, lost cells too."""
    with open(PUBLISHED / f"{paper}.csv", newline="") as lines:
        return {(l["artefact"], l["row"], l["column"], l["quantity"]) for l in csv.DictReader(lines)}  # noqa: E741


def runs(paper: str, scale: Scale, name: str | None = None) -> set[TrainSettings]:
    """The different trainings of a paper, or of one of its artefacts."""
    chosen = [a for a in artefacts_of(paper).values() if name in (None, a.name)]
    return {
        unlogged(run)
        for artefact in chosen
        for cell in artefact.cells(grid(paper, scale))
        for quantity in quantities(cell)
        for run in quantity.runs
    }
