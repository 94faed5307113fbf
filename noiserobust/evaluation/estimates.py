"""How long an evaluation will take, from a few of its draws."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from noiserobust.errors import UserError
from noiserobust.evaluation.evaluated_models import EvaluatedModels, Models
from noiserobust.evaluation.monte_carlo import draw_numbers, evaluate, noise_models
from noiserobust.evaluation.settings import Chips, Compute, Where
from noiserobust.evaluation.trained_ranges import suited
from noiserobust.noise import NoiseModel
from noiserobust.tasks import Scorer

FEW = 200
"""Images of the timed passes."""
MOST = 256
"""Draws that are timed at most."""


def expected_seconds(
    models: Models,
    data: Any = None,
    noises: NoiseModel | str | Sequence[NoiseModel | str] = "gaussian:0.05",
    draws: int | range = 10,
    *,
    images: int | None = None,
    model: Any = None,
    task: Any = None,
    chips: Chips = Chips(),
    compute: Compute = Compute(),
    where: Where = Where(),
    **others: Any,
) -> float:
    """About how long :func:`~noiserobust.evaluate` takes with these arguments where no row is known yet: timed draws of
    the first network under the first noise, on few images."""
    given = {"model": model, "task": task, "compute": compute, "where": where}
    networks = EvaluatedModels(models, data, images=images, **given)
    if isinstance(networks.task, Scorer):
        raise UserError(f"expected a task whose passes can be timed, got {networks.task}, which brings its own data")
    networks.copies = suited(networks.copies, chips)
    kinds, one, whole = noise_models(noises), networks.copies[0].source, len(networks.dataset)
    noise = next((kind for kind in kinds if kind.strength), kinds[0])

    def seconds(size: int, count: int) -> float:
        started = time.perf_counter()
        evaluate(one, networks.data, noise, count, images=size, chips=chips, **given)
        return time.perf_counter() - started

    def opening_and_draw(size: int) -> tuple[float, float]:
        """Seconds of what is done once for a network, and of a draw, on so many images."""
        first, count = seconds(size, 1), 4
        # As many draws as it takes to see them beside what is done once, whose seconds differ from time to time.
        while (taken := seconds(size, count)) < 2 * first and count < MOST:
            count *= 4
        draw = max(taken - first, 0.0) / (count - 1)
        return max(first - draw, 0.0), draw

    few, more = min(FEW, whole), min(4 * FEW, whole)
    opening_and_draw(few)  # warms up
    opening, draw = opening_and_draw(few)
    if more > few:
        draw += max(opening_and_draw(more)[1] - draw, 0.0) * (whole - few) / (more - few)
    return len(networks) * (opening + len(kinds) * len(draw_numbers(draws)) * draw)
