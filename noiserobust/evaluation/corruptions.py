"""Accuracy on corrupted images: CIFAR-10-C and CIFAR-100-C."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from noiserobust.data.corrupted import CORRUPTIONS, load_corrupted
from noiserobust.evaluation.monte_carlo import evaluate
from noiserobust.evaluation.statistics.summary import summarize
from noiserobust.evaluation.subjects import Models
from noiserobust.noise import NoiseModel
from noiserobust.storage.ledger import Ledger
from noiserobust.storage.provenance import provenance


def corrupted(
    models: Models,
    folder: str | Path,
    noises: NoiseModel | str | Sequence[NoiseModel | str] = "gaussian:0",
    draws: int = 1,
    seed: int = 0,
    *,
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    out: str | Path | None = None,
    progress: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Rows of :func:`noiserobust.evaluate` for every corruption and severity, which are two further columns.

    - ``folder``: what :func:`noiserobust.data.corrupted.load_corrupted` reads; by default its fifteen corruptions.
    - ``noises``: weight noise on top; by default none. ``out`` and all further ``options`` are evaluate's.

    A forward pass over the images per corruption, severity, model, noise and draw.
    Source: "Revisiting Random Weight Perturbation", Table 3 and Figure 6.
    """
    tables = []
    sets = load_corrupted(folder, corruptions, severities)
    total = len(list(corruptions) or CORRUPTIONS) * len(severities)
    for corruption, severity, data in tqdm(sets, total=total, unit="set", disable=not progress, delay=1):
        ledger = Ledger(out, columns={"corruption": corruption, "severity": severity})
        tables.append(evaluate(models, data, noises, draws, seed, out=ledger, **options).rows)
    return pd.concat(tables, ignore_index=True)


def by_severity(rows: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """:func:`~noiserobust.evaluation.summarize` of the mean over corruptions, for every severity (a further column)."""
    of_one = ["corruption", "data", "answer", *provenance()]
    kept = [name for name in rows if name not in (*of_one, "value")]
    mean = rows.groupby(kept, sort=False, dropna=False)["value"].mean().reset_index()
    parts = [summarize(part, confidence).assign(severity=severity) for severity, part in mean.groupby("severity")]
    return pd.concat(parts, ignore_index=True)
