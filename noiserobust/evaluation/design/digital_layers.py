"""Which layers to keep digital: chosen greedily on some draws, verified jointly on others."""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from noiserobust.analog.layer_table import LayerTable
from noiserobust.bars import Bar
from noiserobust.errors import UserError
from noiserobust.evaluation.design.layers import (
    Layer,
    Layers,
    NoisyLayers,
    OfLayers,
    Sample,
    differences,
    fields_of,
    means,
    noisy_layers,
    turned,
)
from noiserobust.evaluation.evaluated_models import Models
from noiserobust.evaluation.result import drawn
from noiserobust.evaluation.settings import Chips, Compute, Where
from noiserobust.models import ModelSpec
from noiserobust.noise import NoiseModel
from noiserobust.report.design_tables import digital_table
from noiserobust.report.leading import leading, quantity_of
from noiserobust.spec.kinds import check_fields, typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Stop:
    """When enough layers are digital; without any limit every layer is taken in turn."""

    within: float | None = None
    """Stop as soon as the search is that many points of accuracy below clean."""
    max_share: float | None = None
    """Never keep more percent of the multiply-accumulates digital, what is digital anyway included."""
    max_layers: int | None = None
    """Never keep more layers digital."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.within is not None and self.within < 0:
            raise UserError(f"expected within >= 0 points of accuracy, got {self.within}")
        if self.max_share is not None and not 0 < self.max_share <= 100:
            raise UserError(f"expected max_share in percent, above 0 and up to 100, got {self.max_share}")
        if self.max_layers is not None and self.max_layers < 1:
            raise UserError(f"expected max_layers >= 1, got {self.max_layers}")


@dataclass(frozen=True)
class Search:
    """How the next layer to keep digital is chosen."""

    draws: int | None = None
    """Noise draws of the search (None: as many as verify it)."""
    images: int | None = None
    """Images of the search, a stratified sample (None: as many as verify it)."""
    candidates: int | None = None
    """Only that many layers, of the largest gains alone, are candidates, the first one chosen among them (None: all; L
    layers then cost L (L + 1) / 2 sets)."""
    per_mac: bool = False
    """Choose by gain per multiply-accumulate instead of gain. A layer that gains nothing comes last."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.candidates is not None and self.candidates < 1:
            raise UserError(f"expected candidates >= 1, got {self.candidates}")


