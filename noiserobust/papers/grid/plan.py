"""From artefacts to files: what must be computed, computing it, and the rows, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from noiserobust.papers.grid.artefacts import Artefact, Cell, artefacts_of
from noiserobust.papers.grid.bench import Bench, with_logs
from noiserobust.papers.grid.finished import complete, missing
from noiserobust.papers.grid.markdown import text_of
from noiserobust.papers.grid.published_values import Published, published
from noiserobust.papers.grid.quantity import Quantity
from noiserobust.papers.grid.scale import Grid, Scale
from noiserobust.papers.grid.step_time import StepTime
from noiserobust.storage.files import write_text
from noiserobust.storage.provenance import provenance
from noiserobust.storage.rows import write_rows
from noiserobust.sweep import Executor, Local, Piece, Training
from noiserobust.sweep.executors import OnPiece, compute
from noiserobust.sweep.pieces import data_of
from noiserobust.training import TrainSettings


def pieces_of(artefact: Artefact, grid: Grid, bench: Bench) -> list[Piece]:
    """All that must be computed for ``artefact``."""
    return [piece for quantity in quantities(artefact, grid) for piece in quantity.pieces(bench)]


def quantities(artefact: Artefact, grid: Grid) -> list[Quantity]:
    """All that ``artefact`` shows, in its cells and as their places on the x axis."""
    shown = [quantity for cell in artefact.cells(grid) for quantity in (cell.quantity, cell.x)]
    return [quantity for quantity in shown if isinstance(quantity, Quantity)]


def logs_of(grids: Mapping[str, Grid], scale: Scale) -> dict[TrainSettings, TrainSettings]:
    """Every run of all artefacts of the papers in ``grids`` by its bare settings, with what any of them wants logged
    of it: runs are shared, and a finished one cannot be logged afterwards."""
    runs = [
        run
        for paper, grid in grids.items()
        for artefact in artefacts_of(paper).values()
        for quantity in quantities(artefact, grid)
        for run in quantity.runs
    ]
    return with_logs(runs, scale.log_images, scale.log_every)


def compute_in_stages(pieces: Sequence[Piece], executor: Executor | None, on_piece: OnPiece | None = None) -> None:
    """Do what is missing of ``pieces``: trainings, then what is measured of them, then what is timed, which shares
    the machine with nothing."""
    for training in (piece for piece in missing(pieces) if isinstance(piece, Training)):
        data_of(training.settings)  # a download comes before names, which follow from the data that are here
    pieces = missing(pieces)
    compute((piece for piece in pieces if isinstance(piece, Training)), executor, on_piece)
    compute((piece for piece in pieces if not isinstance(piece, (Training, StepTime))), executor, on_piece)
    compute((piece for piece in pieces if isinstance(piece, StepTime)), Local(threads=None), on_piece)


Computed = Sequence[tuple[Cell, Bench]]
"""Cells, each with the bench of those of its trained copies that are computed."""


def computed(artefact: Artefact, grid: Grid, bench: Bench) -> Computed:
    """The cells of which at least one copy is computed, each with those that are."""

    def pieces(quantities: Sequence[Quantity], of: Bench) -> list[Piece]:
        return [piece for quantity in quantities for piece in quantity.pieces(of)]

    found = []
    for cell in artefact.cells(grid):
        needed = [one for one in (cell.quantity, cell.x) if isinstance(one, Quantity)]
        if (of := complete(bench, partial(pieces, needed))) is not None:
            found.append((cell, of))
    return found


def write(artefact: Artefact, grid: Grid, bench: Bench, cells: Computed | None = None) -> list[Path]:
    """The rows, the text and, of a figure, the picture of an artefact in its paper's folder; their paths. ``cells``:
    what is shown of it (default: all of it, with all copies)."""
    rows, path = rows_of(artefact, grid, bench, cells), bench.folder / artefact.paper / artefact.name
    text = text_of(artefact, rows, grid, len(bench.seeds)) + "\n"
    written = [
        write_rows(rows, path.with_suffix(".parquet")),
        write_text(path.with_suffix(".md"), text),
    ]
    if artefact.kind != "table":
        from noiserobust.papers.grid.pictures import draw
        from noiserobust.report.style import save

        title = f"{artefact.says}: {artefact.title} ({grid.scale.name})"
        figure = draw(rows, artefact.kind, title, artefact.x, artefact.y)
        written.append(save(figure, path.with_suffix(".png")))
    return written


def rows_of(artefact: Artefact, grid: Grid, bench: Bench, cells: Computed | None = None) -> pd.DataFrame:
    """Every value behind ``artefact`` (or some ``cells`` of it), tidy, with what the paper prints in the same place."""
    printed, parts = published(artefact.paper), []
    for cell, of in [(cell, bench) for cell in artefact.cells(grid)] if cells is None else cells:
        values = cell.quantity.values(of)
        if isinstance(cell.x, (int, float)):
            values = values.assign(x=float(cell.x))
        elif cell.x is not None:
            # One copy's place is its mean over draws.
            place = cell.x.values(of).groupby("replicate")["value"].mean()
            values = values.assign(x=values["replicate"].map(place) if len(place) > 1 else place.iloc[0])
        there = printed.get((artefact.name, cell.row, cell.column, cell.quantity.unit), Published())
        values = values.assign(
            row=cell.row,
            column=cell.column,
            quantity=cell.quantity.unit,
            published=there.value,
            published_noise_std=there.noise_std,
            published_weight_std=there.weight_std,
        )
        parts.append(values)
    table = pd.concat(parts, ignore_index=True).assign(
        paper=artefact.paper, artefact=artefact.name, scale=grid.scale.name, **provenance()
    )
    first = ["paper", "artefact", "scale", "row", "column", "quantity", "x", "replicate", "draw", "value"]
    return table[[*first, *(name for name in table if name not in first)]]
