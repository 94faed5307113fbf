"""Quantities that pieces measure of finished runs, or of their steps: what a cell shows besides accuracy and logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from noiserobust.papers.grid.bench import Bench
from noiserobust.papers.grid.pieces import (
    Corrupted,
    FilterNorms,
    FineTuned,
    Heights,
    InitialRadius,
    Measuring,
    Sharpness,
)
from noiserobust.papers.grid.scale import Scale
from noiserobust.papers.grid.step_time import MixedStepTime, StepTime
from noiserobust.storage.rows import read_rows
from noiserobust.sweep import Training
from noiserobust.training import TrainSettings
from noiserobust.training.rules.looksam import LookSAM
from noiserobust.training.rules.rst import RST


@dataclass(frozen=True)
class OfRun:
    """What pieces measure of every finished copy; ``piece(training, folder)`` makes the piece, ``read`` its values."""

    run: TrainSettings
    piece: Callable[..., Measuring]
    read: Callable[[pd.DataFrame], pd.DataFrame]
    unit: str
    trained: bool | Literal["copies"] = True
    """Whether the run must have been trained; ``copies``: not, but the piece wants every seed."""

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return [self.run] if self.trained is True else []

    def pieces(self, bench: Bench) -> Sequence[Measuring]:
        seeds = bench.seeds if self.trained else range(1)
        return [self.piece(bench.training(self.run, seed), bench.pieces) for seed in seeds]

    def values(self, bench: Bench) -> pd.DataFrame:
        tables = []
        for piece in self.pieces(bench):
            values = self.read(read_rows(piece.result))
            values = values.assign(replicate=piece.trained.settings.seed)
            tables.append(values.assign(draw=values.get("draw", 0), x=values.get("x", np.nan)))
        return pd.concat(tables, ignore_index=True)


def measured(
    run: TrainSettings, measure: str, metric: str | None = None, part: Literal["train", "test"] = "test",
    images: int | None = None,
) -> OfRun:  # fmt: skip
    """A measure of :mod:`noiserobust.minima` on the finished network; ``metric`` names one of its parts."""

    def read(rows: pd.DataFrame) -> pd.DataFrame:
        values = rows[rows["measure"] == measure]
        return values[values["metric"] == (metric or values["metric"].iloc[0])][["draw", "value"]]

    return OfRun(run, lambda t, out: Sharpness(t, out, measure, part, images), read, metric or measure.split(":")[0])


def heights(
    run: TrainSettings, part: Literal["train", "test"], images: int, *, dimensions: int = 2, points: int = 21,
    pairs: int = 1, half_width: float = 1.0,
) -> OfRun:  # fmt: skip
    """The loss around the finished network; its values have ``x``, ``y`` and ``value``."""
    return OfRun(
        run,
        lambda t, out: Heights(t, out, dimensions, points, pairs, half_width, part, images),
        lambda rows: rows[["draw", "x", "y", "value"]],
        "loss",
    )


def step_time(
    run: TrainSettings,
    unit: Literal["time", "extra_time", "seconds_per_step", "images_per_second", "speed", "minutes", "extra_minutes"],
    halves: bool = False,
) -> OfRun:
    """What a step costs, timed beside plain training's.

    As a multiple (or what it is above 1), in seconds, as images per second, as speed in percent of plain training's, or
    as minutes of all steps of the run (or those beyond plain training's): the steps' own, without loading of data and
    evaluation. ``halves``: of a mixed RWP whose two gradients have a processor each.
    """

    def read(rows: pd.DataFrame) -> pd.DataFrame:
        by_unit = {
            "time": rows["value"],
            "extra_time": rows["value"] - 1,
            "seconds_per_step": rows["seconds"],
            "images_per_second": rows["batch_size"] / rows["seconds"],
            "speed": 100 / rows["value"],
            "minutes": rows["seconds"] * rows["run_steps"] / 60,
            "extra_minutes": (rows["seconds"] - rows["plain_seconds"]) * rows["run_steps"] / 60,
        }
        return pd.DataFrame({"value": by_unit[unit]})

    timed = MixedStepTime if isinstance(run.method, (RST, LookSAM)) else StepTime
    return OfRun(run, lambda t, out: timed(t, out, halves=halves), read, unit, trained=False)


def initial_radius(run: TrainSettings, gamma: float, draws: int = 1000) -> OfRun:
    """Mean length of filter-wise noise of size ``gamma`` at initial weights."""

    def read(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[["draw", "value"]]

    return OfRun(run, lambda t, out: InitialRadius(t, out, gamma, draws), read, "radius", trained=False)


def norms_of_filters(run: TrainSettings) -> OfRun:
    """The norm of every filter of the finished network."""
    return OfRun(run, FilterNorms, lambda rows: rows[["value"]], "filter_norm")


def on_corrupted(run: TrainSettings, folder: str | None, severity: int | None, scale: Scale) -> OfRun:
    """Accuracy on corrupted images, the mean over corruptions, at one severity or (``None``) against it. ``folder``: of
    CIFAR-10-C or its like; without one images are corrupted here."""

    def read(rows: pd.DataFrame) -> pd.DataFrame:
        means = rows.groupby("severity")["value"].mean()
        chosen = means if severity is None else means.loc[[severity]]
        return pd.DataFrame({"x": chosen.index.astype(float), "value": chosen.to_numpy()})

    def piece(trained: Training, out: Path) -> Corrupted:
        return Corrupted(trained, out, folder, scale.images, scale.evaluation_precision)

    return OfRun(run, piece, read, "accuracy")


def fine_tuned(run: TrainSettings, initial: str | None) -> OfRun:
    """Accuracy of ``run`` started from the checkpoint ``initial``, or from one trained here on half of the classes."""

    def read(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["metric"] == "accuracy"][["value"]]

    return OfRun(run, lambda t, out: FineTuned(t, out, initial), read, "accuracy", "copies")
