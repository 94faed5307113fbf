"""Quantities that are not measured: they follow from settings alone, or from other quantities."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch

from noiserobust.papers.grid.bench import Bench
from noiserobust.papers.grid.estimate import sizes_of
from noiserobust.papers.grid.quantity import Accuracy, Quantity, table
from noiserobust.papers.grid.step_time import engine_of
from noiserobust.sweep import Piece
from noiserobust.sweep.pieces import mean_cost
from noiserobust.training import TrainSettings


@dataclass(frozen=True)
class Passes(Quantity):
    """Forward and backward passes of the whole run in units of plain training's, a backward pass counting as two
    forward passes; ``extra_propagations``: those beyond plain training's."""

    run: TrainSettings
    unit: Literal["flops", "extra_propagations"] = "flops"
    steps: int = 1000

    def values(self, bench: Bench) -> pd.DataFrame:
        mean = mean_cost(self.run, self.steps)
        return table(0, 0, np.nan, [mean - (1.0 if self.unit == "extra_propagations" else 0.0)])


@dataclass(frozen=True)
class Drawn(Quantity):
    """Points that settings determine, nothing being measured: a schedule as a function."""

    points: tuple[tuple[float, float], ...]
    unit: str = "function"

    def values(self, bench: Bench) -> pd.DataFrame:
        x, y = zip(*self.points, strict=True)
        return table(0, 0, x, y)


class Combined(Quantity):
    """What is computed from other quantities, its ``parts``: it needs what they need."""

    parts: tuple[Quantity, ...]

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return [run for part in self.parts for run in part.runs]

    def measurements(self, bench: Bench) -> Sequence[Piece]:
        return [piece for part in self.parts for piece in part.measurements(bench)]


@dataclass(frozen=True)
class Best(Combined):
    """The best of several accuracies: what a paper prints as "the best strength"; ``labels`` name the choices.

    Which one it is follows from the very test values that are shown, as in the papers, so it flatters. ``apart``
    chooses by the first third of the trained copies (at least one) and shows the others, which does not, and leaves
    them independent of each other: for comparisons.
    """

    parts: tuple[Accuracy, ...]
    labels: tuple[str, ...] = ()
    apart: bool = False

    @property
    def unit(self) -> str:  # type: ignore[override]
        return self.parts[0].unit

    def values(self, bench: Bench) -> pd.DataFrame:
        accuracies = [choice.values(bench) for choice in self.parts]
        sign = -1 if self.unit in ("error", "loss") else 1
        seen = accuracies
        if self.apart:
            copies = sorted(accuracies[0]["replicate"].unique())
            first = copies[: max(1, len(copies) // 3)]
            seen = [values[values["replicate"].isin(first)] for values in accuracies]
            accuracies = [values[~values["replicate"].isin(first)] for values in accuracies]
        chosen = int(np.argmax([sign * values["value"].mean() for values in seen]))
        return accuracies[chosen].assign(
            choice=self.labels[chosen] if self.labels else str(self.parts[chosen].run.method)
        )


@dataclass(frozen=True)
class Computed(Combined):
    """A function of other quantities' values, copy by copy and draw by draw."""

    parts: tuple[Quantity, ...]
    function: Callable[..., pd.Series]
    unit: str

    def values(self, bench: Bench) -> pd.DataFrame:
        values = (part.values(bench).set_index(["replicate", "draw"])["value"] for part in self.parts)
        computed = self.function(*values).reset_index()
        return table(computed["replicate"], computed["draw"], np.nan, computed["value"])


def gain(a: Quantity, b: Quantity) -> Computed:
    """A minus B."""
    return Computed((a, b), lambda a, b: a - b, "gain")


def percent(a: Quantity, b: Quantity) -> Computed:
    """A in percent of B, as a speed relative to SAM's."""
    return Computed((a, b), lambda a, b: 100 * a / b, "speed")


def times(a: Quantity, factor: float) -> Computed:
    """A times a number."""
    return Computed((a,), lambda a: factor * a, a.unit)


@dataclass(frozen=True)
class Remembered(Quantity):
    """MiB that the rule keeps from step to step beyond plain training, as it lays them out before the first step.

    Laid out as tensors without storage: 14 GB need not be there to be counted, and data and samples need not either.
    """

    run: TrainSettings
    data: str
    unit: str = "memory"

    def values(self, bench: Bench) -> pd.DataFrame:
        images, _, channels, _, classes = sizes_of(bench.scale.data[self.data])
        held_out = 0.0 if self.run.select_on == "test" else self.run.validation
        engine = engine_of(self.run, channels, images - round(held_out * images), classes, "meta")
        # It says on the way how large its memory is.
        with contextlib.redirect_stdout(io.StringIO()):
            self.run.method.prepare(engine)
        return table(0, 0, np.nan, [sum(tensor.nbytes for tensor in tensors_in(engine.memory)) / 2**20])


def tensors_in(kept: object) -> Iterator[torch.Tensor]:
    """All tensors in nested dictionaries and lists."""
    if isinstance(kept, torch.Tensor):
        yield kept
    elif isinstance(kept, (dict, list)):
        for part in kept.values() if isinstance(kept, dict) else kept:
            yield from tensors_in(part)
