"""``noiserobust yield``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noiserobust.cli.flags import Command
from noiserobust.cli.options import answer
from noiserobust.cli.output import Part


@dataclass(frozen=True)
class Yield(Command):
    """What share of chips reaches an accuracy, and what accuracy a share of chips reaches, with exact bounds."""

    examples = (
        "noiserobust yield rows.parquet --above 70 --share 0.99 --pooled",
        'noiserobust yield rows.parquet --where "strength == 0.1" --plot yield.png',
    )
    positional = ("rows",)

    rows: tuple[Path, ...] = ()
    """Files of rows (.parquet, .csv, .jsonl) that evaluate wrote; a draw is a chip."""
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
    """File for a picture of the share of chips that reach an accuracy (.png, .pdf, .svg)."""
    table: Path | None = None
    """File for the table (.md, .csv, .tex)."""

    def run(self) -> Iterator[Part]:
        from noiserobust.cli.stored import stored_rows
        from noiserobust.evaluation.design.chip_yield import chips_needed, yields

        result = yields(stored_rows(self.rows, self.where), self.above, self.share, pooled=self.pooled)
        asked = {"confidence": self.confidence}
        shown = answer(result, self.table, self.plot, table={**asked, "percents": self.percentiles}, plot=asked)
        needed = [chips_needed(self.share, self.confidence, failures) for failures in (0, 1, 2)]
        says = (
            f"chips needed to say that {100 * self.share:g} % reach X with {100 * self.confidence:g} % confidence: "
            f"{needed[0]} if X is the worst of them, {needed[1]} for the second worst, {needed[2]} for the third"
        )
        points: Any = result.percentiles(self.percentiles, self.confidence) if self.percentiles else []
        yield Part(shown.text, shown.notes, {**shown.values, "percentiles": points, "needed": needed})
        yield Part(says)
