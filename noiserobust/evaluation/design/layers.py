"""Models under noise on some of their layers: what sensitivity and the choice of digital layers measure with.

A layer's noise is named by (seed, replicate, draw, layer), so it is the same in every set of layers. Every difference
between two sets is therefore taken draw by draw, under common random numbers.
"""

from __future__ import annotations

import glob
import math
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from noiserobust.analog.coverage import Coverage
from noiserobust.analog.weights import analog_weights
from noiserobust.bars import Bar
from noiserobust.errors import UserError
from noiserobust.evaluation.design.neighbours import Neighbour, Setting, measured_together
from noiserobust.evaluation.evaluated_models import (
    EvaluatedModel,
    EvaluatedModels,
    Models,
    methods_of,
    named_data,
    trained_copies,
)
from noiserobust.evaluation.monte_carlo import evaluate
from noiserobust.evaluation.result import Result
from noiserobust.evaluation.settings import Chips, Where
from noiserobust.evaluation.statistics.summary import paired, summarize
from noiserobust.evaluation.trained_ranges import suited
from noiserobust.noise import NoiseModel
from noiserobust.storage.checkpoints import Checkpoint
from noiserobust.storage.ledger import Ledger
from noiserobust.storage.rows import OPERATION
from noiserobust.tasks import Scorer, task_of

INTERVAL = ["mean", "low", "high", "interval_over", "models", "draws", "confidence"]


@dataclass(frozen=True)
class Layer:
    """One weight tensor, or a group of them, that is analog or digital as a whole."""

    name: str
    """The weight's name, or the group's pattern."""
    members: tuple[str, ...]
    patterns: tuple[str, ...]
    """What includes each of them."""
    weights: int
    weights_share: float
    """Of all the network's parameters, in percent."""
    macs: float
    """Multiply-accumulates per input (:mod:`noiserobust.analog.macs`); NaN where they cannot be told."""
    macs_share: float
    """Of all that the network needs, in percent."""

    @property
    def columns(self) -> dict[str, Any]:
        """Those of its lines in a table of results."""
        columns = asdict(self)
        del columns["members"], columns["patterns"]
        return {"layer": columns.pop("name")} | columns


@dataclass(frozen=True)
class Layers:
    """The noisy layers of one method's networks, in the network's order."""

    layers: tuple[Layer, ...]
    digital_share: float
    """Percent of the multiply-accumulates that are digital before any layer is made so."""
    where: Where
    """Which weights are analog before."""

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    @property
    def names(self) -> list[str]:
        return [layer.name for layer in self.layers]

    def label(self, digital: Collection[str]) -> str:
        """The column ``digital`` of rows in which these layers are digital."""
        return ", ".join(name for name in self.names if name in digital)

    def but(self, digital: Collection[str]) -> Where:
        """Which weights are analog when the layers ``digital`` are not."""
        if not digital:
            return self.where
        names = [glob.escape(name) for layer in self if layer.name in digital for name in layer.members]
        if self.where.layers:
            return self.where.with_digital(names)
        if self.where.patterns["include"]:
            # What a person includes wins over every exclusion, so that the rest has to be named instead.
            return Where([one for layer in self if layer.name not in digital for one in layer.patterns], ["*"])
        return Where((), [*self.where.exclude, *names])

    def only(self, layer: Layer) -> Where:
        """Which weights are analog when ``layer`` alone is."""
        if self.where.layers:
            names = [glob.escape(name) for name in layer.members]
            return self.where.with_digital(["*"]).with_digital(names, digital=False)
        return Where(layer.patterns, ["*"])


@dataclass(frozen=True)
class OfLayers(Result):
    """Base of results about layers: rows of :func:`evaluate`, whose column ``digital`` names those without noise."""

    noise: str
    layers: Mapping[str, Layers]
    """Of each method."""

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        of_methods = (
            self._of_method(method, self.rows[self.rows["method"] == method], confidence) for method in self.layers
        )
        return pd.concat(of_methods, ignore_index=True)

    @abstractmethod
    def _of_method(self, method: str, rows: pd.DataFrame, confidence: float) -> pd.DataFrame:
        """The lines of one method, from its rows."""


@dataclass(frozen=True)
class Sample:
    """Which draws are measured, on how many images (None: all)."""

    draws: int | range
    seed: int
    images: int | None = None