@dataclass(frozen=True)
class KeptDigital(OfLayers):
    """Which layers to keep digital: rows of :func:`evaluate`, whose column ``digital`` names those that were."""

    chosen: Mapping[str, Sequence[str]]
    """Of each method: the layers to keep digital, in the order in which they were chosen."""
    stop: Stop
    seed: int
    """Of the draws that verify; the search's are -1 - ``seed``."""

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """One line per method and step. Step k keeps the first k ``layers`` digital, the last of which is ``layer``.

        ``macs_share`` and ``weights_share`` are percentages of the whole network's, what is digital anyway included.
        All of it on fresh draws, in points of accuracy (or, of another task, of its ``metric``, whose name the columns
        then have):

        - ``clean``, ``accuracy``, ``low``, ``high``: the digital network; with the set digital, and its interval
        - ``lost``, ``lost_low``, ``lost_high``: clean minus that, draw by draw
        - ``gain``, ``gain_low``, ``gain_high``: that minus noise on all layers, draw by draw
        - ``sum_of_singles``: the gains of the set's layers, each digital alone, added up
        - ``search_accuracy``, ``search_gain``: what the search saw on its draws (and images), which is biased upwards
          because the set was chosen for it
        """
        return super().summary(confidence)

    def where(self, step: int = -1, method: str | None = None) -> Where:
        """Which weights are analog after ``step`` (the last one by default), to evaluate and to train with.

        >>> evaluate("runs", where=keep_digital("runs").where())  # doctest: +SKIP

        Raises :class:`~noiserobust.UserError` for a step or method that there is not, or no method where there are
        several.
        """
        layers, digital = self._digital(step, method)
        return layers.but(digital)

    def layer_table(self, step: int = -1, method: str | None = None) -> LayerTable:
        """The same as a table of settings by layer, on top of the one that the search started from.

        >>> TrainSettings(layers=keep_digital("runs").layer_table())  # doctest: +SKIP
        """
        layers, digital = self._digital(step, method)
        where = layers.where
        excluded = LayerTable.of(where.layers).with_digital(where.patterns["exclude"])
        order = {name: place for place, name in enumerate(digital)}
        members = sorted((layer for layer in layers if layer.name in digital), key=lambda layer: order[layer.name])
        names = [glob.escape(name) for layer in members for name in layer.members]
        return excluded.with_digital(names)

    def _digital(self, step: int, method: str | None) -> tuple[Layers, Sequence[str]]:
        if method is None and len(self.layers) == 1:
            (method,) = self.layers
        if method is None or method not in self.layers:
            raise UserError(
                f"expected one of the methods {', '.join(map(repr, self.layers))}, got {method}; say which method="
            )
        steps = range(len(self.chosen[method]) + 1)
        if step not in (*steps, -1):
            raise UserError(f"expected a step from 0 to {steps[-1]}, got {step}")
        return self.layers[method], self.chosen[method][: steps[step]]

    def table(self, markdown: bool = False, confidence: float = 0.95) -> str:
        """Step by step, which layer is kept digital next and what that gives."""
        return digital_table(self.summary(confidence), self.stop.within, markdown)

    def plot(self, path: str | Path | None = None, confidence: float = 0.95) -> Figure:
        """Accuracy on fresh draws against the share of multiply-accumulates kept digital."""
        from noiserobust.report.design_plots import digital_figure

        return drawn(digital_figure(self.summary(confidence), self.stop.within), path)

    def _of_method(self, method: str, rows: pd.DataFrame, confidence: float) -> pd.DataFrame:
        layers, chosen = self.layers[method], self.chosen[method]
        fresh, search = (
            dict(iter(rows[rows["seed"] == seed].groupby("digital"))) for seed in (self.seed, -1 - self.seed)
        )
        sets = [chosen[:step] for step in range(len(chosen) + 1)]
        labels = [layers.label(digital) for digital in sets]
        clean, noisy = fresh[layers.label(layers.names)], fresh[""]
        metric = leading(rows)
        better = quantity_of(rows, metric).sign
        accuracy = means([fresh[label] for label in labels], confidence, metric)
        lost = differences(turned([(clean, fresh[label]) for label in labels], better), confidence, metric)
        gain = differences(turned([(fresh[label], noisy) for label in labels], better), confidence, metric)
        singles = [0.0]
        if chosen:
            alone = differences(turned([(fresh[name], noisy) for name in chosen], better), confidence, metric)
            singles += list(alone["mean"].cumsum())
        about = {layer.name: layer for layer in layers}
        steps = pd.DataFrame(
            {
                "method": method,
                "noise": self.noise,
                "t": noisy["t"].iloc[0],
                "step": range(len(sets)),
                "layer": ["", *chosen],
                "layers": [list(digital) for digital in sets],
                "macs_share": [layers.digital_share + sum(about[name].macs_share for name in one) for one in sets],
                "weights_share": [sum(about[name].weights_share for name in one) for one in sets],
                "metric": metric,
                "clean": means([clean], confidence, metric)["mean"].iloc[0],
                metric: accuracy.pop("mean"),
            }
        ).join(accuracy)
        for name, difference in (("lost", lost), ("gain", gain)):
            steps[[name, f"{name}_low", f"{name}_high"]] = difference[["mean", "low", "high"]]
        searched = pd.Series([_mean(search[label], metric) for label in labels])
        seen = {f"search_{metric}": searched, "search_gain": better * (searched - searched[0])}
        return steps.assign(sum_of_singles=singles, **seen)


