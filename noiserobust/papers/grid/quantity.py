"""Quantities: what a cell shows; each says which runs and pieces it needs, and reads its values off them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from noiserobust.noise import NoiseModel
from noiserobust.papers.grid.bench import Bench
from noiserobust.papers.grid.pieces import CLEAN
from noiserobust.storage.rows import read_rows
from noiserobust.sweep import Evaluating, Piece
from noiserobust.training import TrainSettings

Part = Literal["train", "test"]
"""Part of the data on which a measure is logged."""


class Quantity(ABC):
    """A number, or a line of numbers, that a cell shows."""

    unit: str
    """Its name in ``papers/published``: accuracy, error, time, flops, ..."""

    @property
    def runs(self) -> Sequence[TrainSettings]:
        """The runs that must be trained, with the logs that it wants, each for every seed."""
        return ()

    def measurements(self, bench: Bench) -> Sequence[Piece]:
        """What must be measured of the finished runs."""
        return ()

    def pieces(self, bench: Bench) -> list[Piece]:
        """All that must be computed: trainings, then measurements."""
        return [*(bench.training(run, seed) for run in self.runs for seed in bench.seeds), *self.measurements(bench)]

    @abstractmethod
    def values(self, bench: Bench) -> pd.DataFrame:
        """A row per trained copy (``replicate``) and noise draw (``draw``): ``value``, and ``x`` where it is a line."""


@dataclass(frozen=True)
class Accuracy(Quantity):
    """Test accuracy in percent under ``noise`` (``None``: clean); or its complement, or another metric."""

    run: TrainSettings
    noise: NoiseModel | None = None
    unit: Literal["accuracy", "error", "top5_accuracy", "loss"] = "accuracy"

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return [self.run]

    def measurements(self, bench: Bench) -> Sequence[Evaluating]:
        scale, noise = bench.scale, self.noise or CLEAN
        draws = 1 if noise.is_identity else scale.draws
        options: dict[str, object] = {"images": scale.images, "precision": scale.evaluation_precision}
        options["device"] = self.run.device
        if self.unit == "top5_accuracy":
            options["metrics"] = ("top5",)
        given = tuple(sorted(options.items()))
        return [
            Evaluating(bench.training(self.run, seed), noise, 0, draws, bench.pieces, given) for seed in bench.seeds
        ]

    def values(self, bench: Bench) -> pd.DataFrame:
        metric = {"error": "accuracy", "top5_accuracy": "top5"}.get(self.unit, self.unit)
        rows = pd.concat([read_rows(piece.result) for piece in self.measurements(bench)], ignore_index=True)
        rows = rows[rows["metric"] == metric]
        value = 100 - rows["value"] if self.unit == "error" else rows["value"]
        return table(rows["replicate"], rows["draw"], np.nan, value)


@dataclass(frozen=True)
class Logged(Quantity):
    """A column of the training log against epochs (from 1) or against another column; or its last value alone."""

    run: TrainSettings
    y: str
    x: str = "epoch"
    last: bool = False
    unit: str = "logged"

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return [self.run]

    def values(self, bench: Bench) -> pd.DataFrame:
        parts = []
        for seed in bench.seeds:
            log = bench.log(self.run, seed, (self.y, *([] if self.x == "epoch" else [self.x])))
            log = log[log[self.y].notna()]  # some epochs alone are measured
            log = log.tail(1) if self.last else log
            x = log["epoch"] + 1 if self.x == "epoch" else log[self.x]
            parts.append(table(seed, 0, x, log[self.y]).assign(epoch=log["epoch"].to_numpy()))
        return pd.concat(parts, ignore_index=True)


def logging(run: TrainSettings, *measures: str, on: Sequence[Part] = ("train",)) -> TrainSettings:
    """``run`` with ``measures`` in its log."""
    return dataclasses.replace(run, log=tuple(measures), log_on=tuple(on))  # type: ignore[arg-type]


def logged(
    run: TrainSettings, measure: str, x: str = "epoch", of: Part = "train", on: Sequence[Part] = ("train",)
) -> Logged:
    """A measure that ``run`` logs on the parts ``on`` of the data; its values on the part ``of`` against ``x``."""
    return Logged(logging(run, measure, on=on), f"{of}/{measure}", x)


def table(replicate: object, draw: object, x: object, value: object) -> pd.DataFrame:
    """The rows of ``values``, single numbers standing for all of them."""
    columns = {"replicate": replicate, "draw": draw, "x": x, "value": value}
    plain = {name: np.asarray(column) for name, column in columns.items()}
    length = max(column.size for column in plain.values())
    return pd.DataFrame({name: np.broadcast_to(column, (length,)) for name, column in plain.items()})
