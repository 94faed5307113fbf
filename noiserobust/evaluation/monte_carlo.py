"""Monte Carlo evaluation: one row per model, noise, draw and read; aggregation comes last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from noiserobust.analog.backends import Backend
from noiserobust.analog.converters import Converters
from noiserobust.analog.coverage import Coverage
from noiserobust.analog.noisy import report_stream
from noiserobust.data import Labelled, load
from noiserobust.errors import UserError
from noiserobust.evaluation.chips import Chips
from noiserobust.evaluation.precision.to_precision import (
    Measurement,
    Target,
    measure_to_precision,
    summarize_to_precision,
)
from noiserobust.evaluation.statistics.summary import paired, summarize
from noiserobust.evaluation.subjects import Models, Setup
from noiserobust.evaluation.together import Draws
from noiserobust.models import ModelSpec
from noiserobust.models.compute import Precision
from noiserobust.noise import Compensation, Gaussian, Laplace, NoiseModel, Sum, check_compensation
from noiserobust.rng import Stream, kept_fields
from noiserobust.spec import Duration
from noiserobust.storage.ledger import SEMANTICS, Ledger
from noiserobust.storage.rows import OPERATION
from noiserobust.tasks.metrics import Metric, known_metrics


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found: tidy ``rows`` and, per model, which weights were noisy, and which of those had no
    converters at their layer's edge though converters were asked for, with the reason."""

    rows: pd.DataFrame
    coverage: dict[str, Coverage] = field(default_factory=dict)
    uncovered: dict[str, dict[str, str]] = field(default_factory=dict)
    conversion: dict[str, str] = field(default_factory=dict)
    """Per model, one line: what the backend computes, and what it leaves to the direct path and why."""
    speed: dict[str, str] = field(default_factory=dict)
    """Per model, one line: what was done so that its draws are fast, and what could not be, and why."""

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """Mean, noise_std, weight_std, variance components and interval (:func:`statistics.summarize`); of what was
        evaluated to a precision :func:`to_precision.summarize_to_precision`, with the confidence asked for there."""
        if (self.rows["subset"] != "all").all():
            return summarize_to_precision(self.rows)
        return summarize(self.rows, confidence)

    def paired(self, method_a: str, method_b: str, confidence: float = 0.95, metric: str = "accuracy") -> pd.DataFrame:
        """Difference a - b on shared replicates and draws, with its interval (:func:`statistics.paired`)."""
        return paired(self.rows, method_a, method_b, confidence, metric)