@typed
def keep_digital(
    models: Models,
    data: Any = None,
    noise: NoiseModel | str = "gaussian:0.05",
    draws: int | range = 10,
    seed: int = 0,
    *,
    stop: Stop = Stop(),
    search: Search = Search(),
    groups: Sequence[str] = (),
    images: int | None = None,
    model: ModelSpec | str | None = None,
    task: Any = None,
    chips: Chips = Chips(),
    compute: Compute = Compute(),
    where: Where = Where(),
    out: str | Path | None = None,
    progress: bool = False,
) -> KeptDigital:
    """Which layers should not be analog? One after the other, the layer that gains most beside those already digital.

    >>> print(keep_digital("runs", noise="gaussian:0.1", stop=Stop(within=1.0)))  # doctest: +SKIP

    The search measures accuracy (ties go to the lower loss), as the mean over a method's models. Its draws are named
    by the seed -1 - ``seed``, so that the ``draws`` of ``seed`` are fresh: on them and on all images every set on
    the way is then measured. A set chosen among many looks better on the draws that chose it than it is. It is still
    chosen for these models and images. ``stop`` says when enough layers are digital (:class:`Stop`), ``search`` how the
    next one is chosen (:class:`Search`); everything else is as for :func:`~noiserobust.evaluation.sensitivity`.

    Raises :class:`~noiserobust.UserError` for input that cannot be evaluated, and for shares of multiply-accumulates
    where a layer's cannot be told.
    """
    fixed: dict[str, Any] = {"images": images, "model": model, "task": task, "compute": compute}
    with Bar(unit="draw", disable=not progress, delay=1) as bar:
        methods = noisy_layers(models, data, noise, groups, chips, where, bar, out, **fixed)
        fresh = Sample(draws, seed)
        sample = Sample(draws if search.draws is None else search.draws, -1 - seed, search.images)
        chosen = {}
        for one in methods:
            if search.per_mac or stop.max_share is not None:
                _require_macs(one)
            chosen[one.method] = _chosen(one, sample, stop, search)
            one.clean(fresh)
            one.around((), chosen[one.method], fresh)
            for step in range(1, len(chosen[one.method]), 2):
                one.around(chosen[one.method][:step], chosen[one.method][step : step + 1], fresh)
            one.under(chosen[one.method], fresh)
    return KeptDigital(**fields_of(methods), chosen=chosen, stop=stop, seed=seed)


def _chosen(noisy: NoisyLayers, sample: Sample, stop: Stop, search: Search) -> list[str]:
    """The layers to keep digital, in the order in which they are chosen."""
    chosen: list[str] = []
    left = list(noisy.layers)
    clean = _goodness(noisy.clean(sample))
    share = noisy.layers.digital_share
    most = math.inf if stop.max_layers is None else stop.max_layers
    while left and len(chosen) < most:
        base = noisy.under(chosen, sample)
        if stop.within is not None and clean - _goodness(base) <= stop.within:
            break
        left = [one for one in left if stop.max_share is None or share + one.macs_share <= stop.max_share + 1e-9]
        tried = noisy.around(chosen, [one.name for one in left], sample)
        merits = {one: _merit(base, rows, one, search.per_mac) for one, rows in zip(left, tried, strict=True)}
        left.sort(key=lambda one: merits[one], reverse=True)  # a stable sort: ties stay in the network's order
        if not chosen and search.candidates is not None:
            left = left[: search.candidates]
        if left:
            best = left.pop(0)
            share += best.macs_share
            chosen.append(best.name)
    return chosen


def _merit(base: pd.DataFrame, rows: pd.DataFrame, layer: Layer, per_mac: bool) -> tuple[float, ...]:
    """What a layer is worth: its gain, or its gain per cost where it gains anything; then the fall of the loss."""
    gain = _gain(base, rows)
    fall = _gain(base, rows, "loss") if (rows["metric"] == "loss").any() else 0.0
    if not per_mac:
        return gain, fall
    return (1.0, gain / layer.macs, fall) if gain > 0 else (0.0, gain, fall)


def _gain(base: pd.DataFrame, rows: pd.DataFrame, metric: str | None = None) -> float:
    """How much better ``rows`` are than ``base``; 0 where both are undefined."""
    gain = _goodness(rows, metric) - _goodness(base, metric)
    return 0.0 if math.isnan(gain) else gain


def _goodness(rows: pd.DataFrame, metric: str | None = None) -> float:
    """The mean of a metric (the task's), with the sign that makes more of it better; an undefined one is the worst."""
    metric = metric or leading(rows)
    mean = quantity_of(rows, metric).sign * _mean(rows, metric)
    return -math.inf if math.isnan(mean) else mean


def _mean(rows: pd.DataFrame, metric: str) -> float:
    return float(rows.loc[rows["metric"] == metric, "value"].mean(skipna=False))


def _require_macs(noisy: NoisyLayers) -> None:
    unknown = [layer.name for layer in noisy.layers if not layer.macs >= 0]
    if unknown:
        raise UserError(
            f"expected multiply-accumulates of every layer of {noisy.method}, but those of {', '.join(unknown[:6])} "
            "cannot be told: leave per_mac and max_share out"
        )
