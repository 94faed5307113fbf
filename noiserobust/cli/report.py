"""``noiserobust report``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from noiserobust.cli.flags import Command
from noiserobust.cli.options import show
from noiserobust.errors import UserError

if TYPE_CHECKING:
    from noiserobust.evaluation import Evaluation


@dataclass(frozen=True)
class Report(Command):
    """Tables and pictures from rows that evaluate wrote; several files are put together."""

    examples = (
        'noiserobust report rows.parquet --baseline "plain" --intervals',
        'noiserobust report a.parquet b.parquet --where "strength <= 0.1" --plot a.png',
    )
    positional = ("rows",)

    rows: tuple[Path, ...] = ()
    """Parquet files of rows."""
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
    """Picture of accuracy against strength, or against time where there are several times; with --area of the areas
    (PNG)."""
    table: Path | None = None
    """The tables as Markdown."""

    def run(self) -> None:
        from noiserobust.cli.stored import stored_rows
        from noiserobust.evaluation import Evaluation, area
        from noiserobust.report.area_plot import area_by_method

        rows = stored_rows(self.rows, self.where)
        result = Evaluation(area(rows) if self.area else rows)
        if result.to_precision:
            if self.baseline is not None:
                raise UserError("expected rows of whole passes to compare with a baseline, got some to a precision")
            table: Callable[..., str] = result.table
        else:
            table = partial(self._table, result)
        plot = partial(area_by_method, result.summary()) if self.area else result.plot
        show(table, plot, self.table, self.plot)

    def _table(self, result: Evaluation, markdown: bool = False) -> str:
        """The summary, and every other method's difference from the baseline."""
        from noiserobust.evaluation import paired, summarize
        from noiserobust.report import paired_table, robustness_table

        metric, rows = "area" if self.area else "accuracy", result.rows
        summary = summarize(rows, design=self.design)
        text = robustness_table(summary, metric, markdown=markdown, intervals=self.intervals)
        others = [method for method in rows["method"].unique() if self.baseline not in (None, method)]
        for other in others:
            differences = paired_table(paired(rows, other, self.baseline, metric=metric, design=self.design))
            text += f"\n\n```\n{differences}\n```" if markdown else f"\n\n{differences}"
        return text
