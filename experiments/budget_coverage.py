"""How often the interval of a noise budget holds the true budget: 95 % where slopes are normal, less under skew.

Synthetic losses of 100 g x^2 points whose slope g has mean 1 and varies between trained models (std 0.15) and between
draws (normal, std 0.3; or skewed: log-normal, std 0.53, skewness 1.8). The budget is the x at which the mean loss is 2
points, sqrt(0.02). Its interval is that of ``evaluation.design.crossing.search`` on the t interval of the
mean loss, over models where there are several. 2,000 repetitions per number: a standard error of 0.5 points. One minute
on one core.

    python experiments/budget_coverage.py
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy import stats

from noiserobust.evaluation.design.crossing import Point, Range, crossing, search

Shape = Literal["normal", "skewed"]
LIMIT = 2.0
TRUTH = math.sqrt(LIMIT / 100)
DESIGNS = [(1, 5), (1, 10), (1, 50), (3, 10), (5, 10), (10, 10)]


def slopes(generator: np.random.Generator, models: int, draws: int, shape: Shape) -> np.ndarray:
    """(models, draws) slopes of mean 1; one model alone is the one that the interval is for."""
    between = 1 + 0.15 * generator.normal(size=(models, 1)) * (models > 1)
    if shape == "normal":
        return between + 0.3 * generator.normal(size=(models, draws))
    return between * generator.lognormal(-0.125, 0.5, size=(models, draws))


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % t interval, over models where there are several, else over draws."""
    units = values.mean(axis=1) if len(values) > 1 else values[0]
    half = stats.t.ppf(0.975, len(units) - 1) * units.std(ddof=1) / math.sqrt(len(units))
    return units.mean(), units.mean() - half, units.mean() + half


def coverage(models: int, draws: int, shape: Shape, repetitions: int, seed: int) -> tuple[float, float]:
    """Share of the intervals that hold the true budget, and how many values were tried on average."""
    generator = np.random.default_rng(seed)
    hits, tried = 0, 0
    for _ in range(repetitions):
        mean, low, high = interval(slopes(generator, models, draws, shape))

        def measure(x: float, slopes: tuple[float, float, float] = (mean, low, high)) -> Point:
            return Point(x, *(100 * slope * x * x for slope in slopes))

        axis = Range(0, 1)
        points = search(measure, axis, LIMIT)
        answer = crossing(points, axis, LIMIT)
        hits += answer.low <= TRUTH <= answer.high
        tried += len(points)
    return hits / repetitions, tried / repetitions


def main() -> None:
    print("| models | draws | normal slopes | skewed slopes | values tried |\n| --- | --- | --- | --- | --- |")
    for models, draws in DESIGNS:
        normal, tried = coverage(models, draws, "normal", 2000, seed=1)
        skewed, _ = coverage(models, draws, "skewed", 2000, seed=2)
        print(f"| {models} | {draws} | {100 * normal:.1f} % | {100 * skewed:.1f} % | {tried:.1f} |", flush=True)


if __name__ == "__main__":
    from start import start

    start(main)
