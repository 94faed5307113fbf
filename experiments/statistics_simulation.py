"""Do the intervals cover, and are the components unbiased? Synthetic tables through the project's own formulas.

    python experiments/statistics_simulation.py

Every configuration of M = 3, 5, 10 models, K = 5, 10, 50 draws and several variance ratios makes 4,000 tables whose
true mean is 0 and counts how often the 95 % interval holds it (standard error of a coverage of 95 %: 0.34 points).
It prints the tables of docs/statistics.md, as Markdown. About half a minute of one core.
Expected: nested between 94 and 96 % everywhere (the interval is exact), crossed at least 94 %, components within
4 standard errors of the truth.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from scipy import stats

from noiserobust.evaluation.statistics.components import Design, components, interval, mean_squares
from noiserobust.report.table import as_markdown

TABLES = 4000
MODELS, DRAWS = (3, 5, 10), (5, 10, 50)
WEIGHT = (0.0, 0.01, 0.1, 1.0, 10.0)
"""Variance of the copies' effect, where a draw's own (residual) variance is 1."""
SHARED = (0.0, 0.1, 0.3, 1.0, 10.0)
"""Variance of what a draw does to all copies alike (crossed): 0.1 and 0.3 are correlations of 0.09 and 0.23."""
SIZES = tuple(product(MODELS, DRAWS))

Table = np.ndarray  # [table, model, draw]
Sampler = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.standard_normal(shape)


def skewed(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Mean 0, variance 1, skewness -1.4: as accuracies under noise have, a long tail of bad chips."""
    return (2 - generator.gamma(2.0, size=shape)) / np.sqrt(2)


def tables(name: str, models: int, draws: int, weight: float, shared: float, sample: Sampler = normal) -> Table:
    """``TABLES`` tables with the given variances and residual variance 1; ``name`` seeds them with their sizes."""
    seed = zlib.crc32(f"{name} {models} {draws} {weight} {shared}".encode())
    generator = np.random.default_rng(seed)
    copy = np.sqrt(weight) * sample(generator, (TABLES, models, 1))
    draw = np.sqrt(shared) * sample(generator, (TABLES, 1, draws))
    return copy + draw + sample(generator, (TABLES, models, draws))


def covered(low: np.ndarray, high: np.ndarray) -> float:
    return 100 * float(((low <= 0) & (high >= 0)).mean())


def coverage(values: Table, design: Design) -> float:
    return covered(*interval(values, design))


def width(values: Table, design: Design) -> float:
    low, high = interval(values, design)
    return float((high - low).mean())


def deviation(values: Table, design: Design, truths: dict[str, float]) -> float:
    """The largest distance of a component's mean from its truth, in standard errors of that mean."""
    parts = components(values, design)
    errors = {name: parts[name].std(ddof=1) / np.sqrt(TABLES) for name in truths}
    return max(abs(parts[name].mean() - truth) / errors[name] for name, truth in truths.items())


def pooled(values: Table) -> tuple[np.ndarray, np.ndarray]:
    """The rival of the nested interval: weight variance clamped at 0, and where it is, all values pooled."""
    models, draws = values.shape[-2:]
    between, noise = values.mean(-1).var(-1, ddof=1) * draws, values.var(-1, ddof=1).mean(-1)
    over, within = models - 1, models * (draws - 1)
    joint = (over * between + within * noise) / (over + within)
    clamped = between < noise
    square = np.where(clamped, joint, between) / (models * draws)
    half = stats.t.ppf(0.975, np.where(clamped, over + within, over)) * np.sqrt(square)
    mean = values.mean((-2, -1))
    return mean - half, mean + half


def satterthwaite(values: Table) -> tuple[np.ndarray, np.ndarray]:
    """The rival of the crossed interval: A + B - R with Satterthwaite's degrees of freedom."""
    models, draws = values.shape[-2:]
    a, b, r = mean_squares(values)
    total = np.maximum(a + b - r, np.maximum(a, b))
    freedom = total**2 / (a**2 / (models - 1) + b**2 / (draws - 1) + r**2 / ((models - 1) * (draws - 1)))
    freedom = np.maximum(freedom, min(models, draws) - 1)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(total / (models * draws))
    mean = values.mean((-2, -1))
    return mean - half, mean + half


