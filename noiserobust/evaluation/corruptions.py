"""Accuracy on corrupted images: CIFAR-10-C and CIFAR-100-C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from noiserobust.analog.coverage import Coverage
from noiserobust.bars import Bar
from noiserobust.data.corrupted import CORRUPTIONS, load_corrupted
from noiserobust.evaluation.evaluated_models import Models, methods_of, trained_copies
from noiserobust.evaluation.monte_carlo import evaluate
from noiserobust.evaluation.result import Result, drawn
from noiserobust.evaluation.settings import Chips, Compute, Where
from noiserobust.evaluation.statistics.summary import summarize
from noiserobust.evaluation.trained_ranges import suited
from noiserobust.models import ModelSpec
from noiserobust.noise import NoiseModel
from noiserobust.report import robustness_table
from noiserobust.spec.kinds import typed
from noiserobust.storage.ledger import Ledger
from noiserobust.storage.provenance import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Corrupted(Result):
    """Accuracy on corrupted images: evaluate's ``rows`` with two further columns, ``corruption`` and ``severity``."""

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """:func:`~noiserobust.evaluation.summarize` of the mean over corruptions, for every ``severity``."""
        one_file = ["corruption", "data", "answer", *provenance(), "value"]
        rest = [name for name in self.rows if name not in one_file]
        groups = self.rows.groupby(rest, sort=False, dropna=False)["value"]
        mean = groups.agg(lambda values: values.mean(skipna=False)).reset_index()  # what diverged must show
        parts = [summarize(rows, confidence).assign(severity=severity) for severity, rows in mean.groupby("severity")]
        return pd.concat(parts, ignore_index=True)

    def table(self, markdown: bool = False, confidence: float = 0.95) -> str:
        """Evaluate's table of the mean over corruptions, for every severity."""
        title = f"severity {{}}, mean over {self.rows['corruption'].nunique()} corruptions\n"
        return "\n\n".join(
            title.format(severity) + "\n" * markdown + robustness_table(lines, markdown=markdown)
            for severity, lines in self.summary(confidence).groupby("severity")
        )

    def plot(self, path: str | Path | None = None, confidence: float = 0.95) -> Figure:
        """Accuracy against severity; a PNG where ``path`` is given."""
        from noiserobust.report.curves import severity_figure

        return drawn(severity_figure(self.summary(confidence)), path)


@typed
def corrupted(
    models: Models,
    data: str | Path,
    noises: NoiseModel | str | Sequence[NoiseModel | str] = "gaussian:0",
    draws: int | range = 1,
    seed: int = 0,
    *,
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    images: int | None = None,
    model: ModelSpec | str | None = None,
    task: Any = None,
    chips: Chips = Chips(),
    compute: Compute = Compute(),
    where: Where = Where(),
    out: str | Path | None = None,
    progress: bool = False,
) -> Corrupted:
    """How accurate networks stay on corrupted images, for every corruption and severity; and under weight noise.

    - ``data``: the folder that :func:`noiserobust.data.corrupted.load_corrupted` reads.
    - ``corruptions``: some of its files' names (default: the usual fifteen); ``severities``: 1 to 5.
    - ``noises``: weight noise on top; by default none. Everything else is as in :func:`noiserobust.evaluate`.

    A forward pass over the images per corruption, severity, model, noise and draw.
    Source: "Efficient Generalization Improvement Guided by Random Weight Perturbation" (arXiv 2211.11489), Table 3 and
    Figure 6.
    """
    tables, coverage = [], dict[str, Coverage]()
    sets = load_corrupted(data, corruptions, severities)
    total = len(list(corruptions) or CORRUPTIONS) * len(severities)
    options: dict[str, Any] = {"images": images, "model": model, "task": task}
    options |= {"chips": chips, "compute": compute, "where": where}
    methods = methods_of(suited(trained_copies(models), chips))  # read once, for all sets
    for corruption, severity, dataset in Bar(sets, total=total, unit="set", disable=not progress, delay=1):
        ledger = Ledger(out, columns={"corruption": corruption, "severity": severity})
        result = evaluate(methods, dataset, noises, draws, seed, out=ledger, **options)
        coverage |= result.coverage
        tables.append(result.rows)
    return Corrupted(pd.concat(tables, ignore_index=True), coverage=coverage)
