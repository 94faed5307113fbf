"""The cost of a training step: counted in passes, or timed on this machine beside a plain step."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from noiserobust.data import Batch, training_batches
from noiserobust.models import ModelSpec
from noiserobust.papers.grid.pieces import Measuring
from noiserobust.rng import Stream, seeded
from noiserobust.storage.provenance import provenance
from noiserobust.sweep.pieces import data_of
from noiserobust.training import Engine, Progress, TrainSettings
from noiserobust.training.engine import Output
from noiserobust.training.micro_batches import AnyBatch
from noiserobust.training.optimizers import build_optimizer
from noiserobust.training.rules.base import Method, Plain


@dataclass(frozen=True)
class StepTime(Measuring):
    """Seconds per training step of the run's method and of plain training, in turn, on the first batch of its data: the
    medians, their ratio ``value``, and the quartiles ``low`` and ``high`` of its own times over the other median.

    At least ``steps`` of each; of steps of milliseconds, which anything else on the machine can double, as many as take
    ``patience`` seconds together. Needs no finished run. Steps are taken where the method does all that it will do (SAF
    and MESA past their start).
    """

    steps: int = 7
    patience: ClassVar[float] = 1.0
    halves: bool = False
    """Time the noisy one of the method's two halves instead, the longer: with one processor for each, a step."""
    semantics: ClassVar[int] = 4
    of_weights: ClassVar[bool] = False

    @property
    def about(self) -> str:
        s = self.trained.settings
        size = f"{s.batch_size}" if s.micro_batches == 1 else f"{s.batch_size} in {s.micro_batches} parts"
        return f"{s.method} {s.model} {s.data if '/' not in s.data else 'folder'} {size} {s.precision} {s.device}"

    @property
    def what(self) -> str:
        return f"seconds per step{', noisy half' if self.halves else ''}, {self.steps} pairs"

    def measure(self) -> pd.DataFrame:
        settings = self.trained.settings
        length = steps_of(settings, len(data_of(settings).train))
        rule = NoisyHalf(settings.method) if self.halves else settings.method
        steps = {"rule": _stepper(settings, rule), "plain": _stepper(settings, Plain())}
        for step in steps.values():
            for _ in range(4):
                step(self.place(0, length))
        taken: dict[str, dict[Taken, list[float]]] = {"rule": {}, "plain": {}}
        begun = time.perf_counter()
        for at in itertools.count():
            if at >= self.steps and time.perf_counter() - begun > self.patience:
                break
            for name, step in steps.items():
                _wait(settings.device)
                started = time.perf_counter()
                passes = step(self.place(at, length))
                _wait(settings.device)
                taken[name].setdefault(passes, []).append(time.perf_counter() - started)
        seconds, plain = _typical(taken["rule"]), _typical(taken["plain"])
        low, high = (_typical(taken["rule"], share) / plain for share in (0.25, 0.75))
        line = {"seconds": seconds, "plain_seconds": plain, "value": seconds / plain, "low": low, "high": high}
        return pd.DataFrame([line | {"batch_size": settings.batch_size, "run_steps": length} | provenance()])

    def place(self, at: int, length: int) -> Progress:
        """Where step ``at`` stands in training: late, and in an epoch of its own, so that rules which remember single
        samples have seen them."""
        late = 10 * self.trained.settings.epochs + 10
        at %= late
        return Progress(at + late, 2 * late, at + late, 2 * late)


@dataclass(frozen=True)
class NoisyHalf(Method):
    """What the noisy ranks of a parallel mixed RWP do in a step, apart from waiting for the others."""

    of: Method

    def whole_step(self, engine: Engine, batch: AnyBatch, progress: Progress) -> Output:
        with engine.perturbed(self.of.perturbation(progress), "filters", progress.step):
            out = engine.gradient(batch, norm_stats=False)
        engine.commit()
        return out


