"""``noiserobust train``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import tyro

from noiserobust.data import load
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.training import Run, TrainSettings, fit, torchrun


@dataclass(frozen=True)
class Train(TrainSettings):
    """Train one network per seed; an interrupted run goes on where it was, a finished one is not trained again."""

    seed: tyro.conf.Suppress[int] = 0
    seeds: tuple[int, ...] = (0,)
    """Training seeds: one trained copy (replicate) each."""
    out: Path = Path("runs")
    """Folder for the runs."""

    def run(self) -> None:
        names = [f.name for f in dataclasses.fields(TrainSettings)]
        settings = TrainSettings(**{name: getattr(self, name) for name in names})
        with torchrun(settings.device) as processes:
            splits = processes.in_turn(lambda: load(settings.data, settings.data_root, settings.image_size))
            for seed in self.seeds:
                of = dataclasses.replace(settings, seed=seed)
                run = fit(of, self.out, splits=splits, progress=True, processes=processes)
                if processes.writes:
                    self._tell(run)

    @staticmethod
    def _tell(run: Run) -> None:
        settings = run.settings
        kept = read_checkpoint(run.checkpoint).about["log"]
        watched = "test" if settings.select_on == "test" else "validation"
        scores = [f"{n.replace('_', ' ')} {kept[n]:.2f} %" for n in ("accuracy", "perturbed_accuracy") if n in kept]
        print(f"kept epoch {kept['epoch']} ({', '.join([watched, *scores]) if scores else 'the last'})")
        print(f"weights: {run.checkpoint}")
