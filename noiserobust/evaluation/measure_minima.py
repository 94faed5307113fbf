"""Measures of trained networks as tidy rows: one per network, measure and draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from noiserobust.analog.coverage import Coverage
from noiserobust.analog.noisy import report_stream
from noiserobust.data import load
from noiserobust.errors import UserError
from noiserobust.evaluation.monte_carlo import Evaluation
from noiserobust.evaluation.subjects import Models, Setup, Subject
from noiserobust.minima import MaxOverRms, Measure, Surface, measure, metric
from noiserobust.models import ModelSpec
from noiserobust.models.compute import Precision
from noiserobust.storage.ledger import Ledger
from noiserobust.storage.rows import OPERATION

SEMANTICS = 1
"""Raise when a change makes the same measure give other values, so that no stale row is taken for a new one."""

USUAL = ("loss", "average_sharpness:gaussian(0.05)", "ascent_sharpness:0.05", "gradient_norm")

Part = Literal["train", "test"]


def sharpness(
    models: Models,
    data: Any,
    measures: Measure | str | Sequence[Measure | str] = USUAL,
    seed: int = 0,
    *,
    part: Part = "test",
    strengths: Sequence[float] = (),
    model: ModelSpec | str | None = None,
    images: int | None = None,
    batch_size: int = 500,
    precision: Precision = "fp32",
    device: str | torch.device | None = None,
    channels_last: bool | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    out: str | Path | None = None,
    progress: bool = False,
) -> Evaluation:
    """What ``measures`` say of every model, in eval mode; weights are restored bit for bit.

    - ``measures``: of :mod:`noiserobust.minima`, or their texts. ``max_over_rms`` always stands beside them, since a
      net can be flat under noise proportional to its largest weight only for having no outliers.
    - ``strengths``: every measure that has a perturbation is taken at each of these strengths of it, for curves.
    - ``part``: which images, where ``data`` have a name.
    - draw k of replicate r is the draw of :func:`noiserobust.evaluate`; everything else is as there.

    Rows have evaluate's columns (``metric`` and ``value``; ``noise`` and ``strength`` say the perturbation), with
    ``measure``, the measure's text, and ``part``; ``summary()`` gives means, uncertainties and intervals. What ``out``
    already holds is not computed again. Raises :class:`~noiserobust.UserError` for what cannot be measured.
    """
    wanted = with_ratios(measures_of(measures, strengths))
    setup = Setup(model, images, batch_size, precision, device, channels_last, include, exclude)
    subjects = setup.subjects(models, part_of(data, part))
    ledger = Ledger(out, ["measure"])
    covered: dict[str, Coverage] = {}
    try:
        with tqdm(total=len(subjects) * len(wanted), unit="measure", disable=not progress, delay=1) as bar:
            for subject in subjects:
                bar.set_description(subject.method, refresh=False)
                covered[subject.name] = subject.coverage
                _fill(ledger, subject, setup, wanted, {"seed": seed, "part": part}, bar)
    finally:
        ledger.close()
    rows, order = ledger.table(), {str(one): place for place, one in enumerate(wanted)}
    rows = rows.sort_values("measure", key=lambda texts: texts.map(order), kind="stable", ignore_index=True)
    return Evaluation(rows, covered)


def measures_of(measures: Measure | str | Sequence[Measure | str], strengths: Sequence[float] = ()) -> list[Measure]:
    """The measures that a person named, each once; with ``strengths``, each at every one of them where it has any."""
    given = [measures] if isinstance(measures, (Measure, str)) else list(measures)
    wanted = [Measure.parse(one) if isinstance(one, str) else one for one in given]
    if not wanted:
        raise UserError("expected at least one measure, got none; ascent_sharpness:0.05 is one")
    if strengths:
        swept = [one for one in wanted if one.place[1] > 0]
        if not swept:
            raise UserError(f"expected a measure with a strength to sweep, got {', '.join(map(str, wanted))}")
        wanted = [o for one in wanted for o in ([one.swept(s) for s in strengths] if one in swept else [one])]
    return list(dict.fromkeys(wanted))


def with_ratios(measures: Sequence[Measure]) -> list[Measure]:
    """``measures`` and max|w| / rms(w)."""
    return list(dict.fromkeys([*measures, MaxOverRms()]))


def part_of(data: Any, part: Part) -> Any:
    """The training images of ``data`` that have a name, where those are wanted."""
    if part not in ("train", "test"):
        raise UserError(f"expected part train or test, got {part!r}")
    if isinstance(data, (str, Path)):
        splits = load(str(data))
        return splits.train if part == "train" else splits.test
    return data


def _fill(
    ledger: Ledger, subject: Subject, setup: Setup, wanted: Sequence[Measure], about: dict[str, Any], bar: tqdm
) -> None:
    """The rows of one network."""
    surface = Surface(
        subject.network,
        subject.batches,
        precision=setup.precision,
        include=setup.include,
        exclude=setup.exclude,
    )
    constant = subject.about | OPERATION | about | {"semantics": SEMANTICS, "read": 0, "t": float("nan")}

    def units(one: Measure) -> list[dict[str, Any]]:
        noise, strength = one.place
        place = {"noise": noise, "strength": strength, "measure": str(one)}
        return [constant | place | {"draw": draw} for draw in range(one.draws)]

    # Those that take gradients first: what is seen there answers the others, too. What is done is saved.
    for one in sorted(wanted, key=lambda one: one.gradients is None):
        values = [ledger.find(unit) for unit in units(one)]
        if any(value is None for value in values):
            found = measure(surface, [one], lambda draw: report_stream(about["seed"], subject.replicate, draw))[one]
            values = [{metric(one, part): value for part, value in draw.items()} for draw in found]
        for unit, value in zip(units(one), values, strict=True):
            ledger.add(unit, value or {})
        bar.update()
