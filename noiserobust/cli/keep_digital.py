"""``noiserobust keep-digital``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from noiserobust.cli.design import Design
from noiserobust.evaluation import Search, Stop, keep_digital


@dataclass(frozen=True)
class KeepDigital(Design):
    """Which layers to keep digital: chosen one after the other on draws of their own, verified together on fresh
    ones."""

    within: float | None = None
    """Stop when the search is this many points below clean."""
    max_share: float | None = None
    """Keep at most this percentage of all multiply-accumulates digital."""
    max_layers: int | None = None
    """Keep at most this many layers digital."""
    per_mac: bool = False
    """Choose by gain per multiply-accumulate."""
    candidates: int | None = None
    """After the first step try only the layers of the largest gains, this many (default: all)."""
    search_draws: int | None = None
    """Draws of the search (default: as many as --draws)."""
    search_images: int | None = None
    """Test images of the search, stratified by class (default: all)."""
    groups: tuple[str, ...] = ()
    """Patterns, such as stages.0.*: all weights that one matches count as one layer."""
    out: Path = Path("keep-digital.parquet")
    """File for the rows; what it already holds is not computed again."""
    plot: Path | None = None
    """Picture of accuracy against the share of multiply-accumulates kept digital (PNG)."""

    def run(self) -> None:
        noise = self.one("noise", self.noise)
        stop = Stop(self.within, self.max_share, self.max_layers)
        search = Search(self.search_draws, self.search_images, self.candidates, self.per_mac)
        checkpoints, splits = self.opened()
        options = self.options(splits) | {"stop": stop, "search": search, "groups": self.groups}
        self.show(keep_digital(checkpoints, splits, noise, self.draws, self.seed, **options))
