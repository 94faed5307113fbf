"""What every question answers with: tidy rows, their summary, a table, a picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Result(ABC):
    """Base of all answers. ``rows`` are tidy: one per model, condition, draw and metric."""

    rows: pd.DataFrame

    @abstractmethod
    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """The rows aggregated: means, uncertainties, intervals."""

    @abstractmethod
    def table(self, markdown: bool = False) -> str:
        """The summary as text, for a terminal or as Markdown."""

    @abstractmethod
    def plot(self, path: str | Path | None = None) -> Figure:
        """The summary as a picture, written to ``path`` (a PNG) where one is given."""

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return str(self.summary().to_html(index=False, float_format="{:.4g}".format))


def drawn(figure: Figure, path: str | Path | None) -> Figure:
    """``figure``, written to ``path`` where one is given."""
    from noiserobust.report.plots import save

    if path is not None:
        save(figure, path)
    return figure
