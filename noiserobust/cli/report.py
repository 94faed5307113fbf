"""``noiserobust report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

from noiserobust.cli.present import present
from noiserobust.errors import UserError
from noiserobust.evaluation.ledger import UNIT
from noiserobust.results import read_rows


@dataclass(frozen=True)
class Report:
    """Tables and pictures from rows that evaluate wrote; several files are put together."""

    rows: tyro.conf.Positional[tuple[Path, ...]]
    """Parquet files of rows."""
    where: str | None = None
    """Only rows of which this holds, such as "seed == 0 and images == 500" (columns: docs/evaluation.md)."""
    baseline: str | None = None
    """Method that every other one is compared with, as a paired difference with its interval."""
    plot: Path | None = None
    """Picture of accuracy against strength, or against time where there are several times (PNG)."""
    table: Path | None = None
    """The tables as Markdown."""

    def run(self) -> None:
        if not self.rows:
            raise UserError("expected files of rows, got none; evaluate writes them")
        rows = pd.concat([read_rows(path) for path in self.rows], ignore_index=True).drop_duplicates(
            [*UNIT, "method", "metric"], ignore_index=True
        )
        if self.where is not None:
            try:
                rows = rows.query(self.where)
            except Exception as error:  # whatever the expression does wrong
                columns = ", ".join(map(str, rows.columns))
                raise UserError(f"expected a condition on {columns}, got '{self.where}': {error}") from None
            if rows.empty:
                raise UserError(f"expected rows of which '{self.where}' holds, got none")
        present(rows, self.plot, self.table, self.baseline)
