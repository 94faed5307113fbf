"""Yield: what share of chips reaches an accuracy, and what accuracy a share of chips reaches, with exact bounds.

A chip is one (model, draw). Nothing is assumed of the distribution of accuracies, except that chips are independent:

- per model: the draws of one trained network are, so its bounds are exact. They are about chips of that network.
- pooled: M networks with K chips each. The bounds are about the chips of these M networks in equal parts, and hold:
  a count of unequal but independent successes is less scattered than a binomial one of the same mean (W. Hoeffding,
  "On the distribution of the number of successes in independent trials", Ann. Math. Stat. 27, 1956).
  They say nothing about a network that is trained again.

"Reach X" means an accuracy of at least X; a larger value is taken for the better one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from noiserobust.errors import UserError
from noiserobust.evaluation.statistics.cells import CELL, MODEL, by_draw, one_model_per_replicate, place, require_one_of
from noiserobust.evaluation.statistics.components import require_confidence
from noiserobust.storage.rows import noise_free


def yields(
    rows: pd.DataFrame,
    above: float | None = None,
    share: float = 0.99,
    confidence: float = 0.95,
    pooled: bool = False,
    metric: str = "accuracy",
) -> pd.DataFrame:
    """One line per (method, noise, strength, t) and model, or over all models of a method when ``pooled``.

    - ``reached`` of ``chips`` are at or above ``above``; ``low`` and ``high`` are Clopper and Pearson's bounds for the
      share of all chips that are, each alone with ``confidence`` (one-sided; ``above=None``: NaN)
    - ``bound``: with ``confidence`` at least ``share`` of all chips reach it: the largest such order statistic of
      the chips (S. S. Wilks' tolerance limit, Ann. Math. Stat. 12, 1941), NaN when there are too few chips
    - ``needed``: chips from which such a bound exists (:func:`chips_needed`)

    ``low >= share`` exactly when ``bound >= above``. Noise-free rows are left out: their chips are all the same one.
    Several reads of a chip are averaged; a chip whose value is NaN makes its line NaN.

    Raises :class:`UserError` for a share or confidence outside (0, 1), for rows without noise, and with ``pooled``
    for two models on one replicate: they share draws, so their chips are not independent.
    """
    require_confidence(confidence)
    needed = chips_needed(share, confidence)
    lines = []
    for about, values in _chips(rows, metric, pooled):
        line = about | {"above": np.nan, "reached": np.nan, "low": np.nan, "high": np.nan}
        valid = not np.isnan(values).any()
        if above is not None:
            line["above"] = above
            if valid:
                reached = int((values >= above).sum())
                line["reached"] = reached
                line["low"], line["high"] = share_bounds(reached, len(values), confidence)
        bound = tolerance_bound(values, share, confidence)
        lines.append(line | {"share": share, "bound": bound, "needed": needed, "confidence": confidence})
    return pd.DataFrame(lines)


def percentiles(
    rows: pd.DataFrame,
    percents: Sequence[float] = (1, 5, 50),
    confidence: float = 0.95,
    pooled: bool = False,
    metric: str = "accuracy",
) -> pd.DataFrame:
    """Percentiles of the chips' accuracies, one line each per line of :func:`yields`.

    ``value`` is the lowest that ``percent`` % of the chips do not exceed, ``low`` and ``high`` two order statistics
    between which the population's lies with at least ``confidence`` (equal tails; W. J. Conover, "Practical
    Nonparametric Statistics", 1999, section 3.2); -inf or inf where the chips are too few for a bound on that side.
    Everything is NaN when a chip is.
    """
    require_confidence(confidence)
    for percent in percents:
        if not 0 < percent < 100:
            raise UserError(f"expected percentiles between 0 and 100, got {percent}")
    return pd.DataFrame(
        about | {"percent": percent} | _percentile(values, percent / 100, confidence) | {"confidence": confidence}
        for about, values in _chips(rows, metric, pooled)
        for percent in percents
    )


def distribution(
    rows: pd.DataFrame, confidence: float = 0.95, pooled: bool = False, metric: str = "accuracy"
) -> pd.DataFrame:
    """The curve behind :func:`yields`: for every value that occurs, the share of chips that reach it.

    Columns of :func:`yields`, and ``value``, ``reaching`` (share of the chips at or above it), ``low`` and ``high``,
    Clopper and Pearson's bounds for it: each alone, and at each value alone, with ``confidence``.
    Lines with a NaN among their chips are left out.
    """
    require_confidence(confidence)
    curves = []
    for about, values in _chips(rows, metric, pooled):
        if np.isnan(values).any():
            continue
        found, counts = np.unique(values, return_counts=True)
        reached, n = counts[::-1].cumsum()[::-1], len(values)  # all reach the lowest
        low = stats.beta.ppf(1 - confidence, reached, n - reached + 1)
        high = np.where(reached < n, stats.beta.ppf(confidence, reached + 1, np.maximum(n - reached, 1)), 1.0)
        curve = pd.DataFrame({"value": found, "reaching": reached / n, "low": low, "high": high})
        curves.append(curve.assign(**about, confidence=confidence))
    if not curves:
        raise UserError("expected chips with accuracies, got NaN on every line; evaluate networks that do not diverge")
    return pd.concat(curves, ignore_index=True)


def share_bounds(reached: int, chips: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact lower and upper bound for a share, each one-sided with ``confidence``."""
    low, high = (
        stats.binomtest(reached, chips, alternative=side).proportion_ci(confidence, method="exact")
        for side in ("greater", "less")
    )
    return float(low.low), float(high.high)


def tolerance_bound(values: Any, share: float = 0.99, confidence: float = 0.95) -> float:
    """The largest order statistic that, with ``confidence``, at least ``share`` of the population reaches.

    It is the r-th smallest of n values with the largest r for which P(Binomial(n, 1 - share) >= r) >= confidence;
    NaN when there is none (too few values, :func:`chips_needed`) or a value is NaN.
    """
    _require_share(share)
    require_confidence(confidence)
    values = np.asarray(values, dtype=float)
    if np.isnan(values).any():
        return float("nan")
    chance = stats.binom(len(values), 1 - share)
    rank = int(chance.ppf(1 - confidence))  # the r above, except where ppf hits 1 - confidence exactly
    rank += bool(chance.cdf(rank) <= 1 - confidence)
    return float(np.sort(values)[rank - 1]) if rank else float("nan")


def chips_needed(share: float = 0.99, confidence: float = 0.95, failures: int = 0) -> int:
    """The fewest chips n for "with ``confidence`` at least ``share`` of chips reach X", when ``failures`` may not.

        P(Binomial(n, 1 - share) <= failures) <= 1 - confidence

    With no failure allowed, X is the worst of n chips.

    >>> chips_needed(0.99, 0.95)
    299
    >>> chips_needed(0.99, 0.95, failures=1)
    473
    """
    _require_share(share)
    require_confidence(confidence)
    if failures < 0:
        raise UserError(f"expected failures >= 0, got {failures}")

    def enough(chips: int) -> bool:
        return bool(stats.binom.cdf(failures, chips, 1 - share) <= 1 - confidence)

    most = failures + 1
    while not enough(most):
        most *= 2
    least = most // 2  # not enough, or fewer than failures + 1
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle, most)
    return most


