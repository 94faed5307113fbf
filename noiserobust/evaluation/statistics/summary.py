"""From one row per (model, draw) to a mean, its two uncertainties and an interval.

Two designs (:mod:`noiserobust.evaluation.statistics.components` has their formulas):

- nested: M trained copies (replicates), each read under noise draws of its own. This is what ``evaluate`` makes.
- crossed: draw k is the same noise for every copy.

Two methods on the same replicate share their draws, so their difference is taken draw by draw (:func:`paired`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from noiserobust.errors import UserError
from noiserobust.evaluation.statistics.cells import (
    CELL,
    NAMES_OF_DRAWS,
    by_draw,
    cells,
    one_model_per_replicate,
    place,
    require_one_of,
)
from noiserobust.evaluation.statistics.components import (
    Design,
    components,
    interval,
    interval_over,
    require_confidence,
    require_design,
)
from noiserobust.report.leading import leading
from noiserobust.spec.kinds import typed
from noiserobust.storage.rows import noise_free


@typed
def summarize(rows: pd.DataFrame, confidence: float = 0.95, design: Design = "nested") -> pd.DataFrame:
    """One line per (method, noise, strength, t, metric), in order of first appearance.

    With y[m] the mean of model m over its K draws and s2[m] their variance (ddof 1), in units of the metric:

    - ``mean`` = mean_m y[m]
    - ``noise_std`` = sqrt(mean_m s2[m]): how far one draw lies from its model's mean
    - ``weight_std`` = std_m y[m] (ddof 1): how far one trained copy lies from the next
    - ``noise_variance`` = mean_m s2[m]
    - ``weight_variance`` = var_m y[m] minus the noise's share of it, which may be negative: clamping would bias it
    - ``shared_variance``: the part of ``noise_variance`` that all models have in common; NaN in the nested design
    - ``low``, ``high``: interval for the mean that respects models and draws
      (:func:`~noiserobust.evaluation.statistics.components.interval`); with one model over its draws alone, which says
      nothing about another training run
    - ``interval_over`` "models" (nested: each comes with draws of its own), "models and draws" (crossed) or "draws",
      ``models`` M, ``draws`` K, ``confidence``, ``design``

    What does not exist (one draw, one model) is NaN, and a NaN among the values makes its line NaN. Several reads
    of a draw are averaged first: the draw is the unit.

    ``design="crossed"`` says that draws of one number are the same noise for every model of the method. A model is
    then a (model, replicate) pair: a replicate of its own for each, or all on one replicate.

    Raises :class:`UserError` for missing columns, doubled rows, models of a method with unequal draws (none counts as
    unequal), and in the nested design two models of a method on one replicate (they share draws).
    """
    require_confidence(confidence)
    require_design(design)
    return pd.DataFrame(
        [
            dict(zip(CELL, key, strict=True)) | _line(values, confidence, design)
            for key, values in cells(by_draw(rows), design)
        ]
    )


@typed
def paired(
    rows: pd.DataFrame,
    method_a: str,
    method_b: str,
    confidence: float = 0.95,
    metric: str | None = None,
    design: Design = "nested",
) -> pd.DataFrame:
    """``method_a - method_b`` on the (replicate, draw) pairs that both have, one line per (noise, strength, t).

    ``metric`` is by default that of the rows' task. The differences d[m, k] over shared replicates and draws are one
    table like any other: ``mean`` is their mean, in units of the metric, and spreads, components and interval are
    :func:`summarize`'s, of the difference. What both methods have in common (the noise of a draw, the luck of a
    training seed) is gone from them.
    Columns: method_a, method_b, then those of :func:`summarize`. Noises that only one method has are left out.

    Raises :class:`UserError` for an unknown method or metric, when no (replicate, draw, noise) is shared, when draws of
    one number are other noise (of another seed, kind of device or version), when a method has two models on one
    replicate (in either design: which is whose partner?), and for everything :func:`summarize` raises for.
    """
    require_confidence(confidence)
    require_design(design)
    draws = by_draw(rows)
    metric = metric or leading(draws)
    for column, wanted in (("method", method_a), ("method", method_b), ("metric", metric)):
        require_one_of(draws, column, wanted)
    if method_a == method_b:
        raise UserError(f"expected two different methods to compare, got '{method_a}' twice; name another one")
    draws = draws[draws["metric"] == metric]
    a, b = (one_model_per_replicate(draws[draws["method"] == name], design) for name in (method_a, method_b))
    shared = a.merge(b, on=["replicate", "draw", *CELL[1:]], suffixes=("", "_b"))
    if shared.empty:
        raise UserError(f"expected replicates with the same noises and draws for both methods, {_unshared(a, b)}")
    _require_same_noise(shared)
    shared["value"] -= shared["value_b"]
    pair = {"method_a": method_a, "method_b": method_b}
    return pd.DataFrame(
        [
            pair | dict(zip(CELL[1:], key[1:], strict=True)) | _line(values, confidence, design)
            for key, values in cells(shared, design)
        ]
    )


def _require_same_noise(shared: pd.DataFrame) -> None:
    for name in NAMES_OF_DRAWS:
        if name not in shared or f"{name}_b" not in shared:
            continue
        known = shared[name].notna() & shared[f"{name}_b"].notna()
        other = shared[known & (shared[name] != shared[f"{name}_b"])]
        if len(other) and not noise_free(other).all():
            first = other[~noise_free(other)].iloc[0]
            ours, theirs = (value if isinstance(value, str) else f"{value:g}" for value in first[[name, f"{name}_b"]])
            got = f"{ours} ({first['method']}) and {theirs} ({first['method_b']})"
            raise UserError(
                f"expected the same noise for both methods, got draws of {name} {got} under {place(first)}; "
                "evaluate both methods with one seed, on one kind of device, by one version of noiserobust"
            )


def _unshared(a: pd.DataFrame, b: pd.DataFrame) -> str:
    """What two methods' draws, none of which is shared, differ in, and what to do."""
    for name in ("replicate", *CELL[1:], "draw"):
        values = [side[name].unique().tolist() for side in (a, b)]
        if not set(map(str, values[0])) & set(map(str, values[1])):
            got = " and ".join(f"{of} ({side['method'].iloc[0]})" for of, side in zip(values, (a, b), strict=True))
            what = "on the same training seeds" if name == "replicate" else f"with the same {name}"
            return f"got {name} {got}; evaluate both methods {what}"
    return "got none that agree in all of these; evaluate both methods in the same call"


def _line(values: np.ndarray, confidence: float, design: Design) -> dict[str, Any]:
    """What a table says of ``values[model, draw]``."""
    models, draws = values.shape
    low, high = interval(values, design, confidence)
    counts = {"interval_over": interval_over(models, draws, design), "models": models, "draws": draws}
    columns = {name: float(value) for name, value in components(values, design).items()}
    return columns | {"low": float(low), "high": float(high)} | counts | {"confidence": confidence, "design": design}
