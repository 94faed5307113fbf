"""Monte Carlo evaluation: one row per model, noise, draw, read and metric, aggregated last."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn

from noiserobust.analog.noisy import report_stream
from noiserobust.bars import Bar
from noiserobust.errors import UserError, printable
from noiserobust.evaluation.evaluated_models import EvaluatedModels, Models
from noiserobust.evaluation.on_chips import Conditions, ModelOnChips
from noiserobust.evaluation.precision.to_precision import (
    Target,
    measure_to_precision,
    over_models,
    summarize_to_precision,
)
from noiserobust.evaluation.result import Result, drawn
from noiserobust.evaluation.settings import Chips, Compute, Where, check_seed
from noiserobust.evaluation.statistics.summary import paired, summarize
from noiserobust.evaluation.trained_ranges import suited
from noiserobust.models import ModelSpec
from noiserobust.noise import NoiseModel
from noiserobust.noise.additive import names_laplace
from noiserobust.noise.sharded import mesh_of
from noiserobust.report import precision_table, robustness_table
from noiserobust.spec.kinds import typed
from noiserobust.spec.own_code import own_code
from noiserobust.storage.ledger import SEMANTICS, Ledger
from noiserobust.storage.rows import OPERATION
from noiserobust.storage.shared_ledger import SharedLedger
from noiserobust.tasks.metrics import digests, known_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Evaluation(Result):
    """Accuracy and loss of models under noise: ``rows``, and what was noisy."""

    uncovered: dict[str, dict[str, str]] = field(default_factory=dict)
    """Per model: which of the analog weights had no converters though some were asked for, and why."""
    conversion: dict[str, str] = field(default_factory=dict)
    """Per model, one line: what the backend computes, and what it leaves to the direct path and why."""
    ranges: dict[str, str] = field(default_factory=dict)
    """Per model, one line: where fixed ranges of converters come from."""

    @property
    def to_precision(self) -> bool:
        """Whether these are subsets of images, evaluated until a precision was reached."""
        return bool((self.rows["subset"] != "all").all())

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """Mean, noise_std, weight_std, variance components and interval (:func:`~noiserobust.evaluation.summarize`).

        Rows evaluated to a precision are summarised per model, with the confidence that they were evaluated with
        (:func:`~noiserobust.evaluation.precision.to_precision.summarize_to_precision`)."""
        return summarize_to_precision(self.rows) if self.to_precision else summarize(self.rows, confidence)

    def table(self, markdown: bool = False, confidence: float = 0.95) -> str:
        """``mean ± noise_std ± weight_std`` of the accuracy, methods down and noises across."""
        table = precision_table if self.to_precision else robustness_table
        return "\n".join(filter(None, [table(self.summary(confidence), markdown=markdown), self.nan_answers]))

    def plot(self, path: str | Path | None = None, confidence: float = 0.95) -> Figure:
        """Accuracy against strength, or against time where there are several times; a PNG where ``path`` is given."""
        from noiserobust.report.plots import strength_figure, time_figure

        summary = self.summary(confidence)
        summary = over_models(summary) if self.to_precision else summary
        return drawn((time_figure if summary["t"].nunique() > 1 else strength_figure)(summary), path)

    def paired(self, method_a: str, method_b: str, confidence: float = 0.95, metric: str | None = None) -> pd.DataFrame:
        """Mean difference a - b on shared replicates and draws, with its interval
        (:func:`~noiserobust.evaluation.paired`)."""
        return paired(self.rows, method_a, method_b, confidence, metric)


@typed
def evaluate(
    models: Models,
    data: Any = None,
    noises: NoiseModel | str | Sequence[NoiseModel | str] = "gaussian:0.05",
    draws: int | range = 10,
    seed: int = 0,
    *,
    precision_target: float | Target | None = None,
    images: int | None = None,
    model: ModelSpec | str | None = None,
    task: Any = None,
    metrics: Any = (),
    chips: Chips = Chips(),
    compute: Compute = Compute(),
    where: Where = Where(),
    out: str | Path | Ledger | None = None,
    progress: bool = False,
) -> Evaluation:
    """How accurate networks stay when their weights are noisy: every model under every draw of every noise.

    >>> evaluate("runs", noises=["gaussian:0.05", "gaussian:0.1"]).plot("accuracy.png")  # doctest: +SKIP

    - ``models``: a module, a checkpoint, a run, the path of either or of a folder of runs, ``"LABEL=PATH"``; several of
      them; or groups of them by the method's name. Each is one trained copy, a replicate. Methods share the draws of a
      replicate, so that their difference is paired; replicates have independent draws.
    - ``data``: a name or path that :func:`noiserobust.data.load` knows (its test part), a Dataset, ``(x, y)`` tensors,
      a torch dataset, a DataLoader or what else :func:`noiserobust.data.as_dataset` takes; ``None``: what the first
      checkpoint was trained on. ``images`` takes a random sample of that many, stratified by class.
    - ``noises``: noise models or their texts. Those that differ in strength alone are one draw, scaled.
    - ``draws``: how many, each of them one chip, or a ``range`` of their numbers; ``seed`` names them all. Draw k of
      replicate r is ``noiserobust.perturbed(model, noise, seed=seed, replicate=r, draw=k)``.
    - ``precision_target``: instead of a number of draws, accuracy to ± that many points at 95 %
      (:class:`noiserobust.evaluation.Target` has further settings); ``draws`` is not used then.
    - ``model``: how to build the network of a checkpoint that does not say it.
    - ``task``: what the network's outputs mean (:mod:`noiserobust.tasks`): ``"classification"``, which it is where
      nothing is said, ``"tokens"``, ``"regression"``, ``"multilabel"``, ``"binary"``, ``"segmentation"``, one of your
      own, or a function that scores the network and brings its own data (it may stand for ``data``, too).
    - ``metrics``: further ones by name, torchmetrics objects, or functions of all logits and labels by the name of
      their rows.
    - ``chips``, ``compute``, ``where``: what happens around a chip, how it is computed, which weights are noisy.
    - ``out``: a file for the rows, ``.parquet``, ``.csv`` or ``.jsonl``, kept up to date; what it holds already is not
      computed again.

    Rows hold the metrics of the task: of classification the accuracy in percent and the loss in nats. An answer that is
    no finite number is wrong, and counted as ``nan_answers``. Afterwards the models' weights and modes are as before,
    bit for bit. Raises :class:`~noiserobust.UserError` for input that cannot be evaluated.
    """
    check_seed(seed)
    noise_kinds, further = noise_models(noises), known_metrics(metrics)
    numbers = draw_numbers(draws, () if precision_target else noise_kinds)
    networks = EvaluatedModels(
        models, data, images=images, model=model, task=task, compute=compute, where=where, shards=True
    )
    conditions = Conditions.of(chips, networks.data)
    networks.copies = suited(networks.copies, chips)
    networks.calibration = conditions.images
    settings: dict[str, Any] = {"seed": seed, "recalibration": conditions.recalibration}
    uncovered: dict[str, dict[str, str]] = {}
    conversion: dict[str, str] = {}
    ranges: dict[str, str] = {}
    target = None if precision_target is None else _target(precision_target, chips, numbers, further)
    if target:
        settings |= {"target": target.half_width, "confidence": target.confidence}
    total = None if target else len(networks) * len(noise_kinds) * len(numbers) * len(conditions.readings)
    bar = Bar(total=total, unit="draw" if target else "read", disable=not progress, delay=1)
    meshes = [mesh_of(copy.source) for copy in networks.copies if isinstance(copy.source, nn.Module)]
    mesh = next((mesh for mesh in meshes if mesh is not None), None)
    ledger = out if isinstance(out, Ledger) else Ledger(out) if mesh is None else SharedLedger(out, mesh)
    with closing(ledger), bar:
        for copy in networks:
            bar.set_description(printable(copy.method), refresh=False)
            on_chips = ModelOnChips(copy, conditions, further, target is not None or len(conditions.readings) == 1)
            for noise in noise_kinds:
                columns = columns_of(on_chips, noise, settings)
                if target:
                    for reading in on_chips.readings:
                        measure_to_precision(target, on_chips, noise, reading, columns, ledger, bar)
                    continue
                for draw in numbers:
                    _chip(on_chips, noise, draw, numbers[0], columns, ledger)
                    bar.update(len(conditions.readings))
            uncovered[copy.name], conversion[copy.name] = on_chips.uncovered, on_chips.opened.report
            ranges[copy.name] = on_chips.ranges
    result = Evaluation(ledger.table(), uncovered, conversion, ranges, coverage=networks.coverage)
    if missing := result.nan_answers:
        warnings.warn(missing, stacklevel=2)
    return result


def columns_of(on_chips: ModelOnChips, noise: NoiseModel, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that all rows of a network under a noise share; ``settings`` are the seed's and recalibration's."""
    columns = OPERATION | dict(settings) | {"backend": on_chips.opened.text} | on_chips.model.columns
    version = SEMANTICS + names_laplace(noise, columns["analog"])
    # Rows that were stored for another function of a metric's name are as much another network's, and so are those of
    # a noise of that name whose code was another.
    columns["answer"] = " ".join(filter(None, [columns["answer"], digests(on_chips.metrics), own_code(noise)]))
    return columns | {"noise": noise.label, "strength": on_chips.strength(noise), "semantics": version}


