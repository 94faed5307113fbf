"""What stands in a cell: a small value that says which runs and pieces it needs, and reads itself off them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pandas as pd
import torch

from experiments.grid.bench import Bench
from experiments.grid.estimate import KNOWN
from experiments.grid.pieces import (
    CLEAN,
    Corrupted,
    FilterNorms,
    FineTuned,
    Heights,
    InitialRadius,
    Measuring,
    MixedStepTime,
    Sharpness,
    StepTime,
    engine_of,
)
from experiments.grid.scale import Scale
from noiserobust.noise import NoiseModel
from noiserobust.results import read_rows
from noiserobust.sweep import Evaluating, Piece, Training
from noiserobust.training import TrainSettings
from noiserobust.training.looksam import LookSAM
from noiserobust.training.rst import RST
from noiserobust.training.schedules import Progress


class Quantity(Protocol):
    """A number (or a line of numbers) that a cell shows.

    ``values`` has a row per trained copy (``replicate``) and noise draw (``draw``), with ``value`` and, for a line of
    them, ``x``.
    """

    @property
    def unit(self) -> str:
        """The name of the quantity in ``experiments/published``: accuracy, error, time, flops, ..."""

    @property
    def runs(self) -> Sequence[TrainSettings]:
        """The runs that must be trained, with the logs it wants, each for every seed."""

    def pieces(self, bench: Bench) -> Sequence[Piece]:
        """What must be measured of the finished runs."""

    def values(self, bench: Bench) -> pd.DataFrame:
        """Columns replicate, draw, x, value."""


@dataclass(frozen=True)
class Accuracy:
    """Test accuracy in percent under ``noise`` (``None``: clean); or its complement, or another metric."""

    run: TrainSettings
    noise: NoiseModel | None = None
    unit: Literal["accuracy", "error", "top5_accuracy", "loss"] = "accuracy"

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return [self.run]

    def pieces(self, bench: Bench) -> Sequence[Evaluating]:
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
        rows = pd.concat([read_rows(piece.result) for piece in self.pieces(bench)], ignore_index=True)
        rows = rows[rows["metric"] == metric]
        value = 100 - rows["value"] if self.unit == "error" else rows["value"]
        return _table(rows["replicate"], rows["draw"], np.nan, value)


@dataclass(frozen=True)
class Logged:
    """A column of the training log against epochs (from 1) or against another column; or its last value alone."""

    run: TrainSettings
    y: str
    x: str = "epoch"
    last: bool = False
    unit: str = "logged"

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return [self.run]

    def pieces(self, bench: Bench) -> Sequence[Piece]:
        return []

    def values(self, bench: Bench) -> pd.DataFrame:
        parts = []
        for seed in bench.seeds:
            log = bench.log(self.run, seed, (self.y, *([] if self.x == "epoch" else [self.x])))
            log = log.tail(1) if self.last else log
            x = log["epoch"] + 1 if self.x == "epoch" else log[self.x]
            parts.append(_table(seed, 0, x, log[self.y]).assign(epoch=log["epoch"].to_numpy()))
        return pd.concat(parts, ignore_index=True)


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
        found = []
        for piece in self.pieces(bench):
            own = self.read(read_rows(piece.result))
            own = own.assign(replicate=piece.trained.settings.seed)
            found.append(own.assign(draw=own.get("draw", 0), x=own.get("x", np.nan)))
        return pd.concat(found, ignore_index=True)


def measured(
    run: TrainSettings, measure: str, metric: str | None = None, part: Literal["train", "test"] = "test",
    images: int | None = None,
) -> OfRun:  # fmt: skip
    """A measure of :mod:`noiserobust.measures` on the finished network; ``metric`` names one of its parts."""

    def read(rows: pd.DataFrame) -> pd.DataFrame:
        own = rows[rows["measure"] == measure]
        return own[own["metric"] == (metric or own["metric"].iloc[0])][["draw", "value"]]

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
        found = {
            "time": rows["value"],
            "extra_time": rows["value"] - 1,
            "seconds_per_step": rows["seconds"],
            "images_per_second": rows["batch_size"] / rows["seconds"],
            "speed": 100 / rows["value"],
            "minutes": rows["seconds"] * rows["run_steps"] / 60,
            "extra_minutes": (rows["seconds"] - rows["plain_seconds"]) * rows["run_steps"] / 60,
        }
        return pd.DataFrame({"value": found[unit]})

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


@dataclass(frozen=True)
class Passes:
    """Forward and backward passes of the whole run in units of plain training's (a backward counts as two forwards);
    ``extra``: beyond plain training's."""

    run: TrainSettings
    unit: Literal["flops", "extra_propagations"] = "flops"
    steps: int = 1000

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return []

    def pieces(self, bench: Bench) -> Sequence[Piece]:
        return []

    def values(self, bench: Bench) -> pd.DataFrame:
        epochs = self.run.epochs
        at = [Progress(step, self.steps, step * epochs // self.steps, epochs) for step in range(self.steps)]
        costs = [self.run.method.cost(progress) for progress in at]
        mean = sum((forward + 2 * backward) / 3 for forward, backward in costs) / self.steps
        return _table(0, 0, np.nan, [mean - (1.0 if self.unit == "extra_propagations" else 0.0)])


@dataclass(frozen=True)
class Drawn:
    """Points that settings determine, nothing being measured: a schedule as a function."""

    points: tuple[tuple[float, float], ...]
    unit: str = "function"

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return []

    def pieces(self, bench: Bench) -> Sequence[Piece]:
        return []

    def values(self, bench: Bench) -> pd.DataFrame:
        x, y = zip(*self.points, strict=True)
        return _table(0, 0, x, y)


@dataclass(frozen=True)
class Best:
    """The best of several accuracies: what a paper prints as "the best strength"; ``labels`` name the choices.

    Which one it is follows from the very test values that are shown, as in the papers, so it flatters. ``crossed``
    chooses for each trained copy by the other copies alone, which does not: for comparisons.
    """

    choices: tuple[Accuracy, ...]
    labels: tuple[str, ...] = ()
    crossed: bool = False

    @property
    def unit(self) -> str:
        return self.choices[0].unit

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return [run for choice in self.choices for run in choice.runs]

    def pieces(self, bench: Bench) -> Sequence[Piece]:
        return [piece for choice in self.choices for piece in choice.pieces(bench)]

    def values(self, bench: Bench) -> pd.DataFrame:
        found = [choice.values(bench) for choice in self.choices]
        sign = -1 if self.unit in ("error", "loss") else 1
        if self.crossed:
            copies = pd.concat([values.groupby("replicate")["value"].mean() for values in found], axis=1)
            others = {copy: copies.drop(index=copy) if len(copies) > 1 else copies for copy in copies.index}
            best = {copy: int(np.argmax(sign * rest.mean().to_numpy())) for copy, rest in others.items()}
            parts = [found[choice][found[choice]["replicate"] == copy] for copy, choice in best.items()]
            return pd.concat(parts, ignore_index=True)
        chosen = int(np.argmax([sign * values["value"].mean() for values in found]))
        return found[chosen].assign(choice=self.labels[chosen] if self.labels else str(self.choices[chosen].run.method))


@dataclass(frozen=True)
class Gain:
    """A minus B, copy by copy."""

    a: Quantity
    b: Quantity
    unit: str = "gain"

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return [*self.a.runs, *self.b.runs]

    def pieces(self, bench: Bench) -> Sequence[Piece]:
        return [*self.a.pieces(bench), *self.b.pieces(bench)]

    def values(self, bench: Bench) -> pd.DataFrame:
        a, b = (one.values(bench).set_index(["replicate", "draw"])["value"] for one in (self.a, self.b))
        difference = (a - b).reset_index()
        return _table(difference["replicate"], difference["draw"], np.nan, difference["value"])


@dataclass(frozen=True)
class Times:
    """A quantity times a number."""

    of: Quantity
    factor: float

    @property
    def unit(self) -> str:
        return self.of.unit

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return self.of.runs

    def pieces(self, bench: Bench) -> Sequence[Piece]:
        return self.of.pieces(bench)

    def values(self, bench: Bench) -> pd.DataFrame:
        found = self.of.values(bench)
        return found.assign(value=self.factor * found["value"])


@dataclass(frozen=True)
class Percent:
    """A in percent of B, copy by copy: speed relative to SAM's."""

    a: Quantity
    b: Quantity
    unit: str = "speed"

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return [*self.a.runs, *self.b.runs]

    def pieces(self, bench: Bench) -> Sequence[Piece]:
        return [*self.a.pieces(bench), *self.b.pieces(bench)]

    def values(self, bench: Bench) -> pd.DataFrame:
        a, b = (one.values(bench).set_index(["replicate", "draw"])["value"] for one in (self.a, self.b))
        share = (100 * a / b).reset_index()
        return _table(share["replicate"], share["draw"], np.nan, share["value"])


def logging(run: TrainSettings, *measures: str, on: Sequence[Literal["train", "test"]] = ("train",)) -> TrainSettings:
    """``run`` with ``measures`` in its log."""
    return dataclasses.replace(run, log=tuple(measures), log_on=tuple(on))  # type: ignore[arg-type]


def _table(replicate: object, draw: object, x: object, value: object) -> pd.DataFrame:
    columns = {"replicate": replicate, "draw": draw, "x": x, "value": value}
    plain = {name: np.asarray(column) for name, column in columns.items()}
    length = max(column.size for column in plain.values())
    return pd.DataFrame({name: np.broadcast_to(column, (length,)) for name, column in plain.items()})


def units(quantities: Iterable[Quantity]) -> list[str]:
    """The different units, in order."""
    return list(dict.fromkeys(one.unit for one in quantities))


@dataclass(frozen=True)
class Remembered:
    """MiB that the rule keeps from step to step beyond plain training, as it lays them out before the first step.

    Laid out as tensors without storage: 14 GB need not be there to be counted, and data and samples need not either.
    """

    run: TrainSettings
    data: str
    unit: str = "memory"

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return []

    def pieces(self, bench: Bench) -> Sequence[Piece]:
        return []

    def values(self, bench: Bench) -> pd.DataFrame:
        images, _, channels, _, classes = KNOWN[bench.scale.data[self.data]]
        held_out = 0.0 if self.run.select_on == "test" else self.run.validation
        engine = engine_of(self.run, channels, images - round(held_out * images), classes, "meta")
        # It says on the way how large its memory is.
        with contextlib.redirect_stdout(io.StringIO()):
            self.run.method.prepare(engine)
        return _table(0, 0, np.nan, [sum(tensor.nbytes for tensor in tensors_in(engine.memory)) / 2**20])


def tensors_in(kept: object) -> Iterator[torch.Tensor]:
    """All tensors in nested dictionaries and lists."""
    if isinstance(kept, torch.Tensor):
        yield kept
    elif isinstance(kept, (dict, list)):
        for part in kept.values() if isinstance(kept, dict) else kept:
            yield from tensors_in(part)
