"""What every function of this package returns: tidy rows, their summary, a table, a picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from noiserobust.storage.stored import wide as wide
from noiserobust.tasks.counts import NAN_ANSWERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from noiserobust.analog.coverage import Coverage


TEN = ("method", "noise", "strength", "t", "metric", "mean", "noise_std", "weight_std", "low", "high")
"""Columns of a summary that a notebook shows."""


@dataclass(frozen=True)
class Result(ABC):
    """Base of all results. ``rows`` are tidy: one per model, condition, draw and metric.

    A table or picture is of the summary with the same ``confidence``; some take further options by name.
    """

    rows: pd.DataFrame
    coverage: dict[str, Coverage] = field(default_factory=dict, kw_only=True)
    """Per model: which of its weights were analog."""

    @property
    def inputs(self) -> dict[str, str]:
        """Per model: what it saw of x, its pixels or features, such as ``(x - .305) / .376``."""
        if not {"model", "inputs"} <= set(self.rows):
            return {}
        known = self.rows[["model", "inputs"]].dropna().drop_duplicates("model", keep="last")
        return dict(zip(known["model"], known["inputs"], strict=True))

    @property
    def nan_answers(self) -> str:
        """How many answers were no finite numbers, in one line; "" where there were none."""
        return nan_answers(self.rows)

    def wide(self) -> pd.DataFrame:
        """The rows with a column per metric: one line per model, condition and draw
        (:func:`~noiserobust.evaluation.wide`)."""
        return wide(self.rows)

    @abstractmethod
    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """The rows aggregated: means, uncertainties, intervals."""

    @abstractmethod
    def table(self, markdown: bool = False, confidence: float = 0.95) -> str:
        """The summary as text, for a terminal or as Markdown."""

    @abstractmethod
    def plot(self, path: str | Path | None = None, confidence: float = 0.95) -> Figure:
        """The summary as a picture, which notebooks show; written to ``path`` (.png, .pdf, .svg) where one is given."""

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        summary = self.summary()
        if set(TEN) <= set(summary):  # the rest is in summary()
            summary = summary[[*TEN]].dropna(axis="columns", how="all")
        return str(summary.to_html(index=False, float_format="{:.4g}".format))


def nan_answers(rows: pd.DataFrame) -> str:
    """How many of the answers that ``rows`` count were no finite numbers, in one line; "" where there were none."""
    rows = rows[rows["metric"] == NAN_ANSWERS] if {"metric", "value", "method"} <= set(rows) else rows.iloc[:0]
    if rows.empty:
        return ""
    whose = ", ".join(map(str, rows["method"].unique()))
    return f"{rows['value'].sum():,.0f} answers in {len(rows)} passes are NaN or infinite and count as wrong: {whose}"


def not_finite(rows: pd.DataFrame) -> str:
    """How many of the measured values in ``rows`` are no finite numbers, in one line; "" where all are."""
    bad = rows[~np.isfinite(rows["value"].astype(float))]
    if bad.empty:
        return ""
    whose = ", ".join(map(str, bad["method"].unique()))
    return f"{len(bad)} of {len(rows)} values are NaN or infinite, and no mean or largest value counts them: {whose}"


def drawn(figure: Figure, path: str | Path | None) -> Figure:
    """``figure``, written to ``path`` where one is given."""
    from noiserobust.report.plots import save

    if path is not None:
        save(figure, path)
    return figure
