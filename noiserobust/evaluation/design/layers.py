"""Models under noise on some of their layers: what sensitivity and the choice of digital layers measure with.

A layer's noise is named by (seed, replicate, draw, layer), so it is the same in every set of layers. Every difference
between two sets is therefore taken draw by draw, under common random numbers.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn
from tqdm import tqdm

from noiserobust.analog.coverage import coverage
from noiserobust.analog.macs import count_macs
from noiserobust.analog.weights import analog_weights
from noiserobust.data import Dataset
from noiserobust.errors import UserError
from noiserobust.evaluation.monte_carlo import evaluate
from noiserobust.evaluation.statistics.summary import paired, summarize
from noiserobust.evaluation.subjects import Models, Setup, Subject, labelled
from noiserobust.noise import NoiseModel
from noiserobust.storage.checkpoints import Checkpoint
from noiserobust.storage.rows import OPERATION

DIGITAL: dict[str, Any] = {
    "times": (None,),
    "reads": 1,
    "compensation": "none",
    "converters": "none",
    "recalibration": 0,
    "backend": "direct",
}
"""What :func:`evaluate` is told of the clean network: nothing is done around a chip where there is none."""


@dataclass(frozen=True)
class Layer:
    """One weight tensor, or a group of them, that is analog or digital as a whole."""

    name: str
    """The weight's name, or the group's pattern."""
    members: tuple[str, ...]
    weights: int
    weights_share: float
    """Of all the network's parameters, in percent."""
    macs: float
    """Multiply-accumulates per input (:mod:`noiserobust.analog.macs`); NaN where they cannot be told."""
    macs_share: float
    """Of all that the network needs, in percent."""

    @property
    def about(self) -> dict[str, Any]:
        """The columns of its lines in a table of results."""
        return {
            "layer": self.name,
            "weights": self.weights,
            "weights_share": self.weights_share,
            "macs": self.macs,
            "macs_share": self.macs_share,
        }


