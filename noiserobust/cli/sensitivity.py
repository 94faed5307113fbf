"""``noiserobust sensitivity``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from noiserobust.cli.options import OnChips
from noiserobust.cli.output import Part


@dataclass(frozen=True)
class Sensitivity(OnChips):
    """Which layers noise hurts most: noise on one layer at a time and on all but one, as a ranked table with
    intervals."""

    study = "sensitivity"
    examples = (
        "noiserobust sensitivity runs --noise gaussian:0.1 --draws 20",
        "noiserobust sensitivity runs --noise pcm --times 1d --plot layers.png",
    )

    hidden = ("calibration",)

    noise: str = "gaussian:0.05"
    """Weight noise, such as gaussian:0.05 (sigma)."""
    groups: tuple[str, ...] = ()
    """Patterns, such as stages.0.*: all weights that one matches count as one layer."""
    rank: Literal["alone", "spared"] = "alone"
    """Rank by what a layer's noise costs alone, or by what is gained where it alone is digital."""
    confidence: float = 0.95
    """Confidence of the intervals."""

    def run(self) -> Iterator[Part]:
        from noiserobust.evaluation import sensitivity

        result = sensitivity(noise=self.noise, groups=self.groups, **self.options())
        yield self.show(result, confidence=self.confidence, rank=self.rank)
