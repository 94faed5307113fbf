"""What is measured of finished runs: pieces beside those of :mod:`noiserobust.sweep`, each leaving one file of rows."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from torch import nn

from noiserobust.data import Batch, training_batches
from noiserobust.evaluation import landscape, sharpness
from noiserobust.evaluation.landscape import SEMANTICS as LANDSCAPE
from noiserobust.evaluation.sharpness import SEMANTICS as SHARPNESS
from noiserobust.evaluation.sharpness import Part
from noiserobust.models import ModelSpec
from noiserobust.results import provenance, write_rows
from noiserobust.rng import Stream, seeded
from noiserobust.sweep import Training
from noiserobust.sweep.pieces import data_of
from noiserobust.training import Engine, Progress, TrainSettings
from noiserobust.training.method import Method, Plain
from noiserobust.training.optimizers import build_optimizer


@dataclass(frozen=True)
class Measuring:
    """Rows about one finished run, in a file of ``out`` that everything which determines them names."""

    trained: Training
    out: Path
    semantics: ClassVar[int] = 1

    @property
    @abstractmethod
    def what(self) -> str:
        """What is measured, in words that tell it from everything else that is."""

    @abstractmethod
    def measure(self) -> pd.DataFrame:
        """The rows; at least a column ``value``."""

    @property
    def about(self) -> str:
        """What it is measured of: the run's own name says everything about its weights."""
        return self.trained.result.parent.name

    @property
    def name(self) -> str:
        return f"{self.what} of {self.trained.settings.label} seed {self.trained.settings.seed}"

    @property
    def result(self) -> Path:
        about = [type(self).__name__, self.semantics, self.about, self.what]
        return self.out / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}.parquet"

    def run(self) -> None:
        if not self.result.is_file():
            write_rows(self.measure(), self.result)


@dataclass(frozen=True)
class Sharpness(Measuring):
    """A measure of :mod:`noiserobust.measures` on a sample of the data."""

    measure_text: str = "loss"
    part: Part = "test"
    images: int | None = None
    semantics: ClassVar[int] = SHARPNESS

    @property
    def what(self) -> str:
        return f"{self.measure_text} on {self.images or 'all'} {self.part} images"

    def measure(self) -> pd.DataFrame:
        settings = self.trained.settings
        data = data_of(settings)
        seen = data.train if self.part == "train" else data.test
        images = None if self.images is None else min(self.images, len(seen))
        found = sharpness(
            self.trained.result, seen, self.measure_text, part=self.part, images=images, device=settings.device
        )
        return found.rows


@dataclass(frozen=True)
class Heights(Measuring):
    """The loss along filter-normalised directions."""

    dimensions: int = 2
    points: int = 21
    pairs: int = 1
    half_width: float = 1.0
    part: Part = "test"
    images: int | None = None
    semantics: ClassVar[int] = LANDSCAPE

    @property
    def what(self) -> str:
        grid = f"{self.points}^{self.dimensions} points to {self.half_width:g}, {self.pairs} pairs"
        return f"landscape ({grid}) on {self.images or 'all'} {self.part} images"

    def measure(self) -> pd.DataFrame:
        settings = self.trained.settings
        data = data_of(settings)
        seen = data.train if self.part == "train" else data.test
        return landscape(
            self.trained.result,
            seen,
            self.dimensions,
            half_width=self.half_width,
            points=self.points,
            pairs=self.pairs,
            part=self.part,
            images=None if self.images is None else min(self.images, len(seen)),
            device=settings.device,
        )


@dataclass(frozen=True)
class StepTime(Measuring):
    """Seconds per training step of the run's method and of plain training, in turn, on the first batch of its data: the
    medians, their ratio ``value``, and the quartiles ``low`` and ``high`` of the ratios of neighbours.

    Needs no finished run. Steps are taken where the method does all that it will do (SAF and MESA past their start).
    """

    steps: int = 7

    @property
    def about(self) -> str:
        s = self.trained.settings
        return (
            f"{s.method} {s.model} {s.data if '/' not in s.data else 'folder'} {s.batch_size} {s.precision} {s.device}"
        )

    @property
    def what(self) -> str:
        return f"seconds per step, {self.steps} pairs"

    def measure(self) -> pd.DataFrame:
        settings = self.trained.settings
        steps = {name: _stepper(settings, method) for name, method in (("own", settings.method), ("plain", Plain()))}
        for step in steps.values():
            step(), step()
        taken: dict[str, list[float]] = {"own": [], "plain": []}
        for _ in range(self.steps):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                if settings.device.startswith("cuda"):
                    torch.cuda.synchronize()
                taken[name].append(time.perf_counter() - started)
        own, plain = (statistics.median(taken[name]) for name in ("own", "plain"))
        low, _, high = statistics.quantiles([a / b for a, b in zip(taken["own"], taken["plain"], strict=True)], n=4)
        return pd.DataFrame(
            [
                {
                    "seconds": own,
                    "plain_seconds": plain,
                    "value": own / plain,
                    "low": low,
                    "high": high,
                    "batch_size": settings.batch_size,
                    **provenance(),
                }
            ]
        )


def _stepper(settings: TrainSettings, method: Method) -> Callable[[], None]:
    """A function that takes one more training step with ``method``, late enough that all its parts are at work."""
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
    first: Batch = next(iter(batches.epoch(0)))
    with seeded(Stream(0, "init")):
        model = settings.model.build(data.channels, len(data.classes)).to(settings.device)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    engine = Engine(
        model,
        build_optimizer(settings.optimizer, model.parameters(), settings.lr, settings.weight_decay),
        nn.CrossEntropyLoss(reduction="none", label_smoothing=settings.label_smoothing),
        precision=settings.precision,
        samples=len(data),
        classes=len(data.classes),
    )
    method.prepare(engine)
    epochs = max(settings.epochs, 2)
    count = iter(range(10**9))

    def step() -> None:
        # An epoch per step: rules that remember single samples then have seen each of them.
        at = next(count)
        method.step(engine, first, Progress(at + 10 * epochs, 20 * epochs, at + 10, 20 * epochs))

    for _ in range(2):
        step()
    return step


def seconds_per_image(spec: ModelSpec, channels: int, size: int, classes: int, precision: str, device: str) -> float:
    """Seconds of a plain forward and backward pass per image, measured on a few images: what estimates start from."""
    images = 8 if size > 64 else 32
    with seeded(Stream(0, "estimate")):
        network = spec.without_weights().build(channels, classes).to(device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.rand(images, channels, size, size, device=device).to(memory_format=torch.channels_last)
    y = torch.zeros(images, dtype=torch.long, device=device)
    engine = Engine(network, torch.optim.SGD(network.parameters(), lr=0.0), precision=precision)  # type: ignore[arg-type]
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        engine.gradient(Batch(x, y))
        engine.take()
        taken.append(time.perf_counter() - started)
    return min(taken) / images