@dataclass
class Bench:
    """The copies of one method, evaluated under noise on any set of their layers; nothing is measured twice."""

    method: str
    members: list[nn.Module | Checkpoint]
    data: Any
    noise: NoiseModel
    layers: list[Layer]
    include: Sequence[str]
    exclude: Sequence[str]
    digital_share: float
    """Percent of the multiply-accumulates that are digital before any layer is made so."""
    out: Path | None
    options: Mapping[str, Any]
    """What :func:`evaluate` is told besides."""
    bar: tqdm[Any]
    measured: dict[Any, pd.DataFrame] = field(default_factory=dict)

    def under(self, digital: Collection[str], draws: int, seed: int, images: int | None = None) -> pd.DataFrame:
        """Rows with noise on all layers but ``digital`` (names of layers)."""
        noisy = [layer for layer in self.layers if layer.name not in digital]
        if not noisy:
            return self.clean(draws, seed, images)
        return self._measure(self.noise, *self._patterns(noisy), draws, seed, images)

    def clean(self, draws: int, seed: int, images: int | None = None) -> pd.DataFrame:
        """Rows of the digital network, as many as there are draws, to be compared with."""
        return self._measure(self.noise.scaled(0), self.include, self.exclude, draws, seed, images, DIGITAL)

    @property
    def rows(self) -> pd.DataFrame:
        """All that was measured so far."""
        return pd.concat(self.measured.values(), ignore_index=True)

    def _patterns(self, noisy: Sequence[Layer]) -> tuple[Sequence[str], Sequence[str]]:
        """(include, exclude) that leave only ``noisy`` noisy; the same set has always the same patterns."""
        names = [glob.escape(name) for layer in noisy for name in layer.members]
        if len(noisy) == len(self.layers):
            return self.include, self.exclude
        # What a person includes wins over every exclusion, so that the rest has to be named instead.
        if len(noisy) == 1 or self.include:
            return names, ["*"]
        digital = [glob.escape(name) for layer in self.layers if layer not in noisy for name in layer.members]
        return (), [*self.exclude, *digital]

    def _measure(
        self,
        noise: NoiseModel,
        include: Sequence[str],
        exclude: Sequence[str],
        draws: int,
        seed: int,
        images: int | None,
        around: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        key = (noise, tuple(include), tuple(exclude), draws, seed, images, around is None)
        if key not in self.measured:
            options = {**self.options, **(around or {})} | ({} if images is None else {"images": images})
            options |= {"include": include, "exclude": exclude, "out": self.out}
            models = {self.method: self.members}
            self.measured[key] = evaluate(models, self.data, noise, draws, seed, **options).rows
        self.bar.update()
        return self.measured[key]


def benches(
    models: Models,
    data: Any,
    noise: NoiseModel | str,
    *,
    groups: Sequence[str],
    include: Sequence[str],
    exclude: Sequence[str],
    out: str | Path | None,
    bar: tqdm[Any],
    options: Mapping[str, Any],
) -> list[Bench]:
    """One bench per method; bad input is refused here, before any work."""
    noise = NoiseModel.parse(noise) if isinstance(noise, str) else noise
    plain = str(options.get("converters", "none")) == "none" and str(options.get("backend", "direct")) == "direct"
    if noise.is_identity and plain:
        raise UserError(f"expected a noise with a strength, got {noise}: it disturbs no layer")
    names = ("model", "images", "batch_size", "precision", "device", "channels_last")
    setup = Setup(**{name: options[name] for name in names if name in options}, include=include, exclude=exclude)
    path = None if out is None else Path(out)
    found = []
    for method, members in by_method(models).items():
        layers: list[Layer] = []
        shared = 0.0
        for subject in setup.subjects({method: members}, data):
            own, digital_share = layers_of(subject, groups, include, exclude)
            if layers and [layer.members for layer in own] != [layer.members for layer in layers]:
                raise UserError(f"expected copies of one network as {method}, got {subject.name} with other layers")
            layers, shared = own, digital_share
        found.append(Bench(method, members, data, noise, layers, include, exclude, shared, path, options, bar))
    return found


def check_single(options: Mapping[str, Any]) -> None:
    """Refuse what :func:`evaluate` would compare, or draw by draw differences cannot be taken with."""
    for name in ("compensation", "converters"):
        if isinstance(options.get(name), (list, tuple)):
            raise UserError(f"expected one {name}, got {len(options[name])} in a list; call once for each")
    if "times" in options:
        raise UserError("expected t=..., one time since programming, got times")
    if options.get("precision_target") is not None:
        raise UserError("expected a number of draws, got a precision_target: differences are taken draw by draw")


def by_method(models: Models) -> dict[str, list[nn.Module | Checkpoint]]:
    """The trained copies of each method."""
    found: dict[str, list[nn.Module | Checkpoint]] = {}
    for method, member in labelled(models):
        found.setdefault(method, []).append(member)
    return found


def layers_of(
    subject: Subject, groups: Sequence[str], include: Sequence[str], exclude: Sequence[str]
) -> tuple[list[Layer], float]:
    """The noisy layers in the network's order, and the percentage of multiply-accumulates that is digital anyway.

    Each pattern of ``groups`` makes one layer of the weights that it matches; every other weight is its own.
    """
    weights = analog_weights(subject.network, include=include, exclude=exclude)
    covered = coverage(subject.network, include=include, exclude=exclude)
    macs = count_macs(subject.network, _one_input(subject), weights)
    owner: dict[str, str] = {}
    for weight in weights:
        matching = [pattern for pattern in groups if fnmatchcase(weight.name, pattern)]
        if len(matching) > 1:
            raise UserError(f"expected each weight in one group, got {weight.name} in {' and '.join(matching)}")
        owner[weight.name] = matching[0] if matching else weight.name
    for pattern in groups:
        if pattern not in owner.values():
            raise UserError(f"expected a group that matches a noisy weight, got '{pattern}'; coverage lists the names")
    size = {weight.name: weight.parameter.numel() for weight in weights}
    layers = []
    for name in dict.fromkeys(owner.values()):
        members = tuple(member for member, group in owner.items() if group == name)
        count = math.fsum(macs.by_weight[member] for member in members)
        cells = sum(size[member] for member in members)
        layers.append(
            Layer(name, members, cells, 100 * cells / covered.total, count, 100 * count / max(1.0, macs.total))
        )
    return layers, 100 * macs.other / max(1.0, macs.total)


def contrast(
    a: pd.DataFrame, b: pd.DataFrame, confidence: float, metric: str = "accuracy", sign: int = 1
) -> dict[str, Any]:
    """``sign * (a - b)`` draw by draw: mean, low, high, and what the interval is over (:func:`statistics.paired`).

    The two sets of rows are of one method, the same replicates and the same draws.
    """
    # Two conditions of one method, told as two methods under one condition: what `paired` compares.
    same = {name: b[name].iloc[0] for name in ("noise", "strength", "t", *OPERATION)}
    sides = {"a": a, "b": b} if sign > 0 else {"a": b, "b": a}
    rows = pd.concat([side.assign(method=name, **same) for name, side in sides.items()], ignore_index=True)
    return _interval(paired(rows, "a", "b", confidence, metric).iloc[0])


def level(rows: pd.DataFrame, confidence: float, metric: str = "accuracy") -> dict[str, Any]:
    """The mean of one set of rows with its interval, as :func:`contrast` gives a difference."""
    return _interval(summarize(rows[rows["metric"] == metric], confidence).iloc[0])


def _interval(line: pd.Series[Any]) -> dict[str, Any]:
    return {name: line[name] for name in ("mean", "low", "high", "interval_over", "models", "draws", "confidence")}


def _one_input(subject: Subject) -> Any:
    inputs = subject.batches[0].inputs[:1]
    parameter = next((p for p in subject.network.parameters() if p.is_floating_point()), None)
    return inputs if parameter is None or not inputs.is_floating_point() else inputs.to(parameter.dtype)


def at_once(data: Any) -> Any:
    """Data given by name, loaded a single time; what is handed over otherwise stays as it is."""
    return Setup().dataset(data) if isinstance(data, (str, Path, Dataset)) else data
