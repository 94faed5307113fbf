"""``noiserobust report``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from noiserobust.cli.flags import Command
from noiserobust.cli.options import answer
from noiserobust.cli.output import Part


@dataclass(frozen=True)
class Report(Command):
    """Tables and pictures from rows that evaluate wrote; several files are put together."""

    examples = (
        'noiserobust report rows.parquet --baseline "plain" --intervals',
        "noiserobust report rows.parquet runs --page report.html",
    )
    positional = ("rows",)

    rows: tuple[Path, ...] = ()
    """Files of rows (.parquet, .csv, .jsonl); with --page also runs' folders, or folders of runs."""
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
    """File for a picture (.png, .pdf, .svg) of accuracy against strength, or against time where there are several
    times; with --area of the areas."""
    table: Path | None = None
    """File for the tables (.md, .tex), or the summary (.csv)."""
    wide: Path | None = None
    """File for the rows with a column per metric (.parquet, .csv, .jsonl)."""
    page: Path | None = None
    """File for a page (HTML) of everything: tables that sort, charts, commands; it needs no network."""
    model: str | None = None
    """With --page: the network of runs whose network is your own code, as it was trained: package.module:function."""

    def run(self) -> Iterator[Part]:
        asked: dict[str, Any] = {"design": self.design, "baseline": self.baseline}
        if self.page is not None:
            from noiserobust.page import write_page

            page = write_page(self.rows, self.page, where=self.where, model=self.model, **asked)
            yield Part(notes=[f"page: {page}"], values={"files": {"page": page}})
            if (self.plot, self.table, self.wide) == (None, None, None):
                return
        from noiserobust.cli.stored import Stored, stored_rows
        from noiserobust.evaluation import area

        rows = stored_rows([path for path in self.rows if self.page is None or not path.is_dir()], self.where)
        asked["intervals"] = self.intervals
        result = Stored(area(rows), metric="area", **asked) if self.area else Stored(rows, **asked)
        shown = answer(result, self.table, self.plot, self.wide)
        lines = [line for table in result.differences() for line in table.to_dict("records")]
        yield Part(shown.text, shown.notes, {**shown.values, "differences": lines})