def evaluate(
    models: Models,
    data: Any,
    noises: NoiseModel | str | Sequence[NoiseModel | str],
    draws: int = 10,
    seed: int = 0,
    *,
    first_draw: int = 0,
    times: Sequence[float | str | None] = (None,),
    reads: int = 1,
    compensation: Compensation | Sequence[Compensation] = "none",
    converters: Converters | str | Sequence[Converters | str] = "none",
    recalibration: int = 0,
    calibration: Any = None,
    backend: Backend | str = "direct",
    model: ModelSpec | str | None = None,
    images: int | None = None,
    batch_size: int | None = None,
    precision: Precision = "fp32",
    device: str | torch.device | None = None,
    channels_last: bool | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    metrics: Mapping[str, Metric] | Sequence[str] = (),
    out: str | Path | Ledger | None = None,
    progress: bool = False,
    precision_target: float | Target | None = None,
    fold: bool = True,
    compile: bool = False,
    together: Draws = "auto",
) -> Evaluation:
    """Accuracy (percent) and loss (nats) of every model under every draw of every noise.

    - ``models``: a module, a checkpoint's path, a sequence of them (copies of one method, or checkpoints that say which
      method trained them), or a mapping from method to either. A replicate is one trained copy: a checkpoint's training
      seed, a module's position. Methods share the draws of a replicate, so their difference is paired; replicates have
      independent draws.
    - ``data``: a name or path that :func:`noiserobust.data.load` knows (its test part), a Dataset, ``(x, y)``
      tensors, a
      torch dataset or a DataLoader. ``images`` takes a random sample of it, stratified by class.
    - ``noises``: noise models or their texts. A strength sweep scales one and the same draw.
    - ``first_draw``: the number of the first draw, so that the draws of one evaluation can be made in several places.
    - ``times``: seconds since programming, or texts such as ``"1h"``; ``None`` is the noise model's own time. A draw is
      one chip: it keeps its programming error and drift exponents over its times and its ``reads``.
    - ``compensation``: ``"none"``, ``"global"``, ``"column"``, or several, on the same chips
      (:mod:`noiserobust.noise.compensation`).
    - ``converters``: ADC, DAC and output noise at the arrays' edges, such as ``"io:dac=8,adc=8,noise=0.06"``
      (:class:`noiserobust.analog.converters.Converters`), or several, on the same chips.
    - ``recalibration``: that many training images, through which each chip's batch norms learn their statistics anew at
      each time before it is scored (0: they keep the digital network's). ``calibration`` are those images, as ``data``
      are given; by default the training part of ``data`` where that has a name. Converters with a percentile learn
      their ranges from them, too.
    - ``backend``: what computes: ``"direct"``, the network itself, or ``"aihwkit"``, the full chip with its converters,
      output noise and tiles, written with the same chips' weights (:class:`noiserobust.analog.backends.Aihwkit`).
    - ``model``: how to build the network of a checkpoint that does not say it.
    - ``batch_size``: images per forward pass; by default what suits the device (:mod:`noiserobust.tasks.batches`).
    - ``channels_last``: memory format of the images; by default that of networks built here from checkpoints, while a
      module that is handed over gets contiguous ones (its ``view`` may need them).
    - ``include``, ``exclude``: which weights are noisy (:func:`noiserobust.analog_weights`).
    - ``metrics``: further metrics: names such as ``"perplexity"`` or ``"package.module:function"``, or functions by
      name, each from all logits (N, C) and labels (N) to a number. A row of a file is known by the metric's name.
    - ``out``: a parquet file for the rows; those it already holds are not computed again, and it is brought up to date
      while the work goes on, so that a killed evaluation loses seconds.
    - ``precision_target``: accuracy to ± that many points at 95 % instead of a number of draws (``draws`` is not used);
      draws and images are decided on the way (:mod:`noiserobust.evaluation.precision`, whose ``Target`` has further
      settings). Its rows are subsets' and lie apart from those of full passes; ``summary()`` is mean ± half_width per
      model.
    - ``fold``: batch norms that directly follow a noisy layer are multiplied into its noisy weights, draw by draw:
      equal to rounding, and faster (:mod:`noiserobust.analog.folding`).
    - ``compile``: the network is compiled by ``torch.compile``, once for all draws.
    - ``together``: draws that are computed in one pass (:mod:`noiserobust.evaluation.together`): a number, or what a
      short trial finds (``"trial"``; ``"auto"``: only small networks on accelerators). Equal to rounding.

    Draw k of replicate r is ``noiserobust.perturbed(model, noise, seed=seed, replicate=r, draw=k)``, inside
    ``noiserobust.analog.converters.converted`` of the same names where there are converters. The models'
    weights and modes are as before afterwards. Raises :class:`~noiserobust.UserError` for input that cannot be
    evaluated.
    """
    wanted = noise_models(noises)
    counts = {
        "draws": (draws, 1),
        "first_draw": (first_draw, 0),
        "reads": (reads, 1),
        "recalibration": (recalibration, 0),
        "together": (together if isinstance(together, int) else 1, 1),
    }
    for name, (value, least) in counts.items():
        if value < least:
            raise UserError(f"expected {name} >= {least}, got {value}")
    edges = _converters(converters)
    looks = _looks(times, reads, compensation, edges)
    backend = Backend.parse(backend) if isinstance(backend, str) else backend
    if str(backend) != "direct" and set(edges) != {"none"}:
        raise UserError(f"expected converters none with backend {backend}, which has its own, got {', '.join(edges)}")
    setup = Setup(
        model, images, batch_size, precision, device, channels_last, include, exclude, fold, compile, together
    )
    further = known_metrics(metrics)
    # Batch norm's images, and those of each converter's ranges.
    learnt_from = {
        text: _calibration(calibration, data, count)
        for text, count in [("", recalibration), *((text, edge.calibration) for text, edge in edges.items())]
    }
    # The same images serve several purposes, or none.
    calibrated_on = dict.fromkeys(images for images in learnt_from.values() if images is not None)
    subjects = setup.subjects(models, data, list(calibrated_on))
    ledger = out if isinstance(out, Ledger) else Ledger(out)
    covered: dict[str, Coverage] = {}
    uncovered: dict[str, dict[str, str]] = {}
    conversion: dict[str, str] = {}
    speed: dict[str, str] = {}
    settings = OPERATION | {"seed": seed, "recalibration": recalibration, "semantics": SEMANTICS}
    settings |= {"backend": str(backend)}
    if precision_target is not None:
        target = precision_target if isinstance(precision_target, Target) else Target(precision_target)
        if reads > 1 or first_draw:
            raise UserError(
                f"expected one read of draws from 0 with a precision target, got reads={reads} and "
                f"first_draw={first_draw}; leave them out"
            )
        if further:
            raise UserError(f"expected no further metrics with a precision target, got {', '.join(further)}")
        measurements = (
            Measurement(subject, Chips(subject, setup, learnt_from, {}, edges, backend, once=True), precision, seed)
            for subject in subjects
        )
        try:
            for one in measure_to_precision(target, measurements, wanted, looks, settings, ledger, progress):
                covered[one.subject.name] = one.subject.coverage
                uncovered[one.subject.name], conversion[one.subject.name] = one.chips.uncovered, one.chips.opened.report
                speed[one.subject.name] = one.chips.speed
        finally:
            ledger.close()
        return Evaluation(ledger.table(), covered, uncovered, conversion, speed)
    total = len(subjects) * len(wanted) * draws * len(looks)
    try:
        with tqdm(total=total, unit="read", disable=not progress, delay=1) as bar:
            for position, subject in enumerate(subjects):
                bar.set_description(subject.method, refresh=False)
                covered[subject.name] = subject.coverage
                chips = Chips(subject, setup, learnt_from, further, edges, backend, once=len(looks) == 1)
                monte_carlo = _MonteCarlo(chips, ledger, settings, looks, seed, first_draw, position, bar)
                monte_carlo.run(wanted, draws)
                uncovered[subject.name], conversion[subject.name] = chips.uncovered, chips.opened.report
                speed[subject.name] = chips.speed
    finally:
        ledger.close()
    return Evaluation(ledger.table(), covered, uncovered, conversion, speed)