def nested() -> Iterator[list[str]]:
    yield ["M", "K", "coverage", "largest bias", "paired", "left-skewed", "clamped and pooled: coverage"]
    for models, draws in SIZES:
        exact, skew, rival, z = [], [], [], []
        for weight in WEIGHT:
            values = tables("nested", models, draws, weight, 0.0)
            exact.append(coverage(values, "nested"))
            z.append(deviation(values, "nested", {"noise_variance": 1.0, "weight_variance": weight}))
            rival.append(covered(*pooled(values)))
            skew.append(coverage(tables("nested skewed", models, draws, weight, 0.0, skewed), "nested"))
        both = [coverage(difference("nested", models, draws, w), "nested") for w in WEIGHT]
        spans = [span(exact), f"{max(z):.1f}", span(both), span(skew), span(rival)]
        yield [str(models), str(draws), *spans]


def crossed() -> Iterator[list[str]]:
    measured = ["coverage", "largest bias", "paired", "left-skewed", "Satterthwaite: coverage", "width against it"]
    yield ["M", "K", *measured]
    for models, draws in SIZES:
        exact, skew, rival, z, wider = [], [], [], [], []
        for weight, shared in product(WEIGHT, SHARED):
            values = tables("crossed", models, draws, weight, shared)
            exact.append(coverage(values, "crossed"))
            truths = {"noise_variance": 1 + shared, "weight_variance": weight, "shared_variance": shared}
            z.append(deviation(values, "crossed", truths))
            low, high = satterthwaite(values)
            rival.append(covered(low, high))
            wider.append(width(values, "crossed") / float((high - low).mean()))
            skew.append(coverage(tables("crossed skewed", models, draws, weight, shared, skewed), "crossed"))
        both = [coverage(difference("crossed", models, draws, w, s), "crossed") for w, s in product(WEIGHT, SHARED)]
        spans = [span(exact), f"{max(z):.1f}", span(both), span(skew), span(rival)]
        yield [str(models), str(draws), *spans, f"{min(wider):.2f} to {max(wider):.2f}"]


def difference(name: str, models: int, draws: int, weight: float, shared: float = 0.0) -> Table:
    """Two methods on the same copies and draws, minus each other: large common effects, and each method's own."""
    common = 5 * tables(f"{name} common", models, draws, 1.0, 1.0 if name == "crossed" else 0.0)
    a, b = (common + tables(f"{name} {side}", models, draws, weight, shared) for side in "ab")
    return a - b


def shared_draws() -> Iterator[list[str]]:
    """What it costs to share draws, and to overlook that they are shared."""
    covers = ["nested formula covers", "crossed formula covers"]
    yield ["M", "K", "correlation", *covers, "crossed width / nested formula's", "crossed width / own draws'"]
    for models, draws in SIZES:
        for shared in (0.0, 0.1, 0.3):
            values = tables("shared", models, draws, 0.1, shared)
            # As much noise and as much spread of the copies, but every copy with draws of its own.
            apart = tables("own", models, draws, 0.1, 0.0) * np.sqrt((1 + shared + draws * 0.1) / (1 + draws * 0.1))
            yield [
                *(str(models), str(draws), f"{shared / (1 + shared):.2f}"),
                *(f"{coverage(values, design):.1f}" for design in ("nested", "crossed")),
                f"{width(values, 'crossed') / width(values, 'nested'):.2f}",
                f"{width(values, 'crossed') / width(apart, 'nested'):.2f}",
            ]


def span(percents: list[float]) -> str:
    return f"{min(percents):.1f} to {max(percents):.1f}"


def main() -> None:
    for title, table in (("Nested", nested()), ("Crossed", crossed()), ("Shared draws", shared_draws())):
        print(f"\n**{title}**\n\n{as_markdown(list(table))}", flush=True)


if __name__ == "__main__":
    from start import start

    start(main)
