"""Pieces of a sweep, trainings and evaluations: any process can run one, and each leaves one file, or none."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from noiserobust.data import Content, DataSource, Splits, load
from noiserobust.errors import UserError
from noiserobust.evaluation import evaluate
from noiserobust.evaluation.settings import grouped
from noiserobust.limits import read_text_bytes
from noiserobust.noise import NoiseModel
from noiserobust.noise.additive import names_laplace
from noiserobust.storage.described import read_json, strict
from noiserobust.storage.files import write_text
from noiserobust.storage.ledger import SEMANTICS
from noiserobust.storage.locks import alone
from noiserobust.storage.rows import write_rows
from noiserobust.training import Progress, TrainSettings, fit
from noiserobust.training.runs import run_of


class Piece(Protocol):
    """One unit of work. Running it twice is harmless, and the second time costs nothing."""

    @property
    def name(self) -> str:
        """What it does, in a few words."""

    @property
    def result(self) -> Path:
        """The file that is there when, and only when, it is done."""

    def run(self) -> None:
        """Do it."""


@dataclass(frozen=True, eq=False)
class Training:
    """One training run, in its own folder of ``out``; those with equal settings, as they are written, are one."""

    settings: TrainSettings
    out: Path
    known: Content | None = None
    """What names the data where they are not on this machine: a finished run is found without them."""

    @cached_property
    def _key(self) -> tuple[str, Path, Content | None]:
        # As written, since to Python a warm-up of 1 step is one of 1.0, all of training.
        return json.dumps(self.settings.described(), sort_keys=True), self.out, self.known

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Training) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def name(self) -> str:
        return f"train {self.settings.label} seed {self.settings.seed}"

    @property
    def result(self) -> Path:
        return run_of(self.settings, self.out, self.content).checkpoint

    @property
    def nameable(self) -> bool:
        """Whether its name is known without a download: its data are here, or what names them is."""
        return self.known is not None or DataSource.parse(self.settings.data).lies_in(self.settings.data_root)

    @property
    def content(self) -> Content:
        """What names its data: those on this machine, or what is known of them."""
        settings = self.settings
        if self.known is not None and not DataSource.parse(settings.data).lies_in(settings.data_root):
            return self.known
        return data_of(settings).content

    def run(self) -> None:
        fit(self.settings, self.out, splits=data_of(self.settings))


class Measurement(ABC):
    """A piece that writes rows about a finished run; the name of their file in ``out`` follows from its ``key``."""

    out: Path

    @property
    @abstractmethod
    def name(self) -> str:
        """What it does, in a few words."""

    @property
    @abstractmethod
    def key(self) -> list[Any]:
        """All that determines the rows."""

    @abstractmethod
    def measure(self) -> pd.DataFrame:
        """The rows."""

    @property
    def result(self) -> Path:
        digest = hashlib.sha256(json.dumps(self.key, default=str).encode()).hexdigest()[:16]
        return self.out / f"{digest}.parquet"

    def run(self) -> None:
        result = self.result
        if not result.is_file():
            with alone(result.with_name(f".{result.stem}.lock"), f"at '{self.name}'"):
                if not result.is_file():
                    write_rows(self.measure(), result)


@dataclass(frozen=True)
class Evaluating(Measurement):
    """``draws`` draws from ``first_draw`` on of one checkpoint under one noise, as a file of rows in ``out``."""

    trained: Training
    noise: NoiseModel
    first_draw: int
    draws: int
    out: Path
    options: tuple[tuple[str, Any], ...] = ()
    """What :func:`noiserobust.evaluate` is told besides, flat (:func:`~noiserobust.evaluation.settings.grouped`)."""

    @property
    def name(self) -> str:
        run, last = self.trained.settings, self.first_draw + self.draws - 1
        return f"evaluate {run.label} seed {run.seed}, {self.noise}, draws {self.first_draw} to {last}"

    @property
    def key(self) -> list[Any]:
        # The run's own name says everything about its weights.
        version = SEMANTICS + names_laplace(self.noise, self.options)
        return [version, self.trained.result.parent.name, str(self.noise), self.first_draw, self.draws, self.options]

    def measure(self) -> pd.DataFrame:
        settings = self.trained.settings
        rows = evaluate(
            self.trained.result,
            data_of(settings),
            self.noise,
            range(self.first_draw, self.first_draw + self.draws),
            # A checkpoint's word alone starts no code: the sweep's settings are a person's.
            **grouped({"model": settings.model} | dict(self.options)),
        ).rows
        return rows.assign(given="")  # those of training, wherever they lie


@dataclass(frozen=True)
class Score:
    """What the file of a trial says."""

    score: float | None
    """None: it diverged."""
    sha256: str = ""
    """Of the score's text; files of older versions have none."""


def write_score(score: float | None, file: Path) -> None:
    """Write the small file of a trial, with its checksum."""
    write_text(file, json.dumps({"score": score, "sha256": _sum_of(score)}))


def read_score(file: Path) -> float | None:
    """What :func:`write_score` wrote; :class:`UserError` where it is damaged, or says anything else."""
    what = f"the score in {file}"
    given = read_json(read_text_bytes(file, what).decode("utf-8", "replace"), what)
    score = strict(Score, given, what)["score"]
    known = {one.name for one in fields(Score)}
    if not set(given) <= known or (score is not None and not math.isfinite(score)):
        raise UserError(f"expected a finite score in {file}, got {str(given)[:80]}; the run's checkpoint holds it")
    if "sha256" in given and given["sha256"] != _sum_of(score):
        raise UserError(f"expected {file} as it was written, got another score; the run's checkpoint holds it")
    return score


def _sum_of(score: float | None) -> str:
    return hashlib.sha256(json.dumps(score).encode()).hexdigest()


def data_of(settings: TrainSettings) -> Splits:
    """The data of a run, loaded once per process."""
    return _load(settings.data, settings.data_root, settings.image_size)


@lru_cache(maxsize=4)
def _load(data: str, root: str, size: int | None) -> Splits:
    return load(data, root, size)


def epoch_cost(settings: TrainSettings) -> float:
    """Passes over the training data per epoch, in those of plain training: a step's, and those of a teacher that is
    trained first (anew for every run, though runs may share one)."""
    return mean_cost(settings) + (settings.teacher_run is not None)


def mean_cost(settings: TrainSettings, steps: int = 100) -> float:
    """Mean cost of a training step in units of a plain one, a backward pass counting as two forward passes: as the
    method states it, over so many steps that lie evenly over the run, and a teacher's forward pass."""
    epochs, taught = settings.epochs, settings.teacher is not None
    at = [Progress(step, steps, step * epochs // steps, epochs) for step in range(steps)]
    return sum((forward + taught + 2 * backward) / 3 for forward, backward in map(settings.method.cost, at)) / steps
