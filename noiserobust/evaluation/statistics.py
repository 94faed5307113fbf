"""From one row per (model, draw) to a mean, its two uncertainties and an interval.

The design is nested: M trained models (replicates), each read under its own K noise draws,

    value[m, k] = mu + a[m] + e[m, k],        var a = weight variance,  var e = noise variance.

Two methods on the same replicate share their draws, so their difference is taken draw by draw (:func:`paired`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from noiserobust.errors import UserError
from noiserobust.results import VARIANT, completed

CELL = ["method", "noise", "strength", "t", *VARIANT, "metric"]
MODEL = ["model", "replicate"]


def summarize(rows: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """One line per (method, noise, strength, t, metric), in order of first appearance.

    With y[m] the mean of model m over its K draws and s2[m] their variance (ddof 1), in units of the metric:

    - ``mean`` = mean_m y[m]
    - ``noise_std`` = sqrt(mean_m s2[m]): how far one draw lies from its model's mean
    - ``weight_std`` = std_m y[m] (ddof 1): how far one trained copy lies from the next
    - ``noise_variance`` = mean_m s2[m]
    - ``weight_variance`` = var_m y[m] - noise_variance / K, which may be negative: clamping it would bias it
    - ``low``, ``high`` = mean ± t_{M-1} weight_std / sqrt(M), since var_m y[m] already contains noise / K; with
      one model ± t_{K-1} noise_std / sqrt(K), which says nothing about another training run
    - ``interval_over`` "models" or "draws", ``models`` M, ``draws`` K, ``confidence``

    What does not exist (one draw, one model) is NaN, and a NaN among the values makes its line NaN. Several reads
    of a draw are averaged first: the draw is the unit.

    Raises :class:`UserError` for missing columns, doubled rows, models of a method with unequal numbers of draws
    (none counts as unequal), and two models of a method on one replicate (they share draws: not nested).
    """
    _require_confidence(confidence)
    lines = []
    for key, values in _cells(_draws(completed(rows))):
        with np.errstate(invalid="ignore"):  # an infinite loss gives NaN spreads, not a warning
            means = values.mean(axis=1)
            noise = float(_variance(values, axis=1).mean())
            between = float(_variance(means))
        lines.append(
            dict(zip(CELL, key, strict=True))
            | {"mean": means.mean(), "noise_std": np.sqrt(noise), "weight_std": np.sqrt(between)}
            | {"noise_variance": noise, "weight_variance": between - noise / values.shape[1]}
            | _interval(values, confidence)
        )
    return pd.DataFrame(lines)


def paired(
    rows: pd.DataFrame, method_a: str, method_b: str, confidence: float = 0.95, metric: str = "accuracy"
) -> pd.DataFrame:
    """``method_a - method_b`` on the (replicate, draw) pairs that both have, one line per (noise, strength, t).

    ``mean`` is the mean over replicates of the mean difference d[m] over shared draws, in units of the metric;
    ``low``, ``high`` = mean ± t_{M-1} std(d) / sqrt(M), or with a single shared replicate over its draws
    (``interval_over`` says which). Columns: method_a, method_b, noise, strength, t, metric, mean, low, high,
    interval_over, models, draws, confidence. Noises that only one method has are left out.

    Raises :class:`UserError` for an unknown method or metric, when no (replicate, draw, noise) is shared, and for
    everything :func:`summarize` raises for.
    """
    _require_confidence(confidence)
    rows = completed(rows)
    _require_columns(rows)
    for column, wanted in (("method", method_a), ("method", method_b), ("metric", metric)):
        _require_one_of(rows, column, wanted)
    if method_a == method_b:
        raise UserError(f"expected two different methods to compare, got '{method_a}' twice; name another one")
    draws = _draws(rows[rows["metric"] == metric])
    a, b = (_require_nested(draws[draws["method"] == name]) for name in (method_a, method_b))
    shared = a.merge(b, on=["replicate", "draw", *CELL[1:]], suffixes=("", "_b"))
    if shared.empty:
        found = " and ".join(
            f"{sorted(side['replicate'].unique().tolist())} ({side['method'].iloc[0]})" for side in (a, b)
        )
        raise UserError(
            "expected replicates with the same noises and draws for both methods, "
            f"got replicates {found}; evaluate both methods on the same training seeds"
        )
    shared["value"] -= shared["value_b"]
    lines = []
    for key, values in _cells(shared):
        cell = dict(zip(CELL[1:], key[1:], strict=True))
        line = {"method_a": method_a, "method_b": method_b} | cell | {"mean": values.mean(axis=1).mean()}
        lines.append(line | _interval(values, confidence))
    return pd.DataFrame(lines)


def _interval(values: np.ndarray, confidence: float) -> dict[str, Any]:
    """The t interval for the mean of ``values[model, draw]``, over models, or over draws when there is one model."""
    models, draws = values.shape
    units = values.mean(axis=1) if models > 1 else values[0]
    with np.errstate(invalid="ignore"):
        half = stats.t.ppf((1 + confidence) / 2, len(units) - 1) * np.sqrt(_variance(units) / len(units))
        low, high = units.mean() - half, units.mean() + half
    over = "models" if models > 1 else "draws"
    counts = {"interval_over": over, "models": models, "draws": draws, "confidence": confidence}
    return {"low": low, "high": high} | counts


def _variance(values: np.ndarray, axis: int = 0) -> Any:
    """Variance (ddof 1) along ``axis``; NaN, without numpy's warning, where there is a single value."""
    if values.shape[axis] < 2:
        return np.full_like(values.mean(axis=axis), np.nan)
    return values.var(axis=axis, ddof=1)


