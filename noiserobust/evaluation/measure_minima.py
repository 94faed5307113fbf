"""Measures of trained networks as tidy rows: one per network, measure and draw."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from noiserobust.analog.noisy import report_stream
from noiserobust.bars import Bar
from noiserobust.errors import UserError, printable
from noiserobust.evaluation.evaluated_models import EvaluatedModel, EvaluatedModels, Models
from noiserobust.evaluation.result import Result, drawn, not_finite
from noiserobust.evaluation.settings import Compute, Where, check_seed
from noiserobust.evaluation.statistics.summary import summarize
from noiserobust.minima import MaxOverRms, Measure, Surface, measure, metric
from noiserobust.models import ModelSpec
from noiserobust.noise.additive import names_laplace
from noiserobust.report import measure_table
from noiserobust.spec.kinds import typed
from noiserobust.spec.own_code import own_code
from noiserobust.storage.ledger import Ledger
from noiserobust.storage.rows import OPERATION
from noiserobust.tasks import Scorer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEMANTICS = 2
"""Raise when a change makes the same measure give other values, so that no stale row is taken for a new one."""

USUAL = ("loss", "average_sharpness:gaussian(0.05)", "ascent_sharpness:0.05", "gradient_norm")

PASS = 500
"""Images per pass, where nothing is said."""

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Sharpness(Result):
    """Measures of minima. ``rows`` have evaluate's columns (``noise`` and ``strength`` say the perturbation), with
    ``measure``, the measure's text, and ``part``."""

    @property
    def nan_answers(self) -> str:
        return not_finite(self.rows)

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """Mean, standard deviations over draws and trained models, and interval of every measure
        (:func:`~noiserobust.evaluation.summarize`)."""
        return summarize(self.rows, confidence)

    def table(self, markdown: bool = False, confidence: float = 0.95) -> str:
        """A line per measure, perturbation and method."""
        text = measure_table(self.summary(confidence), markdown)
        return "\n\n".join(filter(None, [text, self.nan_answers]))

    def plot(self, path: str | Path | None = None, confidence: float = 0.95) -> Figure:
        """Every measure taken at several strengths, against the strength; a PNG where ``path`` is given."""
        from noiserobust.report.curves import measures_figure

        return drawn(measures_figure(self.summary(confidence)), path)


@typed
def sharpness(
    models: Models,
    data: Any = None,
    measures: Measure | str | Sequence[Measure | str] = USUAL,
    seed: int = 0,
    *,
    part: Part = "test",
    strengths: Sequence[float] = (),
    images: int | None = None,
    model: ModelSpec | str | None = None,
    task: Any = None,
    compute: Compute = Compute(),
    where: Where = Where(),
    out: str | Path | None = None,
    progress: bool = False,
) -> Sharpness:
    """How sharp the minima are in which trained networks lie: what ``measures`` say of every model, in eval mode.

    - ``measures``: of :mod:`noiserobust.minima`, or their texts. ``max_over_rms`` always stands beside them, since a
      net can be flat under noise proportional to its largest weight only for having no outliers.
    - ``strengths``: every measure that has a perturbation is taken at each of these strengths of it, for curves.
    - ``part``: which images, ``"train"`` or ``"test"``, where ``data`` have a name.
    - draw k of replicate r is the draw of :func:`noiserobust.evaluate`; everything else is as there. A pass takes 500
      images where ``compute`` does not say another batch size.

    Afterwards weights are as before, bit for bit. Raises :class:`~noiserobust.UserError` for what cannot be measured.
    """
    check_seed(seed)
    kinds = list(dict.fromkeys([*measures_of(measures, strengths), MaxOverRms()]))
    compute = compute.with_batches_of(PASS)
    networks = EvaluatedModels(models, data, part, images=images, model=model, task=task, compute=compute, where=where)
    bar = Bar(total=len(networks) * len(kinds), unit="measure", disable=not progress, delay=1)
    with closing(Ledger(out, ["measure"])) as ledger, bar:
        for one in networks:
            bar.set_description(printable(one.method), refresh=False)
            _fill(ledger, one, kinds, {"seed": seed, "part": part}, bar)
    rows, order = ledger.table(), {str(one): place for place, one in enumerate(kinds)}
    rows = rows.sort_values("measure", key=lambda texts: texts.map(order), kind="stable", ignore_index=True)
    return Sharpness(rows, coverage=networks.coverage)


def surface_of(model: EvaluatedModel) -> Surface:
    """Where the measures of ``model`` are taken."""
    if isinstance(model.task, Scorer):
        raise UserError(f"expected a task with losses of samples for measures and landscapes, got {model.task}")
    precision = model.compute.precision
    return Surface(model.network, model.batches, task=model.task, precision=precision, **model.where.patterns)


def measures_of(measures: Measure | str | Sequence[Measure | str], strengths: Sequence[float] = ()) -> list[Measure]:
    """The measures that a person named, each once; with ``strengths``, each at every one of them where it has any."""
    parsed = [Measure.parse(one) for one in ([measures] if isinstance(measures, (Measure, str)) else measures)]
    if not parsed:
        raise UserError("expected at least one measure, got none; ascent_sharpness:0.05 is one")
    if strengths and not any(one.place[1] > 0 for one in parsed):
        raise UserError(f"expected a measure with a strength to sweep, got {', '.join(map(str, parsed))}")
    swept = [[one.swept(s) for s in strengths] if strengths and one.place[1] > 0 else [one] for one in parsed]
    return list(dict.fromkeys(one for several in swept for one in several))


def _fill(
    ledger: Ledger,
    model: EvaluatedModel,
    kinds: Sequence[Measure],
    settings: dict[str, Any],
    bar: Bar,
) -> None:
    """The rows of one network."""
    surface = surface_of(model)
    constant = OPERATION | model.columns | settings | {"read": 0, "t": float("nan")}

    def units(one: Measure) -> list[dict[str, Any]]:
        noise, strength = one.place
        version = SEMANTICS + names_laplace(one, constant["analog"])
        place = {"noise": noise, "strength": strength, "measure": str(one), "semantics": version}
        place["answer"] = f"{constant['answer']} {own_code(one)}".strip()
        return [constant | place | {"draw": draw} for draw in range(one.draws)]

    # Those that take gradients first: their passes give the other measures, too. Each is stored when it is done.
    for one in sorted(kinds, key=lambda one: one.gradients is None):
        values = [ledger.find(unit) for unit in units(one)]
        if any(value is None for value in values):
            draws = measure(surface, [one], lambda draw: report_stream(settings["seed"], model.replicate, draw))[one]
            values = [{metric(one, part): value for part, value in draw.items()} for draw in draws]
        for unit, value in zip(units(one), values, strict=True):
            ledger.add(unit, value or {})
        bar.update()
