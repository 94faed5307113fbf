"""Loss landscapes of trained networks along filter-normalised random directions, point by point."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from noiserobust.errors import UserError
from noiserobust.evaluation.measure_minima import Part, part_of
from noiserobust.evaluation.subjects import Models, Setup
from noiserobust.minima import Surface
from noiserobust.minima.directions import coordinates, direction, height
from noiserobust.minima.perturbations import check_over
from noiserobust.minima.surface import Over
from noiserobust.models import ModelSpec
from noiserobust.models.compute import Precision
from noiserobust.rng import Stream
from noiserobust.storage.ledger import Ledger
from noiserobust.storage.rows import OPERATION

SEMANTICS = 1
"""Raise when a change gives other heights at the same place."""


def landscape(
    models: Models,
    data: Any,
    dimensions: int = 2,
    *,
    half_width: float = 1.0,
    points: int = 21,
    pairs: int = 1,
    over: Over = "all",
    seed: int = 0,
    part: Part = "test",
    model: ModelSpec | str | None = None,
    images: int | None = None,
    batch_size: int = 500,
    precision: Precision = "fp32",
    device: str | torch.device | None = None,
    channels_last: bool | None = None,
    out: str | Path | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    r"""L(w + x d1 + y d2) on a grid, d1 and d2 random directions, filter-normalised: one row per point and pair.

    - ``dimensions``: 1 (y = 0) or 2. ``half_width``: x and y run from -half_width to half_width in ``points`` steps
      (odd, so that the middle is the network itself, whose loss it gives exactly); 1 moves every filter by its length.
    - ``pairs``: how many pairs of directions, the column ``draw``; methods share those of a replicate.
    - ``over``: ``all`` filters (default; vectors, that is biases and norms, stay) or those of ``analog`` weights.

    points^dimensions forward passes per pair and model, with a progress bar; ``out`` is brought up to date while the
    work goes on, and what it holds is not computed again. The rest is as in :func:`noiserobust.evaluate`.
    Source: Li et al., "Visualizing the Loss Landscape of Neural Nets"; "Incorruptible Neural Networks", Figure 7.
    """
    check_over("landscape", over)
    if dimensions not in (1, 2) or pairs < 1:
        raise UserError(f"expected 1 or 2 dimensions and pairs >= 1, got {dimensions} and {pairs}")
    line = coordinates(half_width, points)
    grid = list(product(line, line if dimensions == 2 else [0.0]))
    setup = Setup(model, images, batch_size, precision, device, channels_last)
    subjects = setup.subjects(models, part_of(data, part))
    ledger = Ledger(out, ["landscape", "x", "y"])
    constant = OPERATION | {"noise": "none", "strength": 0.0, "read": 0, "t": float("nan"), "seed": seed, "part": part}
    constant |= {"landscape": f"filter-normalised,over={over}", "semantics": SEMANTICS}
    try:
        with tqdm(total=len(subjects) * pairs * len(grid), unit="point", disable=not progress, delay=1) as bar:
            for subject in subjects:
                bar.set_description(subject.method, refresh=False)
                surface = Surface(subject.network, subject.batches, precision=precision)
                for pair in range(pairs):
                    stream = Stream(seed, "landscape", subject.replicate, pair)
                    first, second = (direction(surface, stream.child(axis), over) for axis in range(2))
                    for x, y in grid:
                        unit = subject.about | constant | {"draw": pair, "x": x, "y": y}
                        values = ledger.find(unit)
                        ledger.add(unit, values or {"loss": height(surface, first, second, x, y)})
                        bar.update()
    finally:
        ledger.close()
    return ledger.table()


def averaged(rows: pd.DataFrame, by: Sequence[str] = ("method", "x", "y")) -> pd.DataFrame:
    """Mean loss and its spread (std, ddof 1) over pairs and trained copies, one line per method and point."""
    return rows.groupby(list(by), sort=False)["value"].agg(mean="mean", std="std", n="size").reset_index()