@dataclass
class NoisyLayers:
    """The trained copies of one method, under noise on any set of their layers; nothing is measured twice."""

    method: str
    noise: NoiseModel
    layers: Layers
    chips: Chips
    coverage: dict[str, Coverage]
    """Of each copy, before any layer is digital."""
    models: Models
    data: Any
    out: str | Path | None
    fixed: Mapping[str, Any]
    """Of :func:`evaluate`'s arguments, those that are always the same."""
    bar: Bar
    """Counts draws."""
    measured: dict[Any, pd.DataFrame] = field(default_factory=dict)

    def under(self, digital: Collection[str], sample: Sample) -> pd.DataFrame:
        """Rows with noise on all layers but ``digital`` (their names)."""
        label, one = self.layers.label(digital), self._setting(digital)
        if (label, sample) not in self.measured:
            settings = {name: value for name, value in asdict(sample).items() if value is not None}
            settings |= {"noises": one.noise, "chips": one.chips, "where": one.where}
            result = evaluate(self.models, self.data, out=self.out, **(dict(self.fixed) | settings))
            self.measured[label, sample] = result.rows.assign(digital=label)
            self.bar.update(result.rows.groupby(["model", "draw"], observed=True).ngroups)
        return self.measured[label, sample]

    def clean(self, sample: Sample) -> pd.DataFrame:
        """Rows of the digital network, as many as there are draws, to be compared with."""
        return self.under(self.layers.names, sample)

    def around(self, digital: Collection[str], layers: Iterable[str], sample: Sample) -> list[pd.DataFrame]:
        """Rows of every set in which one of ``layers`` is on the other side than in ``digital``, which is measured,
        too: together, where that gives the same (:func:`~.neighbours.measured_together`)."""
        base, names = self.layers.label(digital), list(layers)
        sets = [set(digital) ^ {name} for name in names]
        missing = {
            self.layers.label(one): Neighbour(self._setting(one), self.layers.only(self.layers[name]), name in digital)
            for name, one in zip(names, sets, strict=True)
            if (self.layers.label(one), sample) not in self.measured and len(one) < len(self.layers)
        }
        if missing and self.fixed["compute"].reuse and not self.fixed["compute"].compile:
            fixed = dict(self.fixed) | ({} if sample.images is None else {"images": sample.images})
            networks = EvaluatedModels(self.models, self.data, where=self.layers.where, **fixed)
            start = (base, self._setting(digital))
            ledger = Ledger(self.out)
            found = measured_together(networks, start, missing, sample.draws, sample.seed, ledger, self.bar.update)
            self.measured |= {(label, sample): rows.assign(digital=label) for label, rows in found.items()}
        self.under(digital, sample)
        return [self.under(one, sample) for one in sets]

    @property
    def rows(self) -> pd.DataFrame:
        """All that was measured so far; the column ``digital`` names the layers that were."""
        return pd.concat(self.measured.values(), ignore_index=True)

    def _setting(self, digital: Collection[str]) -> Setting:
        noisy = [layer for layer in self.layers if layer.name not in digital]
        if not noisy:
            # Nothing is done around a chip where there is none.
            return Setting(self.layers.where.clean(), self.noise.scaled(0), Chips())
        where = self.layers.only(noisy[0]) if len(noisy) == 1 < len(self.layers) else self.layers.but(digital)
        return Setting(where, self.noise, self.chips)


def noisy_layers(
    models: Models,
    data: Any,
    noise: NoiseModel | str,
    groups: Sequence[str],
    chips: Chips,
    where: Where,
    bar: Bar,
    out: str | Path | None,
    **fixed: Any,
) -> list[NoisyLayers]:
    """One for each method, with ``fixed`` for :func:`evaluate`; bad input is refused here, before any work."""
    model: NoiseModel = NoiseModel.parse(noise)
    require_one_condition(chips)
    if model.is_identity and not where.layers and str(chips.converters) == "none" and str(chips.backend) == "direct":
        raise UserError(f"expected a noise with a strength, got {model}: it disturbs no layer")
    methods, data = by_method(models, data, fixed["task"], chips)
    noisy = []
    for method, members in methods.items():
        copies = EvaluatedModels({method: members}, data, where=where, **fixed)
        layers = {one.name: layers_of(one, groups) for one in copies}
        first, *_ = layers.values()
        for name, others in layers.items():
            if [layer.members for layer in others] != [layer.members for layer in first]:
                raise UserError(f"expected copies of one network as {method}, got {name} with other layers")
        rest = ({method: members}, data, out, fixed, bar)
        noisy.append(NoisyLayers(method, model, first, chips, copies.coverage, *rest))
    return noisy


