"""Rows that ``noiserobust evaluate`` wrote, read again for ``report`` and ``yield``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from noiserobust.errors import UserError
from noiserobust.evaluation import Evaluation, paired, summarize
from noiserobust.evaluation.result import drawn
from noiserobust.evaluation.statistics.components import Design
from noiserobust.report import paired_table, robustness_table
from noiserobust.storage.stored import chosen, require_alike, stored, together

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def stored_rows(paths: Sequence[Path], where: str | None = None) -> pd.DataFrame:
    """The rows of several files, each once, of which the condition ``where`` holds."""
    rows = together([stored(path) for path in paths])
    if rows.empty:
        raise UserError(f"expected rows, got none in {', '.join(map(str, paths))}")
    return require_alike(chosen(rows, where))


@dataclass(frozen=True)
class Stored(Evaluation):
    """Rows that evaluate wrote, summarised as a person asks."""

    design: Design = "nested"
    baseline: str | None = None
    """Method that every other one is compared with."""
    intervals: bool = False
    """Whether the table has intervals instead of standard deviations."""
    metric: str | None = None
    """What is shown; None: what the rows' task is judged by."""

    def __post_init__(self) -> None:
        if self.to_precision and self.baseline is not None:
            raise UserError("expected rows of whole passes to compare with a baseline, got some to a precision")

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        if self.to_precision:
            return super().summary(confidence)
        return summarize(self.rows, confidence, design=self.design)

    def table(self, markdown: bool = False, confidence: float = 0.95) -> str:
        """The summary, then every other method's difference from the baseline."""
        if self.to_precision:
            return super().table(markdown, confidence)
        paired_tables = map(paired_table, self.differences(confidence))
        tables = [robustness_table(self.summary(confidence), self.metric, markdown=markdown, intervals=self.intervals)]
        tables += [f"```\n{text}\n```" if markdown else text for text in paired_tables]
        tables += filter(None, [self.nan_answers])
        return "\n\n".join(tables)

    def differences(self, confidence: float = 0.95) -> list[pd.DataFrame]:
        """Every other method's difference from the baseline, where there is one."""
        return [
            paired(self.rows, method, self.baseline, confidence, self.metric, self.design)
            for method in self.rows["method"].unique()
            if self.baseline not in (None, method)
        ]

    def plot(self, path: str | Path | None = None, confidence: float = 0.95) -> Figure:
        if self.metric != "area":
            return super().plot(path, confidence)
        from noiserobust.report.area_plot import area_figure

        return drawn(area_figure(self.summary(confidence)), path)
