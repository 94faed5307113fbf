"""What a section of a page consists of: charts, a table that sorts, texts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from noiserobust.evaluation.statistics.components import Design
from noiserobust.report.table import at_time, variant
from noiserobust.storage.rows import completed


@dataclass(frozen=True)
class Asked:
    """How a person wants results summarised."""

    baseline: str | None = None
    """Method that every other one is compared with; None: plain, or the first."""
    confidence: float = 0.95
    design: Design = "nested"


@dataclass(frozen=True)
class Panel:
    """One chart: its title, its Vega-Lite specification, and whether it takes the page's width."""

    title: str
    spec: dict[str, Any]
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows of texts and numbers. ``form`` has a number's format by column, else four digits."""

    columns: list[str]
    rows: list[list[Any]]
    form: Mapping[str, str] = field(default_factory=dict)

    def cells(self) -> Iterator[list[tuple[Any, str]]]:
        """Every row as (what it is sorted by, what is shown)."""
        for row in self.rows:
            yield [(value, self._shown(value, name)) for value, name in zip(row, self.columns, strict=True)]

    def numeric(self) -> list[bool]:
        """Which columns are numbers."""
        return [
            bool(column) and all(isinstance(value, (int, float)) for value in column)
            for column in zip(*self.rows, strict=True)
        ]

    def _shown(self, value: Any, column: str) -> str:
        if not isinstance(value, float):
            return str(value)
        return "–" if math.isnan(value) else format(value, self.form.get(column, "#.4g"))


@dataclass(frozen=True)
class Section:
    """A part of the page. ``legend`` says whether its charts have a colour per method."""

    name: str
    title: str
    says: str
    panels: list[Panel] = field(default_factory=list)
    table: Table | None = None
    texts: list[tuple[str, str]] = field(default_factory=list)
    """Headed texts in a fixed width, such as commands."""


def condition(line: Mapping[Any, Any]) -> str:
    """The noise, its time and what is done around the chip, in words."""
    whole = completed(pd.DataFrame([dict(line)])).iloc[0].to_dict()
    t = float(whole.get("t", math.nan))
    return f"{line['noise']}{at_time(t)}{variant(whole)}"
