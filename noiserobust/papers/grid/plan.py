"""From artefacts to files: what is missing, how long it takes, doing it, and the rows, tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from noiserobust.papers.grid.artefacts import Artefact, Cell
from noiserobust.papers.grid.bench import Bench
from noiserobust.papers.grid.estimate import here
from noiserobust.papers.grid.markdown import text_of
from noiserobust.papers.grid.published_values import published
from noiserobust.papers.grid.quantity import Quantity
from noiserobust.papers.grid.scale import Grid
from noiserobust.papers.grid.step_time import StepTime
from noiserobust.storage.files import write_atomically
from noiserobust.storage.provenance import provenance
from noiserobust.storage.rows import write_rows
from noiserobust.sweep import Executor, Local, Piece, Training

OnPiece = Callable[[Piece, int, int], object]


@dataclass(frozen=True)
class Plan:
    """Artefacts to be made, each with its paper at the scale of ``bench``."""

    wanted: Sequence[tuple[Artefact, Grid]]
    bench: Bench

    @property
    def runs(self) -> list[Piece]:
        """All trainings, each once."""
        return self._pieces(
            lambda quantity: [
                self.bench.training(run, seed) for run in quantity.runs for seed in self.bench.seeds
            ]
        )  # fmt: skip

    @property
    def measurements(self) -> list[Piece]:
        """All that is measured of finished runs, each once."""
        return self._pieces(lambda quantity: list(quantity.pieces(self.bench)))

    def missing(self) -> tuple[list[Piece], list[Piece]]:
        """Trainings and measurements that are not done."""
        return [p for p in self.runs if not here(p)], [p for p in self.measurements if not here(p)]

    def run(self, executor: Executor | None = None, on_piece: OnPiece | None = None) -> None:
        """Do what is missing."""
        compute([*self.runs, *self.measurements], executor, on_piece)

    def ready(self, artefact: Artefact, grid: Grid) -> bool:
        """Whether everything that ``artefact`` shows is done."""
        return all(
            here(piece)
            for cell in artefact.cells(grid)
            for quantity in quantities(cell)
            for piece in [
                *(self.bench.training(run, seed) for run in quantity.runs for seed in self.bench.seeds),
                *quantity.pieces(self.bench),
            ]
        )

    def write(self, artefact: Artefact, grid: Grid, folder: Path) -> list[Path]:
        """The rows, the table or the picture of a finished artefact in ``folder``; the paths written."""
        rows = rows_of(artefact, grid, self.bench)
        written = [write_rows(rows, folder / f"{artefact.name}.parquet")]
        text = text_of(artefact, rows, grid, len(self.bench.seeds))
        written.append(
            write_atomically(folder / f"{artefact.name}.md", lambda temporary: temporary.write_text(text + "\n"))
        )
        if artefact.kind != "table":
            from noiserobust.papers.grid.pictures import draw
            from noiserobust.report.style import save

            written.append(save(draw(rows, artefact.kind, f"{artefact.says}: {artefact.title} ({grid.scale.name})",
                                     artefact.x, artefact.y), folder / f"{artefact.name}.png"))  # fmt: skip
        return written

    def _pieces(self, of: Callable[[Quantity], Sequence[Piece]]) -> list[Piece]:
        pieces: dict[Piece, None] = {}
        for artefact, grid in self.wanted:
            for cell in artefact.cells(grid):
                for quantity in quantities(cell):
                    pieces |= dict.fromkeys(of(quantity))
        return list(pieces)


def compute(pieces: Sequence[Piece], executor: Executor | None = None, on_piece: OnPiece | None = None) -> None:
    """Do what is missing of ``pieces``: trainings, then what is measured of them, then what is timed, which shares
    the machine with nothing."""
    trainings: list[Piece] = [piece for piece in pieces if isinstance(piece, Training)]
    timed: list[Piece] = [piece for piece in pieces if isinstance(piece, StepTime)]
    others = [piece for piece in pieces if not isinstance(piece, (Training, StepTime))]
    for group, who in ((trainings, executor or Local()), (others, executor or Local()), (timed, Local())):
        missing = [piece for piece in dict.fromkeys(group) if not piece.result.is_file()]
        for done, piece in enumerate(who.run(missing), 1):
            if on_piece is not None:
                on_piece(piece, done, len(missing))


def quantities(cell: Cell) -> list[Quantity]:
    """The quantities that ``cell`` shows."""
    return [cell.quantity] + ([] if cell.x is None or isinstance(cell.x, (int, float)) else [cell.x])


def rows_of(artefact: Artefact, grid: Grid, bench: Bench) -> pd.DataFrame:
    """Every value behind ``artefact``, tidy, with what the paper prints in the same place."""
    printed, parts = published(artefact.paper), []
    for cell in artefact.cells(grid):
        values = cell.quantity.values(bench)
        if isinstance(cell.x, (int, float)):
            values = values.assign(x=float(cell.x))
        elif cell.x is not None:
            # One copy's place is its mean over draws.
            place = cell.x.values(bench).groupby("replicate")["value"].mean()
            values = values.assign(x=values["replicate"].map(place) if len(place) > 1 else place.iloc[0])
        there = printed.get((artefact.name, cell.row, cell.column, cell.quantity.unit))
        values = values.assign(
            row=cell.row,
            column=cell.column,
            quantity=cell.quantity.unit,
            published=np.nan if there is None else there.value,
            published_noise_std=np.nan if there is None or there.noise_std is None else there.noise_std,
            published_weight_std=np.nan if there is None or there.weight_std is None else there.weight_std,
        )
        parts.append(values)
    table = pd.concat(parts, ignore_index=True).assign(
        paper=artefact.paper, artefact=artefact.name, scale=grid.scale.name, **provenance()
    )
    first = ["paper", "artefact", "scale", "row", "column", "quantity", "x", "replicate", "draw", "value"]
    return table[[*first, *(name for name in table if name not in first)]]