@dataclass(frozen=True)
class MixedStepTime(StepTime):
    """For rules whose steps differ in cost, as a coin or every k-th step does: steps that lie evenly over the run, each
    as the run itself takes it. Each kind of step, by the passes it takes, counts with its share of them."""

    steps: int = 60
    patience: ClassVar[float] = 0.0

    @property
    def about(self) -> str:
        return f"{super().about} {self.trained.settings.epochs} epochs"

    def place(self, at: int, length: int) -> Progress:
        epochs, step = self.trained.settings.epochs, at * length // self.steps
        return Progress(step, length, step * epochs // length, epochs)


Taken = tuple[int, int]
"""Forward and backward passes of a step."""


def _typical(seconds: Mapping[Taken, list[float]], share: float = 0.5) -> float:
    """Mean seconds per step, every kind of step standing for its median (or another quantile): what else ran meanwhile
    leaves no trace."""
    count = sum(map(len, seconds.values()))
    return sum(len(times) * float(np.quantile(times, share)) for times in seconds.values()) / count


def steps_of(settings: TrainSettings, images: int) -> int:
    """Training steps of a whole run on so many training images, of which a part may be held out."""
    held_out = 0.0 if settings.select_on == "test" else settings.validation
    return settings.epochs * math.ceil((images - round(held_out * images)) / settings.batch_size)


def _stepper(settings: TrainSettings, method: Method) -> Callable[[Progress], Taken]:
    """A function that takes a training step with ``method`` at a place and tells how many passes it took."""
    data = data_of(settings).train
    batches = training_batches(
        data,
        settings.batch_size,
        device=torch.device(settings.device),
        stream=Stream(0, "steps"),
        crop=0,
        flip=False,
        cutout=0,
        channels_last=settings.channels_last,
    )
    whole: Batch = next(iter(batches.epoch(0)))
    first = whole.split(settings.micro_batches) if settings.micro_batches > 1 else whole
    engine = engine_of(settings, data.channels, len(data), len(data.classes), settings.device)
    method.prepare(engine)

    def step(place: Progress) -> Taken:
        before = dict(engine.passes)
        method.step(engine, first, place)
        return (engine.passes["forward"] - before["forward"], engine.passes["backward"] - before["backward"])

    return step


def engine_of(settings: TrainSettings, channels: int, samples: int, classes: int, device: str) -> Engine:
    """An engine with an untrained network as ``settings`` say, for so many samples."""
    with seeded(Stream(0, "init")):
        model = settings.model.without_weights().build(channels, classes).to(device)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Engine(
        model,
        build_optimizer(settings.optimizer, model.parameters(), settings.lr, settings.weight_decay),
        nn.CrossEntropyLoss(reduction="none", label_smoothing=settings.label_smoothing),
        precision=settings.precision,
        samples=samples,
        classes=classes,
    )


@cache
def seconds_per_image(spec: ModelSpec, channels: int, size: int, classes: int, precision: str, device: str) -> float:
    """Seconds of a plain forward and backward pass per image, measured on a few images: what estimates start from."""
    images = 8 if size > 64 else 32
    with seeded(Stream(0, "estimate"), device):
        network = spec.without_weights().build(channels, classes).to(device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.rand(images, channels, size, size, device=device).to(memory_format=torch.channels_last)
    y = torch.zeros(images, dtype=torch.long, device=device)
    engine = Engine(network, torch.optim.SGD(network.parameters(), lr=0.0), precision=precision)  # type: ignore[arg-type]
    taken = []
    for _ in range(3):
        _wait(device)
        started = time.perf_counter()
        engine.gradient(Batch(x, y))
        engine.take()
        _wait(device)
        taken.append(time.perf_counter() - started)
        if sum(taken) > 2:  # large enough to have no start-up to speak of
            break
    return min(taken) / images


def _wait(device: str) -> None:
    """Until a GPU has done what it was told: it computes while the host goes on."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
