"""How long a training will take, from a few of its steps."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from itertools import count

import torch

from noiserobust.data import Splits
from noiserobust.rng import Stream, seeded
from noiserobust.tasks.scoring import score
from noiserobust.training.ddp import Processes
from noiserobust.training.identity import ADDED
from noiserobust.training.runs import run_of
from noiserobust.training.schedules import Progress
from noiserobust.training.settings import TAUGHT, TrainSettings
from noiserobust.training.trainer import Trainer

ENOUGH, MOST = 1.0, 10
"""Seconds of steps that are timed, and how many steps at most."""


def expected_seconds(settings: TrainSettings, splits: Splits) -> float:
    """About how long a run of ``settings`` takes here, from its start: timed steps of its own rule in the middle of the
    run, and passes over a batch of what is watched after every epoch. Nothing is written.

    A teacher that is trained first takes its own training, and a third of it again for its answers.
    """
    if (teacher := settings.teacher_run) is not None:
        alone = replace(settings, **{name: ADDED[name] for name in TAUGHT})
        return expected_seconds(teacher, splits) * 4 / 3 + expected_seconds(alone, splits)
    splits = settings.normalized(splits)
    with tempfile.TemporaryDirectory() as nowhere:
        trainer = Trainer(run_of(settings, nowhere, splits), splits, Processes())
    engine, epochs = trainer.engine, settings.epochs
    settings.method.prepare(engine)
    trainer.model.train()
    taken: list[float] = []
    with seeded(Stream(settings.seed, "estimate"), engine.device):
        for number, batch in zip(count(trainer.steps // 2), trainer.batches.epoch(0, 0, 1), strict=False):
            parts = batch.split(settings.micro_batches) if settings.micro_batches > 1 else batch
            started = time.perf_counter()
            settings.method.step(engine, parts, Progress(number, trainer.steps, epochs // 2, epochs, settings.seed))
            if engine.device.type == "cuda":
                torch.cuda.synchronize(engine.device)
            taken.append(time.perf_counter() - started)
            if len(taken) > MOST or sum(taken[1:]) > ENOUGH:
                break
        steady = taken[1:] or taken  # the first one warms up
        watch = 0.0
        if trainer.watched:
            started = time.perf_counter()
            with engine.periphery.evaluated(Stream(settings.seed, "select", 0)):
                score(trainer.model, trainer.watched[:1], settings.precision, trainer.task)
            watch = (time.perf_counter() - started) * len(trainer.watched) * (1 + settings.select_draws)
    return trainer.steps * sum(steady) / len(steady) + epochs * watch