def fields_of(methods: Sequence[NoisyLayers]) -> dict[str, Any]:
    """Those of :class:`OfLayers`."""
    return {
        "rows": pd.concat([one.rows for one in methods], ignore_index=True),
        "noise": methods[0].noise.label,
        "layers": {one.method: one.layers for one in methods},
        "coverage": {name: coverage for one in methods for name, coverage in one.coverage.items()},
    }


def by_method(
    models: Models, data: Any, task: Any, chips: Chips
) -> tuple[dict[str, list[nn.Module | Checkpoint]], Any]:
    """The trained copies of each method that ``chips`` suit, and the data, loaded once (a scoring function has its
    own)."""
    copies = suited(trained_copies(models), chips)
    return methods_of(copies), data if isinstance(task_of(task, data), Scorer) else named_data(data, copies)


def require_one_condition(chips: Chips) -> None:
    """Refuse what :func:`evaluate` would compare: differences are between layers or noises, under one condition."""
    for name in ("times", "compensation", "converters"):
        values = getattr(chips, name)
        if isinstance(values, (list, tuple)) and len(values) != 1:
            raise UserError(f"expected one of {name}, got {len(values)}; call once for each")


def layers_of(model: EvaluatedModel, groups: Sequence[str]) -> Layers:
    """The noisy layers of one network.

    Each pattern of ``groups`` makes one layer of the weights that it matches; every other weight is one by itself.
    """
    weights, coverage = analog_weights(model.network, **model.where.patterns), model.coverage
    macs = {row.name: row.macs for row in coverage.rows if row.noisy}
    members: dict[str, list[str]] = {}
    for weight in weights:
        matching = [pattern for pattern in groups if fnmatchcase(weight.name, pattern)]
        if len(matching) > 1:
            raise UserError(f"expected each weight in one group, got {weight.name} in {' and '.join(matching)}")
        members.setdefault(matching[0] if matching else weight.name, []).append(weight.name)
    for pattern in groups:
        if pattern not in members:
            raise UserError(f"expected a group that matches a noisy weight, got '{pattern}'; coverage lists the names")
    size = {weight.name: weight.numel for weight in weights}
    patterns = {weight.name: weight.pattern for weight in weights}
    # A scoring function keeps its data to itself: nothing is counted.
    other = coverage.macs - coverage.noisy_macs if coverage.counted else 0.0
    every = max(1.0, coverage.macs) if coverage.counted else math.nan

    def layer(name: str, names: Sequence[str]) -> Layer:
        cells, count = sum(size[member] for member in names), math.fsum(macs[member] for member in names)
        included = tuple(patterns[member] for member in names)
        return Layer(name, tuple(names), included, cells, 100 * cells / coverage.total, count, 100 * count / every)

    return Layers(tuple(layer(*group) for group in members.items()), 100 * other / every, model.where)


def differences(
    pairs: Iterable[tuple[pd.DataFrame, pd.DataFrame]], confidence: float, metric: str = "accuracy"
) -> pd.DataFrame:
    """a - b draw by draw for each pair of rows: one line each of mean, interval and what that is over.

    Both rows of a pair are of one method, the same replicates and the same draws
    (:func:`~noiserobust.evaluation.paired`).
    """
    # Two conditions of one method become two methods under one condition, which `paired` compares.
    sides = [
        side[side["metric"] == metric]
        .drop(columns=["seed", "semantics"], errors="ignore")
        .assign(**_cell(index), method=name)
        for index, pair in enumerate(pairs)
        for name, side in zip("ab", pair, strict=True)
    ]
    return paired(pd.concat(sides, ignore_index=True), "a", "b", confidence, metric)[INTERVAL]


def turned(pairs: Iterable[tuple[pd.DataFrame, pd.DataFrame]], sign: int) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """The pairs, each the other way round where the ``sign`` is -1: a difference is then of what less is better of."""
    return [pair if sign > 0 else (pair[1], pair[0]) for pair in pairs]


def means(tables: Iterable[pd.DataFrame], confidence: float, metric: str = "accuracy") -> pd.DataFrame:
    """The mean of each set of rows, as :func:`differences` gives them."""
    cells = [rows[rows["metric"] == metric].assign(**_cell(index)) for index, rows in enumerate(tables)]
    return summarize(pd.concat(cells, ignore_index=True), confidence)[INTERVAL]


def _cell(index: int) -> dict[str, Any]:
    return {"noise": index, "strength": 0.0, "t": math.nan, **OPERATION}
