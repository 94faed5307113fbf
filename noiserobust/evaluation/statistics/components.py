"""From ``values[model, draw]`` to a mean, variance components and an interval: the formulas, on arrays.

M trained copies of a method, K noise draws, in one of two designs:

    nested    value[m, k] = mu + a[m] + e[m, k]             every copy has K draws of its own
    crossed   value[m, k] = mu + a[m] + b[k] + e[m, k]      all copies share the same K draws

with independent effects of mean 0. var a is the weight variance; var e (nested) or var b + var e (crossed) the noise
variance. Symbols: y[m] is the mean of copy m over draws, z[k] of draw k over copies,

    A = K var_m y[m],    B = M var_k z[k],    R = sum (value - y[m] - z[k] + mean)^2 / ((M - 1)(K - 1)),

variances with ddof 1 (the mean squares of an analysis of variance: S. R. Searle, G. Casella, C. E. McCulloch, "Variance
Components", 1992, chapter 4).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from noiserobust.errors import UserError

Design = Literal["nested", "crossed"]


def components(values: np.ndarray, design: Design = "nested") -> dict[str, Any]:
    """Mean, spreads and unclamped variance components of ``values[..., model, draw]``, each of shape ``[...]``.

    - ``mean`` = mean of all values
    - ``noise_variance`` = mean_m s2[m], the variance of copy m over its draws (ddof 1); ``noise_std`` its root
    - ``weight_std`` = std_m y[m] (ddof 1), which contains noise / K
    - ``weight_variance`` = var_m y[m] - noise_variance / K (nested) or var_m y[m] - R / K (crossed)
    - ``shared_variance`` = (B - R) / M (crossed): the part of the noise variance that all copies have in common

    The last two may be negative: clamping them at 0 would bias them. What cannot be had is NaN: noise from one draw,
    weight from one copy, shared variance in a nested design.
    """
    require_design(design)
    models, draws = values.shape[-2:]
    with np.errstate(invalid="ignore"):  # an infinite loss gives NaN spreads, not a warning
        between, noise = _variance(values.mean(axis=-1)), _variance(values).mean(axis=-1)
        residual, shared = noise, np.full_like(noise, np.nan)
        if design == "crossed":
            _, by_draw, residual = mean_squares(values)
            shared = (by_draw - residual) / models
        return {
            "mean": values.mean(axis=(-2, -1)),
            "noise_std": np.sqrt(noise),
            "weight_std": np.sqrt(between),
            "noise_variance": noise,
            "weight_variance": between - residual / draws,
            "shared_variance": shared,
        }


def interval(values: np.ndarray, design: Design = "nested", confidence: float = 0.95) -> tuple[Any, Any]:
    """``low`` and ``high`` for mu from ``values[..., model, draw]``, each of shape ``[...]``.

    Nested: mean ± t_{M-1} sqrt(A / (M K)). A / K is the variance of the y[m] and holds the noise's share already: exact
    for normal effects, whatever their sizes.

    Crossed: mean ± h, which adds the intervals over copies and over draws by squares, counting R once
    (subtracted from the one or the other, whichever leaves the wider interval):

        h^2 = max(t_{M-1}^2 A + t_{K-1}^2 [B - R]+,  t_{K-1}^2 B + t_{M-1}^2 [A - R]+) / (M K)

    Adding t intervals by squares is K. S. Banerjee's ("On confidence interval for two-means problem based on separate
    estimates of variances and tabulated values of t-table", Sankhya A 23, 1961); docs/statistics.md has its measured
    coverage beside Satterthwaite's.

    Either design: one copy gives mean ± t_{K-1} std / sqrt(K) over its draws, and says nothing about another training;
    crossed with one draw, the interval is over models under that draw alone.
    """
    from scipy import stats

    require_design(design)
    models, draws = values.shape[-2:]
    with np.errstate(invalid="ignore"):
        mean = values.mean(axis=(-2, -1))
        over_models, over_draws = stats.t.ppf((1 + confidence) / 2, [models - 1, draws - 1]) ** 2
        if models == 1:
            square = over_draws * _variance(values[..., 0, :]) / draws
        elif design == "nested" or draws == 1:
            square = over_models * _variance(values.mean(axis=-1)) / models
        else:
            by_model, by_draw, residual = mean_squares(values)
            models_first = over_models * by_model + over_draws * np.maximum(by_draw - residual, 0)
            draws_first = over_draws * by_draw + over_models * np.maximum(by_model - residual, 0)
            square = np.maximum(models_first, draws_first) / (models * draws)
        return mean - np.sqrt(square), mean + np.sqrt(square)


def interval_over(models: int, draws: int, design: Design) -> str:
    """What another sample would be of: in a nested design a model comes with draws of its own."""
    if models == 1:
        return "draws"
    return "models" if design == "nested" or draws == 1 else "models and draws"


def require_design(design: str) -> None:
    if design not in get_args(Design):
        raise UserError(f"expected a design ({' or '.join(get_args(Design))}), got '{design}'")


def require_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UserError(f"expected a confidence between 0 and 1, got {confidence}; 0.95 is usual")


def mean_squares(values: np.ndarray) -> tuple[Any, Any, Any]:
    """A, B and R, each of shape ``[...]``; NaN where one model or one draw leaves nothing to compute them from."""
    models, draws = values.shape[-2:]
    y, z = values.mean(axis=-1, keepdims=True), values.mean(axis=-2, keepdims=True)
    rest = values - y - z + values.mean(axis=(-2, -1), keepdims=True)
    freedom = (models - 1) * (draws - 1)
    residual = (rest**2).sum(axis=(-2, -1)) / (freedom or np.nan)
    return draws * _variance(y[..., 0]), models * _variance(z[..., 0, :]), residual


def _variance(values: np.ndarray) -> Any:
    """Variance (ddof 1) along the last axis; NaN, without numpy's warning, where there is a single value."""
    if values.shape[-1] < 2:
        return np.full_like(values.mean(axis=-1), np.nan)
    return values.var(axis=-1, ddof=1)
