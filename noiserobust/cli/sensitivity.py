"""``noiserobust sensitivity``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from noiserobust.cli.design import Design
from noiserobust.evaluation import sensitivity


@dataclass(frozen=True)
class Sensitivity(Design):
    """Which layers noise hurts most: noise on one layer at a time and on all but one, as a ranked table with
    intervals."""

    groups: tuple[str, ...] = ()
    """Patterns, such as stages.0.*: all weights that one matches count as one layer."""
    rank: Literal["alone", "spared"] = "alone"
    """Rank by what a layer's noise costs alone, or by what is gained where it alone is digital."""
    out: Path = Path("sensitivity.parquet")
    """File for the rows; what it already holds is not computed again."""
    plot: Path | None = None
    """Picture of the ranked layers, with their shares of weights and multiply-accumulates (PNG)."""

    def run(self) -> None:
        noise = self.one("noise", self.noise)
        checkpoints, splits = self.opened()
        options = self.options(splits)
        result = sensitivity(checkpoints, splits, noise, self.draws, self.seed, groups=self.groups, **options)
        self.show(result, rank=self.rank)
