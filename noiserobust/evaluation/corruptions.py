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
from noiserobust.storage.rows import read_rows, write_rows


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
    tables, places = [], dict[str, tuple[str, int]]()
    sets = load_corrupted(folder, corruptions, severities)
    total = len(list(corruptions) or CORRUPTIONS) * len(severities)
    for corruption, severity, data in tqdm(sets, total=total, unit="set", disable=not progress, delay=1):
        rows = evaluate(models, data, noises, draws, seed, out=out, **options).rows
        places |= dict.fromkeys(rows["data"], (corruption, severity))
        tables.append(_placed(rows, places))
    if out is not None:
        write_rows(_placed(read_rows(out), places), out)
    return pd.concat(tables, ignore_index=True)


def by_severity(rows: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """:func:`~noiserobust.evaluation.summarize` of the mean over corruptions, for every severity (a further column)."""
    means = rows.drop(columns=["corruption", "data"]).groupby(
        [name for name in rows if name not in ("corruption", "data", "value")], sort=False, dropna=False
    )
    mean = means["value"].mean().reset_index()
    parts = [summarize(own, confidence).assign(severity=severity) for severity, own in mean.groupby("severity")]
    return pd.concat(parts, ignore_index=True)


def _placed(rows: pd.DataFrame, places: dict[str, tuple[str, int]]) -> pd.DataFrame:
    """``rows`` with their corruption and severity, which their data's hash names."""
    for index, column in enumerate(("corruption", "severity")):
        named = rows["data"].map({data: place[index] for data, place in places.items()})
        rows = rows.assign(**{column: named if column not in rows else named.combine_first(rows[column])})
    return rows
