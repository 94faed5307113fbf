"""Quantities that pieces measure of a run or of its training steps: what a cell shows besides accuracy and logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd

from noiserobust.papers.grid.bench import Bench
from noiserobust.papers.grid.pieces import Corrupted, FilterNorms, FineTuned, Heights, InitialRadius, Measuring
from noiserobust.papers.grid.quantity import Part, Quantity
from noiserobust.papers.grid.scale import Scale
from noiserobust.papers.grid.step_time import MixedStepTime, StepTime
from noiserobust.storage.rows import read_rows
from noiserobust.training import TrainSettings
from noiserobust.training.rules.looksam import LookSAM
from noiserobust.training.rules.rst import RST


@dataclass(frozen=True)
class OfRun(Quantity):
    """What a piece measures of every copy of a run.

    ``piece(training, folder)`` makes the piece, ``read`` makes values of its rows.
    """

    run: TrainSettings
    piece: Callable[..., Measuring]
    read: Callable[[pd.DataFrame], pd.DataFrame]
    unit: str
    trained: bool | Literal["copies"] = True
    """Whether the run must have been trained; ``copies``: not, but the piece wants every seed."""

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return [self.run] if self.trained is True else []

    def measurements(self, bench: Bench) -> Sequence[Measuring]:
        seeds = bench.seeds if self.trained else range(1)
        return [self.piece(bench.training(self.run, seed), bench.pieces) for seed in seeds]

    def values(self, bench: Bench) -> pd.DataFrame:
        tables = []
        for piece in self.measurements(bench):
            values = self.read(read_rows(piece.result))
            values = values.assign(replicate=piece.trained.settings.seed)
            tables.append(values.assign(draw=values.get("draw", 0), x=values.get("x", np.nan)))
        return pd.concat(tables, ignore_index=True)


def heights(run: TrainSettings, part: Part, images: int, **options: Any) -> OfRun:
    """The loss around the finished network: ``x``, ``y`` and ``value``; ``options`` are fields of :class:`Heights`."""
    piece = partial(Heights, part=part, images=images, **options)
    return OfRun(run, piece, lambda rows: rows[["draw", "x", "y", "value"]], "loss")


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
    return OfRun(run, partial(timed, halves=halves), read, unit, trained=False)


def initial_radius(run: TrainSettings, gamma: float, draws: int = 1000) -> OfRun:
    """Mean length of filter-wise noise of size ``gamma`` at initial weights."""
    piece = partial(InitialRadius, gamma=gamma, draws=draws)
    return OfRun(run, piece, lambda rows: rows[["draw", "value"]], "radius", trained=False)


def norms_of_filters(run: TrainSettings) -> OfRun:
    """The norm of every filter of the finished network."""
    return OfRun(run, FilterNorms, lambda rows: rows[["value"]], "filter_norm")


def variation_of_filters(run: TrainSettings) -> OfRun:
    """Standard deviation over mean of the filters' norms: how unequal they are."""

    def read(rows: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"value": [rows["value"].std(ddof=0) / rows["value"].mean()]})

    return OfRun(run, FilterNorms, read, "variation")


def on_corrupted(run: TrainSettings, folder: str | None, severity: int | None, scale: Scale) -> OfRun:
    """Accuracy on corrupted images, the mean over corruptions, at one severity or (``None``) against it. ``folder``: of
    CIFAR-10-C or its like; without one images are corrupted here."""

    def read(rows: pd.DataFrame) -> pd.DataFrame:
        means = rows.groupby("severity")["value"].mean()
        chosen = means if severity is None else means.loc[[severity]]
        return pd.DataFrame({"x": chosen.index.astype(float), "value": chosen.to_numpy()})

    piece = partial(Corrupted, folder=folder, images=scale.images, precision=scale.evaluation_precision)
    return OfRun(run, piece, read, "accuracy")


def fine_tuned(run: TrainSettings, initial: str | None) -> OfRun:
    """Accuracy of ``run`` started from the checkpoint ``initial``, or from one trained here on half of the classes."""

    def read(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["metric"] == "accuracy"][["value"]]

    return OfRun(run, partial(FineTuned, initial=initial), read, "accuracy", "copies")