def _target(asked: float | Target, chips: Chips, draws: range, metrics: Collection[str]) -> Target:
    if chips.reads > 1 or draws.start:
        raise UserError(
            f"expected one read of draws from 0 with a precision target, got reads={chips.reads} and "
            f"draws from {draws.start}; leave them out"
        )
    if metrics:
        raise UserError(f"expected no further metrics with a precision target, got {', '.join(metrics)}")
    return asked if isinstance(asked, Target) else Target(asked)


def _chip(
    on_chips: ModelOnChips, noise: NoiseModel, draw: int, first: int, columns: Mapping[str, Any], ledger: Ledger
) -> None:
    """The rows of one chip: one per reading and metric. Where all draws are the same, those of the ``first``."""
    on_chips.next_chip()
    for reading in on_chips.readings:
        outputs = on_chips.layer_outputs(reading["converters"])
        answer = on_chips.answer(columns["answer"], reading["converters"])
        unit = source = {**columns, "draw": draw, **reading, "layer_outputs": outputs, "answer": answer}
        if on_chips.always_same(noise, reading["converters"]):
            source = unit | {"draw": first} | on_chips.readings[0] | {"converters": reading["converters"]}
        values = ledger.find(source, on_chips.metrics)
        if values is None:
            stream = report_stream(columns["seed"], on_chips.model.replicate, draw)
            values = on_chips.score(noise, stream, **reading)
        ledger.add(unit, values)


def noise_models(noises: NoiseModel | str | Sequence[NoiseModel | str]) -> list[NoiseModel]:
    """The noise models that a person named, each once."""
    models = map(NoiseModel.parse, noises if isinstance(noises, Iterable) and not isinstance(noises, str) else [noises])
    if not (unique := list(dict.fromkeys(models))):
        raise UserError("expected at least one noise, got none; gaussian:0.05 is one")
    return unique


def draw_numbers(draws: int | range, noises: Sequence[NoiseModel] = ()) -> range:
    """The numbers of the draws: from 0 on where only their count is given; no more than ``noises`` have chips."""
    numbers = draws if isinstance(draws, range) else range(draws if isinstance(draws, Integral) else 0)
    if not numbers or min(numbers) < 0:
        raise UserError(f"expected draws >= 1, got {draws!r}; name a number of them, or a range of numbers from 0 on")
    for noise in noises:
        most = noise.measured_chips
        if most is not None and max(numbers) >= most:
            raise UserError(
                f"expected at most {most} draws, one for each chip of {noise.label}, got {max(numbers) + 1}; "
                f"ask for {most}"
            )
    return numbers
