"""``noiserobust landscape``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from noiserobust.analog.weight_space import Over
from noiserobust.cli.inputs import NamedData
from noiserobust.evaluation import landscape
from noiserobust.evaluation.measure_minima import Part
from noiserobust.evaluation.settings import grouped


@dataclass(frozen=True)
class Landscape(NamedData):
    """The loss around checkpoints along filter-normalised random directions: rows, and a picture."""

    dimensions: Literal[1, 2] = 2
    """Lines or contours."""
    half_width: float = 1.0
    """How far to go to each side; 1 moves every filter by its own length."""
    points: int = 21
    """Points a side (odd)."""
    pairs: int = 1
    """Pairs of directions to average over."""
    over: Over = "all"
    """All filters, or those of analog weights."""
    part: Part = "test"
    """Images of the data: train or test."""
    seed: int = 0
    """Names the directions."""
    out: Path = Path("landscape.parquet")
    """File for the rows; what it already holds is not computed again, so a stopped command goes on."""
    plot: Path | None = None
    """Picture (PNG)."""

    def run(self) -> None:
        checkpoints = self.opened()
        splits = self.splits(checkpoints)
        result = landscape(
            checkpoints,
            splits,
            self.dimensions,
            half_width=self.half_width,
            points=self.points,
            pairs=self.pairs,
            over=self.over,
            seed=self.seed,
            part=self.part,
            out=self.out,
            progress=True,
            **grouped(self.options),
        )
        points = result.summary()
        for method, own in points.groupby("method", sort=False):
            middle = own[(own["x"] == 0) & (own["y"] == 0)]["mean"].iloc[0]
            print(f"{method}: loss {middle:.4g} in the middle, {own['mean'].max():.4g} at most")
        if self.plot is not None:
            from noiserobust.report.curves import landscape_figure
            from noiserobust.report.plots import save

            print(f"picture: {save(landscape_figure(points), self.plot)}")
        print(f"rows: {self.out}")
