"""What the tests of sweeps and of the papers' grids share."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from noiserobust.papers.grid import MINI, PAPER, SMALL, Bench, Cell, Scale, artefacts_of, grid_of
from noiserobust.papers.grid.bench import unlogged
from noiserobust.papers.grid.plan import quantities
from noiserobust.papers.grid.published_values import FOLDER
from noiserobust.papers.grid.quantity import Quantity
from noiserobust.papers.grid.scale import SMALL_GPU
from noiserobust.sweep import Local, Piece
from noiserobust.training import TrainSettings

Key = tuple[str, str, str, str]
NOWHERE = Bench(MINI, Path("nowhere"))
"""A bench for quantities that need no run."""
every_scale = pytest.mark.parametrize(
    "scale", [MINI, SMALL, SMALL_GPU, PAPER], ids=["mini", "small", "small-gpu", "paper"]
)


@dataclass
class Counting:
    """The local executor, which notes the names of the pieces that it was given."""

    pieces: list[str]

    def run(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        self.pieces += [piece.name for piece in pieces]
        return Local().run(pieces)


def cells(paper: str, name: str, scale: Scale = PAPER) -> list[Cell]:
    return list(artefacts_of(paper)[name].cells(grid_of(paper, scale)))


def keys(paper: str, scale: Scale, names: Sequence[str] | None = None) -> list[Key]:
    """(artefact, row, column, quantity) of every cell of the named artefacts (default: of all tables)."""
    tables = [artefact.name for artefact in artefacts_of(paper).values() if artefact.kind == "table"]
    chosen = tables if names is None else names
    return [(name, cell.row, cell.column, cell.quantity.unit) for name in chosen for cell in cells(paper, name, scale)]


def printed(paper: str, lost: bool = True) -> set[Key]:
    """The same of what the paper prints, with the cells whose numbers are lost or without them."""
    with open(FOLDER / f"{paper}.csv", newline="") as file:
        lines = [line for line in csv.DictReader(file) if lost or line["value"]]
    return {(line["artefact"], line["row"], line["column"], line["quantity"]) for line in lines}


def value(quantity: Quantity, bench: Bench = NOWHERE) -> float:
    """The first value of a quantity."""
    return float(quantity.values(bench)["value"].iloc[0])


def runs(paper: str, scale: Scale, name: str | None = None) -> set[TrainSettings]:
    """The different trainings of a paper, or of one of its artefacts."""
    at = grid_of(paper, scale)
    return {
        unlogged(run)
        for artefact in artefacts_of(paper).values()
        if name in (None, artefact.name)
        for quantity in quantities(artefact, at)
        for run in quantity.runs
    }
