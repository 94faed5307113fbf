"""Quantities that follow from settings alone, or from other quantities."""

from __future__ import annotations

import contextlib
import io
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch

from noiserobust.papers.grid.bench import Bench
from noiserobust.papers.grid.estimate import KNOWN
from noiserobust.papers.grid.quantity import Accuracy, Quantity, table
from noiserobust.papers.grid.step_time import engine_of
from noiserobust.sweep import Piece
from noiserobust.training import TrainSettings
from noiserobust.training.schedules import Progress


class Unmeasured:
    """Of what settings alone determine: no run and no piece is needed."""

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return []

    def pieces(self, bench: Bench) -> Sequence[Piece]:
        return []


class Composed:
    """Of other quantities, :attr:`parts`: it needs what they need."""

    @property
    @abstractmethod
    def parts(self) -> Sequence[Quantity]:
        """The quantities that it is made of."""

    @property
    def runs(self) -> Sequence[TrainSettings]:
        return [run for part in self.parts for run in part.runs]

    def pieces(self, bench: Bench) -> Sequence[Piece]:
        return [piece for part in self.parts for piece in part.pieces(bench)]


@dataclass(frozen=True)
class Passes(Unmeasured):
    """Forward and backward passes of the whole run in units of plain training's (a backward counts as two forwards);
    ``extra``: beyond plain training's."""

    run: TrainSettings
    unit: Literal["flops", "extra_propagations"] = "flops"
    steps: int = 1000

    def values(self, bench: Bench) -> pd.DataFrame:
        epochs = self.run.epochs
        at = [Progress(step, self.steps, step * epochs // self.steps, epochs) for step in range(self.steps)]
        costs = [self.run.method.cost(progress) for progress in at]
        mean = sum((forward + 2 * backward) / 3 for forward, backward in costs) / self.steps
        return table(0, 0, np.nan, [mean - (1.0 if self.unit == "extra_propagations" else 0.0)])


@dataclass(frozen=True)
class Drawn(Unmeasured):
    """Points that settings determine, nothing being measured: a schedule as a function."""

    points: tuple[tuple[float, float], ...]
    unit: str = "function"

    def values(self, bench: Bench) -> pd.DataFrame:
        x, y = zip(*self.points, strict=True)
        return table(0, 0, x, y)


@dataclass(frozen=True)
class Best(Composed):
    """The best of several accuracies: what a paper prints as "the best strength"; ``labels`` name the choices.

    Which one it is follows from the very test values that are shown, as in the papers, so it flatters. ``apart``
    chooses by the first third of the trained copies (at least one) and shows the others, which does not, and leaves
    them independent of each other: for comparisons.
    """

    choices: tuple[Accuracy, ...]
    labels: tuple[str, ...] = ()
    apart: bool = False

    @property
    def unit(self) -> str:
        return self.choices[0].unit

    @property
    def parts(self) -> Sequence[Quantity]:
        return self.choices

    def values(self, bench: Bench) -> pd.DataFrame:
        accuracies = [choice.values(bench) for choice in self.choices]
        sign = -1 if self.unit in ("error", "loss") else 1
        seen = accuracies
        if self.apart:
            copies = sorted(accuracies[0]["replicate"].unique())
            first = copies[: max(1, len(copies) // 3)]
            seen = [values[values["replicate"].isin(first)] for values in accuracies]
            accuracies = [values[~values["replicate"].isin(first)] for values in accuracies]
        chosen = int(np.argmax([sign * values["value"].mean() for values in seen]))
        return accuracies[chosen].assign(
            choice=self.labels[chosen] if self.labels else str(self.choices[chosen].run.method)
        )


@dataclass(frozen=True)
class Times(Composed):
    """A quantity times a number."""

    of: Quantity
    factor: float

    @property
    def unit(self) -> str:
        return self.of.unit

    @property
    def parts(self) -> Sequence[Quantity]:
        return [self.of]

    def values(self, bench: Bench) -> pd.DataFrame:
        values = self.of.values(bench)
        return values.assign(value=self.factor * values["value"])


@dataclass(frozen=True)
class Remembered(Unmeasured):
    """MiB that the rule keeps from step to step beyond plain training, as it lays them out before the first step.

    Laid out as tensors without storage: 14 GB need not be there to be counted, and data and samples need not either.
    """

    run: TrainSettings
    data: str
    unit: str = "memory"

    def values(self, bench: Bench) -> pd.DataFrame:
        images, _, channels, _, classes = KNOWN[bench.scale.data[self.data]]
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


@dataclass(frozen=True)
class Compared(Composed):
    """A against B, copy by copy and draw by draw, as :meth:`compared` says."""

    a: Quantity
    b: Quantity

    @property
    def parts(self) -> Sequence[Quantity]:
        return [self.a, self.b]

    @abstractmethod
    def compared(self, a: pd.Series, b: pd.Series) -> pd.Series:
        """The values of the comparison."""

    def values(self, bench: Bench) -> pd.DataFrame:
        a, b = (one.values(bench).set_index(["replicate", "draw"])["value"] for one in self.parts)
        compared = self.compared(a, b).reset_index()
        return table(compared["replicate"], compared["draw"], np.nan, compared["value"])


@dataclass(frozen=True)
class Gain(Compared):
    """A minus B."""

    unit: str = "gain"

    def compared(self, a: pd.Series, b: pd.Series) -> pd.Series:
        return a - b


@dataclass(frozen=True)
class Percent(Compared):
    """A in percent of B: speed relative to SAM's."""

    unit: str = "speed"

    def compared(self, a: pd.Series, b: pd.Series) -> pd.Series:
        return 100 * a / b


@dataclass(frozen=True)
class Variation(Composed):
    """Standard deviation over mean of a copy's values: how unequal the norms of its filters are."""

    of: Quantity
    unit: str = "variation"

    @property
    def parts(self) -> Sequence[Quantity]:
        return [self.of]

    def values(self, bench: Bench) -> pd.DataFrame:
        copies = self.of.values(bench).groupby("replicate")["value"]
        ratios = (copies.std(ddof=0) / copies.mean()).reset_index()
        return table(ratios["replicate"], 0, np.nan, ratios["value"])
