"""Accuracy under noise to a stated precision: draws and images are decided on the way, and the work stops by itself.

Per model, noise and reading: every draw's accuracy is estimated from a fresh subset of the images
(:mod:`noiserobust.evaluation.precision.subsets`), until the t interval of their mean is narrow enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from noiserobust.analog.noisy import report_stream
from noiserobust.bars import Bar
from noiserobust.errors import UserError
from noiserobust.evaluation.on_chips import ModelOnChips
from noiserobust.evaluation.precision.subsets import PILOT, Answered, Subsets, WholePasses
from noiserobust.evaluation.precision.two_phase import difference_weights
from noiserobust.evaluation.statistics.components import require_confidence
from noiserobust.models.compute import device_of
from noiserobust.noise import NoiseModel
from noiserobust.report.leading import metric_of
from noiserobust.rng import Stream
from noiserobust.spec.kinds import check_fields
from noiserobust.storage.ledger import Ledger
from noiserobust.storage.rows import OPERATION, completed
from noiserobust.storage.stored import told_apart
from noiserobust.tasks import Score

CELL = ["method", "model", "replicate", "noise", "strength", "t", *(name for name in OPERATION if name != "subset")]
CHECK_EVERY = 8  # draws
DRAW_COST = {"cpu": 20.0}
BF16_DRAW_COST = {"cpu": 30.0}
OTHER_DRAW_COST = 250.0
"""What a draw costs beside its images, in images' forward passes, by device. On accelerators it is an assumption: a
subset fills none of them, so that its launches count, not its images."""


@dataclass(frozen=True)
class Target:
    """Accuracy to ± ``half_width`` points with ``confidence``, over noise draws; and where to give up.

    ``max_draws`` and ``max_images`` (images' forward passes) are per model, noise and reading. ``noise_std_draws``:
    draws of a second, fixed design that measures the noise's standard deviation (0: none; from 32). ``by_bf16``:
    networks compute most answers in bf16, and some again in float32, which corrects the first: the accuracy is that of
    float32, sooner (:mod:`~noiserobust.evaluation.precision.two_phase`). Raises :class:`~noiserobust.UserError` for
    what cannot be.
    """

    half_width: float
    confidence: float = 0.95
    max_draws: int = 10_000
    max_images: int = 1_000_000
    noise_std_draws: int = 0
    by_bf16: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.half_width < 50:
            raise UserError(
                f"expected a precision target in percentage points between 0 and 50, got {self.half_width}; "
                "0.5 asks for accuracy ± 0.5"
            )
        require_confidence(self.confidence)
        for name, value, least in (
            ("max_draws", self.max_draws, PILOT),
            ("max_images", self.max_images, 1),
            ("noise_std_draws", self.noise_std_draws, PILOT if self.noise_std_draws else 0),
        ):
            if value < least:
                raise UserError(f"expected {name} >= {least}, got {value}")
        if self.by_bf16 and self.noise_std_draws:
            raise UserError("expected no noise_std_draws with by_bf16, whose correction would count as noise")


def measure_to_precision(
    target: Target,
    on_chips: ModelOnChips,
    noise: NoiseModel,
    reading: Mapping[str, Any],
    columns: Mapping[str, Any],
    ledger: Ledger,
    bar: Bar,
) -> None:
    """Rows of one model, noise and reading into ``ledger`` until they are precise enough, or given up.

    ``columns`` are those that all of the rows share; what ``ledger`` holds already is not computed again.
    """
    model, seed, metric = on_chips.model, columns["seed"], on_chips.model.task.metric
    if isinstance(model.task, Score):
        raise UserError(
            f"expected a task with a metric of its own for a precision, got {model.task}; name draws instead"
        )

    def correct(draw: int, positions: np.ndarray) -> Answered:
        on_chips.next_chip()
        return on_chips.correct(noise, report_stream(seed, model.replicate, draw), positions, **reading)

    def by_bf16(draw: int, positions: np.ndarray) -> Answered:
        on_chips.next_chip()
        generator = np.random.Generator(np.random.PCG64(stream.child("looks", draw).integer()))
        named = report_stream(seed, model.replicate, draw)
        return on_chips.correct_by_bf16(
            noise, named, positions, partial(difference_weights, generator=generator), **reading
        )

    def whole(draw: int) -> dict[str, float]:
        on_chips.next_chip()
        return on_chips.score(noise, report_stream(seed, model.replicate, draw), **reading)

    def values(subset: str, compute: Callable[[int], dict[str, float]], draw: int) -> dict[str, float]:
        unit = {**columns, **reading, "layer_outputs": outputs, "subset": subset, "draw": draw}
        stored = ledger.find(unit)
        row = compute(draw) if stored is None else stored
        ledger.add(unit, row)
        bar.update()
        return row

    outputs = on_chips.layer_outputs(reading["converters"])
    columns = {**columns, "answer": on_chips.answer(columns["answer"], reading["converters"])}
    same = on_chips.always_same(noise, reading["converters"])
    answered, quick = metric == "accuracy" and model.task.right_or_wrong, target.by_bf16 and not same
    if target.by_bf16:
        if model.compute.precision != "fp32" or not answered:
            raise UserError(
                f"expected samples that are right or wrong, and precision fp32, with by_bf16, got {model.task} in "
                f"{model.compute.precision}; leave it out"
            )
        columns = {**columns, "precision": "fp32 by bf16"}
    stream = Stream(seed, "subset", model.replicate, str(noise), repr(sorted(reading.items())))
    costs = BF16_DRAW_COST if quick else DRAW_COST
    draw_cost = costs.get(device_of(model.network).type, OTHER_DRAW_COST)
    if answered:
        subsets: Subsets | WholePasses = Subsets(
            len(model.dataset),
            lambda: on_chips.quick_margins if quick else on_chips.margins,
            by_bf16 if quick else correct,
            stream,
            draw_cost,
        )
    else:
        subsets = WholePasses(len(model.dataset), metric, whole)
    if same:
        values("stopped", subsets.everything, 0)
        return
    until_precise(target, partial(values, "stopped", subsets.until_precise), metric)
    for draw in range(target.noise_std_draws):
        values("fixed", subsets.for_noise_std, draw)


def until_precise(
    target: Target, values: Callable[[int], dict[str, float]], metric: str = "accuracy"
) -> list[dict[str, float]]:
    """The ``values`` of draws 0, 1, ... until the mean of ``metric`` is precise enough, or the target gives up."""
    known: list[dict[str, float]] = []
    accuracies, steps, images = [], [], 0.0
    for draw in range(target.max_draws):
        one = values(draw)
        known.append(one)
        accuracies.append(one[f"subset_{metric}"])
        steps.append(one["subset_step"])
        images += one["subset_images"]
        if len(known) < PILOT:
            continue
        if images >= target.max_images or not math.isfinite(accuracies[-1]):
            break
        # Not after every draw: each check is another chance to stop on a width that is small by luck.
        if (len(known) - PILOT) % CHECK_EVERY:
            continue
        if half_width(np.array(accuracies), np.array(steps), target.confidence) <= target.half_width:
            break
    return known


def half_width(accuracies: np.ndarray, steps: np.ndarray, confidence: float = 0.95) -> float:
    """Half the width of the interval for the mean of K draws' ``accuracies``, in their units.

        t_{(1 + confidence) / 2, K - 1} sqrt(S^2 / K (1 + 10 / K)),    S^2 = var (ddof 1)

    The factor 1 + 10 / K pays for checking again and again and for skewed accuracies. It is at least the "rule of
    three" bound -log(1 - confidence) / sum_k 1 / ``steps``[k]: what a group of images may hide of which all answers
    so far agreed, where an image stands for ``steps`` (0: nothing is hidden). A single value is taken as exact.
    """
    from scipy.special import stdtrit  # scipy.stats takes long to load

    count = len(accuracies)
    if count < 2:
        return 0.0
    spread = float(np.var(accuracies, ddof=1))
    width = float(stdtrit(count - 1, (1 + confidence) / 2)) * math.sqrt(spread / count * (1 + 10 / count))
    hidden = 0.0 if (steps == 0).any() else -math.log(1 - confidence) / float((1 / steps).sum())
    return max(width, hidden)


def noise_std(accuracies: np.ndarray, variances: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """(s, low, high): std over draws of the accuracy on all images, from a fixed number K of draws' subsets.

    s^2 = S^2 - mean ``variances``, the second being what the subsets add. The interval takes d S^2 as a chi-square
    with d = 2 K / max(kurtosis - 1, 0.5) degrees of freedom, kurtosis that of the accuracies (3 for a normal
    distribution). Numbers below 0 are 0.
    """
    from scipy import stats

    total, added, tail = float(np.var(accuracies, ddof=1)), float(np.mean(variances)), (1 - confidence) / 2
    if total == 0:
        return 0.0, 0.0, 0.0
    freedom = 2 * len(accuracies) / max(float(stats.kurtosis(accuracies, fisher=False)) - 1, 0.5)
    low, high = (freedom * total / stats.chi2.ppf(p, freedom) for p in (1 - tail, tail))
    s, low, high = (math.sqrt(max(value - added, 0.0)) for value in (total, low, high))
    return s, low, high


def summarize_to_precision(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per (method, model, noise, t, ...) of rows that were evaluated to a precision; accuracy in percent (or
    the task's metric in its unit).

    - ``mean``, ``half_width``: the accuracy is mean ± half_width, with ``confidence``, over noise draws at this model
      (``interval_over``); it says nothing about training again. half_width is the ``target`` where that was
      ``reached``: stopping on the width itself makes smaller ones too small. Else it is what was come to.
    - ``low``, ``high``: mean ∓ half_width
    - ``draws``, ``images_per_draw`` (the last one's), ``image_forwards``: what it cost, beside one clean pass a model
    - ``noise_std``, ``noise_std_low``, ``noise_std_high``: :func:`noise_std` of the fixed design, NaN without one

    Raises :class:`~noiserobust.UserError` for rows without any such.
    """
    kinds = rows[rows["subset"] != "all"] if "subset" in rows else rows.iloc[:0]
    if kinds.empty:
        raise UserError("expected rows that were evaluated to a precision, got none; evaluate with precision_target")
    kinds = completed(kinds)
    lines = []
    for key, cell in kinds.groupby(CELL, sort=False, dropna=False, observed=True):
        stopped, fixed = (cell[cell["subset"] == kind] for kind in ("stopped", "fixed"))
        what = f"{cell['noise'].iloc[0]} of {cell['model'].iloc[0]}"
        if stopped.empty:
            raise UserError(f"expected the draws of {what} that stopped at its precision, got its fixed design alone")
        unit = ["subset", "draw", "metric"]
        if (doubled := cell.duplicated(unit)).any():
            twins = cell[(cell[unit] == cell[doubled].iloc[0][unit]).all(axis=1)]
            remedy = told_apart(twins) or f"drop the {doubled.sum()} doubled rows"
            raise UserError(f"expected every draw of {what} once, got several; {remedy}")
        # A file may hold draws of several targets: the one that went furthest made the last.
        last = stopped.sort_values("draw").iloc[-1]
        target, confidence = float(last["target"]), float(last["confidence"])
        line: dict[str, Any] = dict(zip(CELL, key, strict=True)) | {"target": target, "confidence": confidence}
        by_draw, spread = (_renamed(_by_draw(part), metric_of(cell)) for part in (stopped, fixed))
        values = _accuracy(by_draw, target, confidence) | _spread(spread, confidence)
        lines.append(line | values | {"metric": metric_of(cell)})
    return pd.DataFrame(lines)


def over_models(precise: pd.DataFrame) -> pd.DataFrame:
    """One line per (method, noise, t, ...) of :func:`summarize_to_precision`'s: mean, noise_std and weight_std.

    ``mean`` and ``weight_std`` (ddof 1) are over the models' means, ``noise_std`` the root of the models' mean square,
    ``models`` their number, ``draws`` those of the one that took most.
    """
    key = [name for name in CELL if name not in ("model", "replicate")]
    groups = precise.groupby(key, sort=False, dropna=False, observed=True)
    table = groups.agg(
        mean=("mean", "mean"),
        noise_std=("noise_std", lambda s: float(np.sqrt((s**2).mean(skipna=False)))),
        weight_std=("mean", "std"),
        models=("mean", "size"),
        draws=("draws", "max"),
    )
    return table.reset_index().assign(metric=precise["metric"].iloc[0], subset=OPERATION["subset"])


def _by_draw(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Metric -> its values, draw after draw."""
    table = rows.pivot(index="draw", columns="metric", values="value").sort_index()
    return {str(metric): table[metric].to_numpy(float) for metric in table}


def _renamed(values: dict[str, np.ndarray], metric: str) -> dict[str, np.ndarray]:
    """What was measured under the name that the formulas have for it, whatever the metric."""
    return {"subset_accuracy" if name == f"subset_{metric}" else name: value for name, value in values.items()}


def _accuracy(values: Mapping[str, np.ndarray], target: float, confidence: float) -> dict[str, Any]:
    mean, width = values["subset_accuracy"].mean(), _width(values, confidence)
    reported = max(width, target) if len(values["subset_accuracy"]) > 1 else width
    images = values["subset_images"]
    return {
        "mean": mean,
        "half_width": reported,
        "low": mean - reported,
        "high": mean + reported,
        "reached": width <= target,
        "draws": len(images),
        "images_per_draw": int(images[-1]),
        "image_forwards": int(images.sum()),
        "interval_over": "draws",
    }


def _spread(values: Mapping[str, np.ndarray], confidence: float) -> dict[str, Any]:
    names = ["noise_std", "noise_std_low", "noise_std_high"]
    if not values:
        return dict.fromkeys(names, math.nan) | {"noise_std_draws": 0, "noise_std_forwards": 0}
    spread = noise_std(values["subset_accuracy"], values["subset_variance"], confidence)
    sizes = {"noise_std_draws": len(values["subset_images"]), "noise_std_forwards": int(values["subset_images"].sum())}
    return dict(zip(names, spread, strict=True)) | sizes


def _width(values: Mapping[str, np.ndarray], confidence: float) -> float:
    return half_width(values["subset_accuracy"], values["subset_step"], confidence)