@dataclass
class _MonteCarlo:
    """One subject's rows, draw after draw: all noises of a draw follow each other, since they share its fields."""

    chips: Chips
    ledger: Ledger
    settings: Mapping[str, Any]
    looks: Sequence[Mapping[str, Any]]
    seed: int
    first_draw: int
    position: int
    bar: Any

    def run(self, noises: Sequence[NoiseModel], draws: int) -> None:
        random = [noise for noise in noises if not noise.is_identity]
        unknown = [(noise, draw) for noise in random for draw in self.draws_of(draws) if not self.found(noise, draw)]
        together = self.chips.take_together(unknown[0][0], len({draw for _, draw in unknown})) if unknown else 1
        for start in range(0, draws, together):
            chunk = self.draws_of(draws)[start : start + together]
            for group in sharing(noises):
                with kept_fields() if len(group) > 1 else nullcontext():
                    for noise in group:
                        self.chunk(noise, chunk, noises.index(noise))

    def draws_of(self, draws: int) -> range:
        return range(self.first_draw, self.first_draw + draws)

    def chunk(self, noise: NoiseModel, draws: Sequence[int], place: int) -> None:
        """The rows of some draws; those of small networks are computed together."""
        chips, ledger, ready = self.chips, self.ledger, {}
        if chips.together and not noise.is_identity:
            missing = [draw for draw in draws if not self.found(noise, draw)]
            values = chips.score_together(noise, [self.stream(draw) for draw in missing], **self.looks[0])
            ready = dict(zip(missing, values, strict=True))
        for draw in draws:
            chips.scrap()
            for look in self.looks:
                known = self.found(noise, draw, look) or ready.get(draw)
                known = known or chips.score(noise, self.stream(draw), **look)
                ledger.add(self.unit(noise, draw, look), known, (self.position, place, draw))
                self.bar.update()

    def unit(self, noise: NoiseModel, draw: int, look: Mapping[str, Any]) -> dict[str, Any]:
        about = {"noise": str(noise), "strength": noise.strength, "draw": draw}
        return self.chips.subject.about | dict(self.settings) | about | dict(look)

    def found(self, noise: NoiseModel, draw: int, look: Mapping[str, Any] | None = None) -> dict[str, float] | None:
        """What the ledger knows already, of this very look or of one that is always the same."""
        look = self.looks[0] if look is None else look
        unit, edge = self.unit(noise, draw, look), {"converters": look["converters"]}
        same = self.chips.always_same(noise, look["converters"])
        known = unit | ({"draw": self.first_draw, **self.looks[0], **edge} if same else {})
        return self.ledger.find(known, self.chips.metrics)

    def stream(self, draw: int) -> Stream:
        return report_stream(self.seed, self.chips.subject.replicate, draw)


