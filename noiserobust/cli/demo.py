"""``noiserobust demo``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noiserobust.cli.flags import Command
from noiserobust.cli.output import Part
from noiserobust.errors import UserError

METHODS = (("plain", None), ("plain", 1.25), ("sam:0.5", None), ("rwp:gaussian(0.3)", 1.25))
SIGMAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7)


@dataclass(frozen=True)
class Demo(Command):
    """The main job on scikit-learn's digits, in one to three minutes: train four ways, evaluate under Gaussian weight
    noise until every network has failed, print the table and by how much RWP leads, draw the picture."""

    examples = ("noiserobust demo", "noiserobust demo --seeds 0 --epochs 10 --out runs/short")

    seeds: tuple[int, ...] = (0, 1, 2)
    """Trained copies of each network."""
    epochs: int = 30
    """Passes over the training data."""
    draws: int = 10
    """Noise draws per copy and sigma."""
    out: Path = Path("runs/demo")
    """Folder for runs, rows and the picture."""

    def run(self) -> Iterator[Part]:
        if not self.seeds:
            raise UserError("expected at least one seed, got none; --seeds 0 1 2 trains three copies")
        from noiserobust.data import load
        from noiserobust.evaluation import evaluate
        from noiserobust.noise import Gaussian
        from noiserobust.report import paired_table, robustness_table
        from noiserobust.report.plots import strength_figure
        from noiserobust.report.style import save
        from noiserobust.training import Method, TrainSettings, fit

        started, splits, noises = time.perf_counter(), load("digits"), [Gaussian(sigma) for sigma in SIGMAS]
        shared = {"epochs": self.epochs, "batch_size": 64, "select_noise": Gaussian(0.2)}
        kinds = [
            TrainSettings(method=Method.parse(method), weight_clip=clip, seed=seed, **shared)  # type: ignore[arg-type]
            for method, clip in METHODS
            for seed in self.seeds
        ]
        progress, rows = not self.quiet, self.out / "rows.parquet"
        runs = [fit(kind, self.out, splits=splits, progress=progress) for kind in kinds]
        models = [run.checkpoint for run in runs]
        result = evaluate(models, splits.test, noises, self.draws, out=rows, progress=progress)
        summary = result.summary()
        plain, clipped, _, rwp = dict.fromkeys(run.settings.label for run in runs)
        differences = [paired_table(result.paired(rwp, baseline)) for baseline in (plain, clipped)]
        title = f"Digits under weight noise, {len(self.seeds)} networks x {self.draws} draws"
        picture = save(strength_figure(summary, title), self.out / "demo.png")
        notes = [
            f"coverage: {next(iter(result.coverage.values())).summary}",
            f"picture: {picture}",
            f"rows: {rows}; trained networks: {self.out}",
            f"took {time.perf_counter() - started:.0f} s",
        ]
        values = {"summary": summary, "rows": rows, "files": {"picture": picture}}
        yield Part("\n\n".join([robustness_table(summary), *differences]), notes, values)
