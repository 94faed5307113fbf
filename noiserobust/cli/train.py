"""``noiserobust train``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noiserobust.cli.flags import Command
from noiserobust.cli.options import live_page
from noiserobust.cli.output import Part
from noiserobust.errors import UserError
from noiserobust.training.settings import TAUGHT, TrainSettings

if TYPE_CHECKING:
    from noiserobust.data import Splits
    from noiserobust.training import Run

SETTINGS = {
    "network and data": (
        "task",
        "loss",
        "initial",
        "lora",
        "data_root",
        "image_size",
        "mean",
        "std",
        "crop",
        "flip",
        "cutout",
    ),
    "distillation": TAUGHT,
    "which weights are analog": ("include", "exclude", "layers"),
    "converters": ("converters", "input_ranges"),
    "optimizer": (
        *(
            "optimizer",
            "lr_schedule",
            "lr_warmup",
            "weight_decay",
            "label_smoothing",
            "clip_norm",
            "drop_last",
            "micro_batches",
        ),
        *("precision", "channels_last", "checkpointing", "compile"),
    ),
    "epoch that is kept": ("average", "select_on", "select_noise", "select_draws", "validation"),
    "measures in the log": ("log", "log_every", "log_on", "log_images", "logger"),
}
"""Rare settings of a run, by group."""


@dataclass(frozen=True)
class Train(Command):
    """Train one network per seed; an interrupted run goes on where it was, a finished one is not trained again."""

    examples = (
        'noiserobust train --method "rwp:gaussian(0.1)" --seeds 0 1 2',
        "noiserobust train --data cifar10 --model resnet18:16 --method sam:0.2",
    )
    rare = SETTINGS
    hidden = ("seed",)

    settings: TrainSettings = field(default_factory=TrainSettings)
    seeds: tuple[int, ...] = (0,)
    """Training seeds: one trained copy (replicate) each."""
    out: Path = Path("runs")
    """Folder for the runs."""
    logger: tuple[str, ...] = ()
    """Who follows the epochs, too: tensorboard, wandb:project, csv:FILE, or package.module:Name; each run's folder has
    its log.csv anyway."""
    dry_run: bool = False
    """Only say which runs are missing, and about how long they take."""
    page: Path | None = None
    """File for a page (.html) of curves, coverage and commands, written anew as training goes on."""

    def run(self) -> Iterator[Part]:
        from noiserobust.data import load
        from noiserobust.training import fit, torchrun
        from noiserobust.training.runs import run_of

        settings = self.settings
        if not self.seeds:
            raise UserError("expected at least one seed, got none; --seeds 0 1 2 trains three copies")
        finished: list[Run] = []
        page = None if self.page is None else live_page(self.page)
        with torchrun(settings.device) as processes:
            splits = processes.in_turn(lambda: load(settings.data, settings.data_root, settings.image_size))
            if self.dry_run:
                if processes.writes:
                    yield self._planned(splits)
                return
            for seed in self.seeds:
                one, progress = replace(settings, seed=seed), not self.quiet
                watched = None
                if page and processes.writes:
                    watched = page.watcher(finished, run_of(one, self.out, one.normalized(splits)))
                told: dict[str, Any] = {"on_epoch": watched, "loggers": self.logger, "progress": progress}
                run = fit(one, self.out, splits=splits, processes=processes, **told)
                if processes.writes:
                    finished.append(run)
                    yield self._told(run)
        if page and finished:
            yield Part(notes=[f"page: {page.finish(finished)}"], values={"files": {"page": self.page}})

    def _planned(self, splits: Splits) -> Part:
        """Which runs there are to train, and about how long they take: a few steps of one are timed."""
        from noiserobust.report.durations import spoken
        from noiserobust.training.estimates import expected_seconds
        from noiserobust.training.runs import run_of

        seen = self.settings.normalized(splits)
        runs = [run_of(replace(self.settings, seed=seed), self.out, seen) for seed in self.seeds]
        missing = [run for run in runs if not run.checkpoint.is_file()]
        each = expected_seconds(self.settings, splits) if missing else 0.0
        folders, teachers, seconds = [str(run.folder) for run in missing], list[str](), each * len(missing)
        if (teacher := self.settings.teacher_run) is not None and missing:
            theirs = [run_of(replace(teacher, seed=run.settings.seed), self.out, seen) for run in missing]
            teachers = [str(run.folder) for run in theirs if not run.checkpoint.is_file()]
            there = len(theirs) - len(teachers)
            seconds = max(0.0, seconds - expected_seconds(teacher, splits) * there) if there else seconds
        lines = [f"{len(missing)} of {len(runs)} missing", *(f"  {folder}" for folder in folders)]
        lines += ["and the plain networks that teach them", *(f"  {folder}" for folder in teachers)] if teachers else []
        lines += [f"about {spoken(each)} each, {spoken(seconds)} in all"] if missing else []
        return Part("\n".join(lines), values={"missing": folders, "teachers": teachers, "seconds": seconds})

    @staticmethod
    def _told(run: Run) -> Part:
        from noiserobust.storage.checkpoints import read_checkpoint

        settings = run.settings
        kept = read_checkpoint(run.checkpoint).about["log"]
        watched = "test" if settings.select_on == "test" else "validation"
        metric, (unit, form, _) = settings.task.metric, settings.task.quantity
        names = [name for name in (metric, f"perturbed_{metric}") if name in kept]
        scores = [f"{name.replace('_', ' ')} {kept[name]:{form}} {unit}".rstrip() for name in names]
        notes = [f"kept epoch {kept['epoch']} ({', '.join([watched, *scores]) if scores else 'the last'})"]
        about = {"label": run.label, "seed": settings.seed, "weights": run.checkpoint, "kept": kept}
        return Part(notes=[*notes, f"weights: {run.checkpoint}"], values={"runs": [about]})
