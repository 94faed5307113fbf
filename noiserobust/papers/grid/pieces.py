"""Pieces that measure finished runs, beside the evaluations of :mod:`noiserobust.sweep`: a file of rows each."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from noiserobust.analog.filters import filter_noise
from noiserobust.analog.vectors import norm
from noiserobust.analog.weight_space import WeightSpace
from noiserobust.data import Splits
from noiserobust.evaluation import Compute, corrupted, evaluate, landscape
from noiserobust.evaluation.landscapes import SEMANTICS as LANDSCAPE
from noiserobust.evaluation.measure_minima import Part
from noiserobust.minima import Surface, filter_norms_of
from noiserobust.models.compute import Precision
from noiserobust.models.sizes import built
from noiserobust.noise import Gaussian
from noiserobust.papers.grid.corruptions import CORRUPTIONS, corrupted_copy
from noiserobust.rng import Stream, seeded
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.storage.provenance import provenance
from noiserobust.sweep import Training
from noiserobust.sweep.pieces import Measurement, data_of
from noiserobust.training import fit
from noiserobust.training.rules.base import Plain

CLEAN = Gaussian(0.0)


@dataclass(frozen=True)
class Measuring(Measurement):
    """Base of what is measured of one run, in rows with at least a column ``value``."""

    trained: Training
    out: Path
    semantics: ClassVar[int] = 1
    of_weights: ClassVar[bool] = True
    """Whether it looks at the finished network."""

    @property
    @abstractmethod
    def what(self) -> str:
        """What is measured, in words that tell it from everything else that is."""

    @property
    def about(self) -> str:
        """What it is measured of: the run's own name says everything about its weights."""
        return self.trained.result.parent.name

    @property
    def name(self) -> str:
        return f"{self.what} of {self.trained.settings.label} seed {self.trained.settings.seed}"

    @property
    def key(self) -> list[Any]:
        return [type(self).__name__, self.semantics, self.about, self.what]


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
            data,
            self.dimensions,
            half_width=self.half_width,
            points=self.points,
            pairs=self.pairs,
            part=self.part,
            images=None if self.images is None else min(self.images, len(seen)),
            compute=Compute(device=settings.device),
        ).rows


@dataclass(frozen=True)
class InitialRadius(Measuring):
    """The length of filter-wise noise of size ``gamma`` at the run's initial weights, a row per draw."""

    gamma: float = 0.01
    draws: int = 1000
    of_weights: ClassVar[bool] = False

    @property
    def about(self) -> str:
        s = self.trained.settings
        return f"{s.model} {s.data if '/' not in s.data else 'folder'} {s.seed}"

    @property
    def what(self) -> str:
        return f"radius of filter noise {self.gamma:g} at initialization, {self.draws} draws"

    def measure(self) -> pd.DataFrame:
        settings = self.trained.settings
        data = data_of(settings).train
        with seeded(Stream(settings.seed, "init")):
            model = built(settings.model, data.channels, len(data.classes))
        weights, streams = WeightSpace(model), Stream(settings.seed, "radius")
        drawn = (norm(filter_noise(weights, self.gamma, streams.child(draw))).item() for draw in range(self.draws))
        return pd.DataFrame({"draw": range(self.draws), "value": drawn, **provenance()})


@dataclass(frozen=True)
class FilterNorms(Measuring):
    """The norm of every filter of the finished network, a row each."""

    @property
    def what(self) -> str:
        return "filter norms"

    def measure(self) -> pd.DataFrame:
        surface = Surface(read_checkpoint(self.trained.result).build(), [])
        return pd.DataFrame({"value": filter_norms_of(surface).tolist(), **provenance()})


@dataclass(frozen=True)
class Corrupted(Measuring):
    """Accuracy on corrupted test images, a row per corruption and severity.

    ``folder``: where CIFAR-10-C or its like lies, or ``None`` for images corrupted here
    (:mod:`noiserobust.papers.grid.corruptions`), once, beside the pieces.
    """

    folder: str | None = None
    images: int | None = None
    precision: Precision = "fp32"

    @property
    def what(self) -> str:
        whose = "corrupted here" if self.folder is None else Path(self.folder).name
        return f"accuracy on {self.images or 'all'} images, {whose}, {self.precision}"

    def measure(self) -> pd.DataFrame:
        settings = self.trained.settings
        compute = Compute(precision=self.precision, device=settings.device)
        if self.folder is not None:
            rows = corrupted(self.trained.result, self.folder, images=self.images, compute=compute).rows
        else:
            test = data_of(settings).test
            chosen = test if self.images is None else test.sample(self.images, Stream(0, "images"))
            folder = corrupted_copy(chosen, self.out.parent / "corrupted")
            rows = corrupted(self.trained.result, folder, corruptions=list(CORRUPTIONS), compute=compute).rows
        return rows[rows["metric"] == "accuracy"]


@dataclass(frozen=True)
class FineTuned(Measuring):
    """Accuracy of the run ``trained`` when it starts from a checkpoint.

    ``initial``: that checkpoint, or ``None`` for one trained here, plainly and with the same settings, on the first
    half of the classes alone.
    """

    initial: str | None = None
    of_weights: ClassVar[bool] = False

    @property
    def what(self) -> str:
        start = "half of the classes" if self.initial is None else Path(self.initial).name
        return f"accuracy, fine-tuned from {start}"

    def measure(self) -> pd.DataFrame:
        settings, runs = self.trained.settings, self.trained.out
        data, start = data_of(settings), self.initial
        if start is None:
            before = dataclasses.replace(settings, method=Plain(), seed=0)
            start = str(fit(before, runs, splits=half_of_classes(data)).checkpoint)
        run = fit(dataclasses.replace(settings, initial=start), runs, splits=data)
        return evaluate(run.checkpoint, data.test, CLEAN, 1, compute=Compute(device=settings.device)).rows


def half_of_classes(data: Splits) -> Splits:
    """Training and test images of the first half of the classes."""
    count = len(data.train.classes) // 2
    parts = [part.subset((part.labels < count).nonzero().flatten()) for part in (data.train, data.test)]
    train, test = (dataclasses.replace(part, classes=part.classes[:count]) for part in parts)  # type: ignore[type-var]
    return dataclasses.replace(data, train=train, test=test)
