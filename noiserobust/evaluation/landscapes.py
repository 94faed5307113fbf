"""Loss landscapes of trained networks along filter-normalised random directions, point by point."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from noiserobust.analog.weight_space import Over
from noiserobust.bars import Bar
from noiserobust.errors import UserError, printable
from noiserobust.evaluation.evaluated_models import EvaluatedModels, Models
from noiserobust.evaluation.measure_minima import PASS, Part, surface_of
from noiserobust.evaluation.result import Result, drawn, not_finite
from noiserobust.evaluation.settings import Compute, Where, check_seed
from noiserobust.minima.directions import coordinates, direction, height
from noiserobust.minima.perturbations import check_over
from noiserobust.models import ModelSpec
from noiserobust.report.table import aligned, as_markdown
from noiserobust.rng import Stream
from noiserobust.spec.kinds import typed
from noiserobust.storage.ledger import Ledger
from noiserobust.storage.rows import OPERATION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEMANTICS = 2
"""Raise when a change gives other heights at the same place."""


@dataclass(frozen=True)
class Landscape(Result):
    """Losses around networks: one of the ``rows`` per model, pair of directions (``draw``) and point (``x``, ``y``)."""

    @property
    def nan_answers(self) -> str:
        return not_finite(self.rows)

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """One line per method and point: ``mean``, ``std`` (ddof 1) and number ``n`` over pairs of directions and
        trained copies. There is no interval, so that ``confidence`` has no effect."""
        groups = self.rows.groupby(["method", "x", "y"], sort=False)["value"]
        return groups.agg(mean="mean", std="std", n="count").reset_index()

    def table(self, markdown: bool = False, confidence: float = 0.95) -> str:
        """A line per method: the loss in the middle, which is the network's own, and the largest."""
        grid = [["method", "loss in the middle", "at most"]]
        for method, points in self.summary(confidence).groupby("method", sort=False):
            middle = points[(points["x"] == 0) & (points["y"] == 0)]["mean"].iloc[0]
            grid.append([str(method), f"{middle:.4g}", f"{points['mean'].max():.4g}"])
        text = (as_markdown if markdown else aligned)(grid)
        return "\n\n".join(filter(None, [text, self.nan_answers]))

    def plot(self, path: str | Path | None = None, confidence: float = 0.95) -> Figure:
        """Lines in one dimension, contours, a panel per method, in two; a PNG where ``path`` is given."""
        from noiserobust.report.curves import landscape_figure

        return drawn(landscape_figure(self.summary(confidence)), path)


@typed
def landscape(
    models: Models,
    data: Any = None,
    dimensions: int = 2,
    seed: int = 0,
    *,
    half_width: float = 1.0,
    points: int = 21,
    pairs: int = 1,
    over: Over = "all",
    part: Part = "test",
    images: int | None = None,
    model: ModelSpec | str | None = None,
    task: Any = None,
    compute: Compute = Compute(),
    where: Where = Where(),
    out: str | Path | None = None,
    progress: bool = False,
) -> Landscape:
    r"""How the loss rises around trained networks: L(w + x d1 + y d2) on a grid, d1 and d2 random directions.

    - ``dimensions``: 1 (y = 0) or 2. ``half_width``: x and y run from -half_width to half_width in ``points`` steps
      (odd, so that the middle is the network itself, whose loss it gives exactly); directions are filter-normalised: 1
      moves every filter by its length.
    - ``pairs``: how many pairs of directions, the column ``draw``; methods share those of a replicate.
    - ``over``: ``all`` filters (default; vectors, that is biases and norms, stay) or those of ``analog`` weights.

    points^dimensions forward passes per pair and model, with a progress bar; ``out`` is brought up to date while the
    work goes on, and what it holds is not computed again. The rest is as in :func:`noiserobust.evaluate`.
    Source: Li et al., "Visualizing the Loss Landscape of Neural Nets"; "Incorruptible Neural Networks", Figure 7.
    """
    check_over("landscape", over)
    check_seed(seed)
    if dimensions not in (1, 2) or pairs < 1:
        raise UserError(f"expected 1 or 2 dimensions and pairs >= 1, got {dimensions} and {pairs}")
    line = coordinates(half_width, points)
    grid = list(product(line, line if dimensions == 2 else [0.0]))
    compute = compute.with_batches_of(PASS)
    networks = EvaluatedModels(models, data, part, images=images, model=model, task=task, compute=compute, where=where)
    constant = OPERATION | {"noise": "none", "strength": 0.0, "read": 0, "t": float("nan"), "seed": seed, "part": part}
    constant |= {"landscape": f"filter-normalised,over={over}", "semantics": SEMANTICS}
    bar = Bar(total=len(networks) * pairs * len(grid), unit="point", disable=not progress, delay=1)
    with closing(Ledger(out, ["landscape", "x", "y"])) as ledger, bar:
        for one in networks:
            bar.set_description(printable(one.method), refresh=False)
            surface = surface_of(one)
            for pair in range(pairs):
                stream = Stream(seed, "landscape", one.replicate, pair)
                first, second = (direction(surface, stream.child(axis), over) for axis in range(2))
                for x, y in grid:
                    unit = constant | one.columns | {"draw": pair, "x": x, "y": y}
                    ledger.add(unit, ledger.find(unit) or {"loss": height(surface, first, second, x, y)})
                    bar.update()
    return Landscape(ledger.table(), coverage=networks.coverage)
