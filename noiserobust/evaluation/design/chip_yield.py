"""Yield: what share of chips reaches an accuracy, and what accuracy a share of chips reaches, with exact bounds.

A chip is one (model, draw). Nothing is assumed of the distribution of accuracies, except that chips are independent:

- per model: the draws of one trained network are, so its bounds are exact. They are about chips of that network.
- pooled: M networks with K chips each. The bounds are about the chips of these M networks in equal parts, and hold:
  a count of unequal but independent successes is less scattered than a binomial one of the same mean (W. Hoeffding,
  "On the distribution of the number of successes in independent trials", Ann. Math. Stat. 27, 1956).
  They say nothing about a network that is trained again.

"Reach X" means an accuracy of at least X; of a metric of which less is better (a loss, perplexity), at most X.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from noiserobust.errors import UserError
from noiserobust.evaluation.result import Result, drawn, nan_answers
from noiserobust.evaluation.statistics.cells import CELL, MODEL, by_draw, one_model_per_replicate, place, require_one_of
from noiserobust.evaluation.statistics.components import require_confidence
from noiserobust.report.leading import leading, quantity_of
from noiserobust.report.yield_table import yield_table
from noiserobust.spec.kinds import typed
from noiserobust.storage.rows import noise_free, read_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERCENTS = (1, 5, 50)


@dataclass(frozen=True)
class Yield(Result):
    """How many chips are good enough: ``rows`` are the chips, their reads averaged, one line each.

    Every bound holds alone with the ``confidence`` that is asked for. A line is about one (method, noise, strength, t)
    and model, or about all models of a method where they are ``pooled``.
    """

    above: float | None
    share: float
    pooled: bool
    undefined: str = ""
    """What :attr:`nan_answers` says of the rows that the chips come from."""

    @property
    def nan_answers(self) -> str:
        return self.undefined

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """How many chips reach ``above``, and what ``share`` of all chips reach.

        - ``reached`` of ``chips`` are at or above ``above`` (below it, where less is better); ``low`` and ``high`` are
          Clopper and Pearson's one-sided bounds for the share of all chips that are (``above=None``: NaN)
        - ``bound``: at least ``share`` of all chips reach it (:func:`tolerance_bound`), NaN when there are too few
        - ``needed``: chips from which such a bound exists (:func:`chips_needed`)

        ``low >= share`` exactly when ``bound >= above``. A chip whose value is NaN makes its line NaN.
        """
        needed = chips_needed(self.share, confidence)
        above = np.nan if self.above is None else self.above
        lines = []
        for columns, values in self._chips():
            valid, sign = not np.isnan([above, *values]).any(), self._sign
            reached = (sign * values >= sign * above).sum() if valid else np.nan
            low, high = share_bounds(reached, len(values), confidence) if valid else (np.nan, np.nan)
            bound = sign * tolerance_bound(sign * values, self.share, confidence)
            columns |= {"above": above, "reached": reached, "low": low, "high": high}
            lines.append(columns | {"share": self.share, "bound": bound, "needed": needed, "confidence": confidence})
        return pd.DataFrame(lines)

    def percentiles(self, percents: Sequence[float] = PERCENTS, confidence: float = 0.95) -> pd.DataFrame:
        """Percentiles of the chips' accuracies, one line each per line of :meth:`summary`.

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
            columns | {"percent": percent} | _percentile(values, percent / 100, confidence) | {"confidence": confidence}
            for columns, values in self._chips()
            for percent in percents
        )

    def distribution(self, confidence: float = 0.95) -> pd.DataFrame:
        """The curve behind :meth:`summary`: for every value that occurs, the share of chips that reach it.

        Columns ``value``, ``reaching`` (share of the chips that are as good or better), ``low`` and ``high``, Clopper
        and Pearson's bounds for it, at each value alone. Lines with a NaN among their chips are left out.
        """
        require_confidence(confidence)
        curves = []
        for columns, values in self._chips():
            if np.isnan(values).any():
                continue
            ordered, counts = np.unique(self._sign * values, return_counts=True)
            reached = counts[::-1].cumsum()[::-1]  # all reach the worst
            low, high = share_bounds(reached, len(values), confidence)
            shares = {"reaching": reached / len(values), "low": low, "high": high}
            curve = pd.DataFrame({"value": self._sign * ordered, **shares})
            curves.append(curve.assign(**columns, confidence=confidence))
        if not curves:
            raise UserError(
                "expected chips with accuracies, got NaN on every line; evaluate networks that do not diverge"
            )
        return pd.concat(curves, ignore_index=True)

    def table(
        self, markdown: bool = False, confidence: float = 0.95, *, percents: Sequence[float] | None = PERCENTS
    ) -> str:
        """A block per noise, a line per model: shares, bounds, percentiles."""
        points = self.percentiles(percents, confidence) if percents else None
        return yield_table(self.summary(confidence), points, markdown)

    def plot(self, path: str | Path | None = None, confidence: float = 0.95) -> Figure:
        """The share of chips that reach an accuracy against that accuracy, with its bounds."""
        from noiserobust.report.yield_plot import yield_figure

        return drawn(yield_figure(self.distribution(confidence), self.summary(confidence)), path)

    @property
    def _sign(self) -> int:
        return quantity_of(self.rows, self.rows["metric"].iloc[0]).sign

    def _chips(self) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """What a line is about, and the values of its chips."""
        key = CELL if self.pooled else [*CELL, *MODEL]
        for names, block in self.rows.groupby(key, sort=False, dropna=False, observed=True):
            columns = dict(zip(CELL, names, strict=False))
            counts = block.groupby(MODEL, sort=False, observed=True).size()
            if counts.min() < counts.max():
                raise UserError(
                    f"expected as many draws of {place(block.iloc[0])} for every model of {columns['method']} to pool, "
                    f"got {counts.min()} to {counts.max()}; evaluate the missing draws, or do not pool"
                )
            alone = len(counts) == 1
            columns |= {"model": block["model"].iloc[0] if alone else f"{len(counts)} models"}
            columns |= {"replicate": block["replicate"].iloc[0] if alone else "all"}
            yield columns | {"models": len(counts), "chips": len(block)}, block["value"].to_numpy(dtype=float)


