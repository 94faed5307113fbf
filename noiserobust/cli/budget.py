"""``noiserobust budget``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from noiserobust.cli.design import Design
from noiserobust.errors import UserError
from noiserobust.evaluation import Axis, budget
from noiserobust.noise import NoiseModel


@dataclass(frozen=True)
class Budget(Design):
    """How much noise a network may meet: the value of one number at which it loses the stated points, with its
    interval."""

    noise: tyro.conf.Suppress[tuple[NoiseModel, ...]] = ()
    vary: str | None = None
    """Noise with one free number, such as gaussian:{x} or gaussian:0.05,reference=tile,rows={x},columns={x}."""
    vary_time: str | None = None
    """Noise whose time since programming is the free number, such as pcm."""
    between: tuple[str, str] | None = None
    """Range of the number, such as 0 0.5; of times such as 1min 1y."""
    within: float = 1.0
    """Points of mean accuracy that may be lost against clean."""
    log: bool | None = None
    """Search in the logarithm (default: for times, and for wide ranges of whole numbers)."""
    points: int = 5
    """Values on the first grid, which shows whether the loss is monotone."""
    tolerance: float = 0.02
    """How finely the answer is searched, as a fraction of it (of the range, on a logarithmic axis)."""
    out: Path = Path("budget.parquet")
    """File for the rows; what it already holds is not computed again."""
    plot: Path | None = None
    """Picture of the points lost against the number (PNG)."""

    def run(self) -> None:
        vary = self.vary_time if self.vary is None else self.vary
        if vary is None or (self.vary is not None and self.vary_time is not None):
            raise UserError("expected either --vary with {x} in a noise, such as gaussian:{x}, or --vary-time with one")
        if self.between is None:
            raise UserError("expected --between LOW HIGH, the range to search, such as 0 0.5, or 1min 1y for times")
        time = self.vary_time is not None
        axis = Axis(time, self.log, self.points, self.tolerance, self.confidence)
        checkpoints, splits = self.opened()
        options = self.options(splits) | {"axis": axis}
        self.show(budget(checkpoints, splits, vary, self.between, self.within, self.draws, self.seed, **options))