def _draws(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per (method, noise, strength, t, metric, model, replicate, draw): the mean over the draw's reads."""
    _require_columns(rows)
    unit = [*CELL, *MODEL, "draw"]
    doubled = rows.duplicated([*unit, "read"])
    if doubled.any():
        first = rows[doubled].iloc[0]
        raise UserError(
            f"expected one value per (model, noise, draw, read, t, metric), got several for {first['model']}, "
            f"{_place(first)}, draw {first['draw']}, read {first['read']}; drop the {doubled.sum()} doubled rows"
        )
    groups = rows.assign(invalid=rows["value"].isna()).groupby(unit, sort=False, dropna=False, observed=True)
    draws = groups.agg(value=("value", "mean"), invalid=("invalid", "any"), reads=("read", "size")).reset_index()
    # pandas leaves NaN out of a mean; a diverged evaluation must show instead.
    draws.loc[draws["invalid"], "value"] = np.nan
    spread = draws.groupby(CELL, sort=False, dropna=False, observed=True)["reads"].transform("max")
    short = draws[draws["reads"] < spread]
    if len(short):
        first, expected = short.iloc[0], spread[short.index[0]]
        raise UserError(
            f"expected {expected} reads of every draw of {_place(first)}, got {first['reads']} for draw "
            f"{first['draw']} of {first['model']}; evaluate the missing reads or drop that draw"
        )
    return draws


def _cells(draws: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
    """Each (method, noise, strength, t, metric) with its ``values[model, draw]``; UserError when it is unbalanced."""
    draws = _require_nested(draws)
    replicates: dict[Any, Any] = {
        method: group["replicate"].unique() for method, group in draws.groupby("method", observed=True)
    }
    for key, cell in draws.groupby(CELL, sort=False, dropna=False, observed=True):
        owner, values = cell["replicate"].to_numpy(), cell["value"].to_numpy(dtype=float)
        chosen = [values[owner == replicate] for replicate in replicates[key[0]]]
        counts = [len(values) for values in chosen]
        if min(counts) < max(counts):
            least, most = (replicates[key[0]][counts.index(pick(counts))] for pick in (min, max))
            raise UserError(
                f"expected as many draws of {_place(cell.iloc[0])} for every model of {key[0]}, got {max(counts)} for "
                f"replicate {most} but {min(counts)} for replicate {least}; evaluate the missing draws or drop one"
            )
        yield key, np.stack(chosen)


def _require_nested(draws: pd.DataFrame) -> pd.DataFrame:
    """``draws`` itself; UserError when a method has two models on one replicate."""
    models = draws.drop_duplicates(["method", *MODEL])
    crossed = models[models.duplicated(["method", "replicate"], keep=False)]
    if len(crossed):
        first, second = crossed[
            (crossed["method"] == crossed["method"].iloc[0]) & (crossed["replicate"] == crossed["replicate"].iloc[0])
        ]["model"].iloc[:2]
        raise UserError(
            f"expected one model per replicate of a method, got {first} and {second} both as replicate "
            f"{crossed['replicate'].iloc[0]} of {crossed['method'].iloc[0]}: they share noise draws; "
            "give each trained copy its own replicate, or each its own method label"
        )
    return draws


def _require_columns(rows: pd.DataFrame) -> None:
    missing = [name for name in [*CELL, *MODEL, "draw", "read", "value"] if name not in rows]
    if missing:
        raise UserError(f"expected evaluation rows, got a table without {', '.join(missing)}; read one with read_rows")
    if rows.empty:
        raise UserError("expected at least one evaluation row, got none; evaluate a checkpoint first")


def _require_one_of(rows: pd.DataFrame, column: str, wanted: str) -> None:
    known = list(rows[column].unique())
    if wanted not in known:
        raise UserError(f"expected a {column} of the table ({', '.join(map(str, known))}), got '{wanted}'")


def _require_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UserError(f"expected a confidence between 0 and 1, got {confidence}; 0.95 is usual")


def _place(row: pd.Series[Any]) -> str:
    """A cell in words for an error: noise, time where there is one, metric."""
    time = "" if pd.isna(row["t"]) else f" at t={row['t']:g} s"
    return f"{row['noise']}{time} ({row['metric']})"