@typed
def yields(
    rows: pd.DataFrame | Result | str | Path,
    above: float | None = None,
    share: float = 0.99,
    *,
    pooled: bool = False,
    metric: str | None = None,
) -> Yield:
    """How many chips are good enough? What share of them reaches ``above``, and what ``share`` of them reach.

    >>> print(yields(evaluate("runs", draws=300), above=90, share=0.99))  # doctest: +SKIP

    ``rows`` are what :func:`evaluate` gives, or the file in which it wrote them; noise-free ones are left out, since
    their chips are all the same one. ``metric`` is by default that of the rows' task, ``above`` in its units (percent
    of accuracy), ``share`` a fraction.
    Several reads of a chip are averaged. ``pooled``: one line for all models of a method instead of one for each.

    Raises :class:`UserError` for an ``above`` that looks like a fraction, a share outside (0, 1), rows without noise,
    and with ``pooled`` for unequal numbers of draws and for two models on one replicate: they share draws, so
    their chips are not independent.
    """
    _require_share(share)
    table = read_rows(rows) if isinstance(rows, (str, Path)) else rows.rows if isinstance(rows, Result) else rows
    draws = by_draw(table)
    metric = metric or leading(draws)
    percent = quantity_of(draws, metric).unit == "%"
    if above is not None and (not math.isfinite(above) or (percent and above > 100)):
        end = "; 90 for 90 %" if percent else ""
        raise UserError(f"expected {metric} that can be reached as above, got {above:g}{end}")
    if above is not None and 0 < above <= 1 and percent:
        raise UserError(f"expected {metric} in percent as above, got {above:g}; {metric} is in percent: 90 for 90 %")
    require_one_of(draws, "metric", metric)
    draws = draws[draws["metric"] == metric]
    noisy = draws[~noise_free(draws)]
    if noisy.empty:
        raise UserError(f"expected rows with noise, got only {place(draws.iloc[0])}; evaluate under noise")
    if pooled:
        one_model_per_replicate(noisy, "crossed")
    result = Yield(noisy, above, share, pooled, nan_answers(table))
    for _ in result._chips():  # bad input is refused here
        pass
    return result


def share_bounds(reached: Any, chips: int, confidence: float = 0.95) -> tuple[Any, Any]:
    """Clopper and Pearson's exact lower and upper bound for a share, each one-sided with ``confidence``."""
    require_confidence(confidence)
    reached = np.asarray(reached)
    low = stats.beta.ppf(1 - confidence, reached, chips - reached + 1)
    high = stats.beta.ppf(confidence, reached + 1, chips - reached)
    return np.where(reached == 0, 0.0, low)[()], np.where(reached == chips, 1.0, high)[()]


def tolerance_bound(values: Any, share: float = 0.99, confidence: float = 0.95) -> float:
    """The largest order statistic that, with ``confidence``, at least ``share`` of the population reaches.

    It is the r-th smallest of n values with the largest r for which P(Binomial(n, 1 - share) >= r) >= confidence (S. S.
    Wilks' tolerance limit, Ann. Math. Stat. 12, 1941); NaN when there is none (too few values, :func:`chips_needed`)
    or a value is NaN.
    """
    _require_share(share)
    require_confidence(confidence)
    values = np.asarray(values, dtype=float)
    if np.isnan(values).any():
        return float("nan")
    failures = stats.binom(len(values), 1 - share)
    rank = int(failures.ppf(1 - confidence))  # the r above, except where ppf hits 1 - confidence exactly
    rank += bool(failures.cdf(rank) <= 1 - confidence)
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
    # The chips until one failure more than may be are those failures and a negative binomial number of good ones.
    return failures + 1 + int(stats.nbinom.ppf(confidence, failures + 1, 1 - share))


def _percentile(values: np.ndarray, quantile: float, confidence: float) -> dict[str, float]:
    if np.isnan(values).any():
        return {"value": np.nan, "low": np.nan, "high": np.nan}
    low, high = stats.quantile_test(values, p=quantile).confidence_interval(confidence)
    return {
        "value": float(np.quantile(values, quantile, method="inverted_cdf")),
        "low": float(low if low == low else -np.inf),
        "high": float(high if high == high else np.inf),
    }


def _require_share(share: float) -> None:
    if not 0 < share < 1:
        raise UserError(f"expected a share of chips between 0 and 1, got {share}; 0.99 means 99 of 100")
