"""``noiserobust yield``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from noiserobust.cli.present import stored_rows
from noiserobust.evaluation import yields
from noiserobust.evaluation.design.chip_yield import chips_needed
from noiserobust.storage.files import write_atomically


@dataclass(frozen=True)
class Yield:
    """What share of chips reaches an accuracy, and what accuracy a share of chips reaches, with exact bounds."""

    rows: tyro.conf.Positional[tuple[Path, ...]]
    """Parquet files of rows that evaluate wrote; a draw is a chip."""
    above: float | None = None
    """Accuracy (percent) that a chip must reach; a chip at exactly this value does."""
    share: float = 0.99
    """Share of chips that must reach the accuracy that is printed."""
    confidence: float = 0.95
    """Confidence of every bound, each alone."""
    percentiles: tuple[float, ...] = (1, 5, 50)
    """Percentiles to print, with their intervals."""
    pooled: bool = False
    """Chips of all trained networks of a method together, instead of a line per network."""
    where: str | None = None
    """Only rows of which this holds, such as "strength == 0.1" (columns: docs/evaluation.md)."""
    plot: Path | None = None
    """Picture of the share of chips that reach an accuracy (PNG)."""
    table: Path | None = None
    """The table as Markdown."""

    def run(self) -> None:
        rows = stored_rows(self.rows, self.where)
        result = yields(rows, self.above, self.share, pooled=self.pooled)
        options: dict[str, Any] = {"confidence": self.confidence, "percents": self.percentiles}
        print(result.table(**options) + "\n")
        needed = [chips_needed(self.share, self.confidence, failures) for failures in (0, 1, 2)]
        print(
            f"chips needed to say that {100 * self.share:g} % reach X with {100 * self.confidence:g} % confidence: "
            f"{needed[0]} if X is the worst of them, {needed[1]} for the second worst, {needed[2]} for the third"
        )
        if self.table is not None:
            text = result.table(markdown=True, **options) + "\n"
            print(f"table: {write_atomically(self.table, lambda file: file.write_text(text))}")
        if self.plot is not None:
            result.plot(self.plot, self.confidence)
            print(f"picture: {self.plot}")
