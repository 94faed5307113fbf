"""``noiserobust corrupted``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from noiserobust.cli.inputs import Inputs
from noiserobust.errors import UserError
from noiserobust.evaluation import corrupted
from noiserobust.evaluation.settings import grouped
from noiserobust.noise import Gaussian, NoiseModel
from noiserobust.report import robustness_table


@dataclass(frozen=True)
class Corrupted(Inputs):
    """Accuracy on CIFAR-10-C or CIFAR-100-C: rows per corruption and severity, and their means."""

    folder: Path | None = None
    """Folder with <corruption>.npy (five severities one after the other) and labels.npy."""
    corruptions: tuple[str, ...] = ()
    """Corruptions, such as fog motion_blur (default: the usual fifteen)."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Severities, 1 to 5."""
    noise: tuple[NoiseModel, ...] = (Gaussian(0.0),)
    """Weight noise on top, such as gaussian:0.05."""
    draws: int = 1
    """Noise draws per checkpoint."""
    seed: int = 0
    """Names the draws."""
    out: Path = Path("corrupted.parquet")
    """File for the rows; what it already holds is not computed again."""
    plot: Path | None = None
    """Picture of accuracy against severity (PNG)."""

    def run(self) -> None:
        checkpoints = self.opened()
        if self.folder is None:
            raise UserError("expected --folder with CIFAR-10-C's or CIFAR-100-C's .npy files, got none")
        result = corrupted(
            checkpoints,
            self.folder,
            self.noise,
            self.draws,
            self.seed,
            corruptions=self.corruptions,
            severities=self.severities,
            out=self.out,
            progress=True,
            **grouped(self.options),
        )
        rows, summary = result.rows, result.summary()
        for severity, own in summary.groupby("severity"):
            print(f"severity {severity}, mean over {rows['corruption'].nunique()} corruptions")
            print(robustness_table(own) + "\n")
        if self.plot is not None:
            from noiserobust.report.curves import severity_figure
            from noiserobust.report.plots import save

            print(f"picture: {save(severity_figure(summary), self.plot)}")
        print(f"rows: {self.out}")
