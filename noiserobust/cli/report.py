"""``noiserobust report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from noiserobust.cli.flags import Command
from noiserobust.cli.options import say, show


@dataclass(frozen=True)
class Report(Command):
    """Tables and pictures from rows that evaluate wrote; several files are put together."""

    examples = (
        'noiserobust report rows.parquet --baseline "plain" --intervals',
        "noiserobust report rows.parquet runs --page report.html",
    )
    positional = ("rows",)

    rows: tuple[Path, ...] = ()
    """Parquet files of rows; with --page also runs' folders, or folders of runs."""
    where: str | None = None
    """Only rows of which this holds, such as "seed == 0 and images == 500" (columns: docs/evaluation.md)."""
    baseline: str | None = None
    """Method that every other one is compared with, as a paired difference with its interval."""
    design: Literal["nested", "crossed"] = "nested"
    """nested: every trained copy has noise draws of its own, as evaluate makes them; crossed: copies share their
    draws (docs/statistics.md)."""
    area: bool = False
    """The area under the accuracy-noise curve instead of accuracies: one number per method and swept noise."""
    intervals: bool = False
    """Means with their 95 % intervals instead of the two standard deviations."""
    plot: Path | None = None
    """File for a picture (PNG) of accuracy against strength, or against time where there are several times; with --area
    of the areas."""
    table: Path | None = None
    """File for the tables (Markdown)."""
    page: Path | None = None
    """File for a page (HTML) of everything: tables that sort, charts, commands; it needs no network."""

    def run(self) -> None:
        asked: dict[str, Any] = {"design": self.design, "baseline": self.baseline}
        if self.page is not None:
            from noiserobust.page import write_page

            say(f"page: {write_page(self.rows, self.page, where=self.where, **asked)}")
            if self.plot is None and self.table is None:
                return
        from noiserobust.cli.stored import Stored, stored_rows
        from noiserobust.evaluation import area

        rows = stored_rows([path for path in self.rows if self.page is None or not path.is_dir()], self.where)
        asked["intervals"] = self.intervals
        result = Stored(area(rows), metric="area", **asked) if self.area else Stored(rows, **asked)
        show(result.table, result.plot, self.table, self.plot)