def _percentile(values: np.ndarray, quantile: float, confidence: float) -> dict[str, float]:
    if np.isnan(values).any():
        return {"value": np.nan, "low": np.nan, "high": np.nan}
    low, high = stats.quantile_test(values, p=quantile).confidence_interval(confidence)
    return {
        "value": float(np.quantile(values, quantile, method="inverted_cdf")),
        "low": float(low if low == low else -np.inf),
        "high": float(high if high == high else np.inf),
    }


def _chips(rows: pd.DataFrame, metric: str, pooled: bool) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """What a line is about, and the values of its chips."""
    draws = by_draw(rows)
    require_one_of(draws, "metric", metric)
    draws = draws[draws["metric"] == metric]
    noisy = draws[~noise_free(draws)]
    if noisy.empty:
        raise UserError(f"expected rows with noise, got only {place(draws.iloc[0])}; evaluate under noise")
    if pooled:
        one_model_per_replicate(noisy, "crossed")
    for key, block in noisy.groupby(CELL if pooled else [*CELL, *MODEL], sort=False, dropna=False, observed=True):
        about = dict(zip(CELL, key, strict=False))
        counts = block.groupby(MODEL, sort=False, observed=True).size()
        if counts.min() < counts.max():
            raise UserError(
                f"expected as many draws of {place(block.iloc[0])} for every model of {about['method']} to pool, got "
                f"{counts.min()} to {counts.max()}; evaluate the missing draws, or do not pool"
            )
        alone = len(counts) == 1
        about |= {"model": block["model"].iloc[0] if alone else f"{len(counts)} models"}
        about |= {"replicate": block["replicate"].iloc[0] if alone else "all"}
        yield about | {"models": len(counts), "chips": len(block)}, block["value"].to_numpy(dtype=float)


def _require_share(share: float) -> None:
    if not 0 < share < 1:
        raise UserError(f"expected a share of chips between 0 and 1, got {share}; 0.99 means 99 of 100")