def sharing(noises: Sequence[NoiseModel]) -> list[list[NoiseModel]]:
    """The ``noises`` in groups that need the same random fields, one per part; others are alone.

    Only noises whose fields are as many as their parts: a device profile's six, and each read's own, would be as many
    more copies of the weights.
    """
    groups: dict[Any, list[NoiseModel]] = {}
    for noise in noises:
        parts = noise.parts if isinstance(noise, Sum) else (noise,)
        simple = all(isinstance(part, (Gaussian, Laplace)) and getattr(part, "per", "chip") == "chip" for part in parts)
        groups.setdefault(tuple(type(part) for part in parts) if simple else noise, []).append(noise)
    return list(groups.values())


def noise_models(noises: NoiseModel | str | Sequence[NoiseModel | str]) -> list[NoiseModel]:
    """The noise models that a person named, each once."""
    given = [noises] if isinstance(noises, (NoiseModel, str)) else list(noises)
    wanted = [NoiseModel.parse(noise) if isinstance(noise, str) else noise for noise in given]
    if not wanted:
        raise UserError("expected at least one noise, got none; gaussian:0.05 is one")
    return list(dict.fromkeys(wanted))


def _looks(
    times: Sequence[float | str | None],
    reads: int,
    compensation: Compensation | Sequence[Compensation],
    converters: Mapping[str, Converters],
) -> list[dict[str, Any]]:
    """Every way in which a chip is looked at, as columns of its rows; no time is NaN."""
    kinds = [compensation] if isinstance(compensation, str) else list(compensation)
    for kind in kinds:
        check_compensation(kind)
    if isinstance(times, str) or not list(times) or not kinds:
        raise UserError(f'expected a list of times and compensations, got {times!r} and {kinds}; ["1h"] is one time')
    seconds = [float("nan") if t is None else float(Duration(t)) for t in times]
    return [
        {"t": t, "read": read, "compensation": kind, "converters": edge}
        for t, read, kind, edge in product(dict.fromkeys(seconds), range(reads), dict.fromkeys(kinds), converters)
    ]


def _converters(converters: Converters | str | Sequence[Converters | str]) -> dict[str, Converters]:
    """The converters that a person named, by their text."""
    given = [converters] if isinstance(converters, (Converters, str)) else list(converters)
    wanted = [Converters.parse(edge) if isinstance(edge, str) else edge for edge in given]
    if not wanted:
        raise UserError('expected converters, got none; "none" are ideal ones')
    return {str(edge): edge for edge in wanted}


def _calibration(calibration: Any, data: Any, images: int) -> Labelled | None:
    """The training images to calibrate from: a sample stratified by class, the same for every chip."""
    if not images:
        return None
    if calibration is None and not isinstance(data, (str, Path)):
        raise UserError("expected calibration=... (training images) to calibrate from, since data have no name")
    source = data if calibration is None else calibration
    whole = load(str(source)).train if isinstance(source, (str, Path)) else Setup().dataset(source)
    return whole.sample(images, Stream(0, "calibration"))
