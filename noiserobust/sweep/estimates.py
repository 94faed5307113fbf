"""How long a grid of trainings and evaluations will take, from a few steps and draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from noiserobust.evaluation.estimates import expected_seconds as seconds_of_draws
from noiserobust.evaluation.settings import grouped
from noiserobust.models.sizes import built
from noiserobust.sweep.pieces import Evaluating, Training, data_of
from noiserobust.training import TrainSettings
from noiserobust.training.estimates import expected_seconds as seconds_of_run


def expected_seconds(
    trainings: Sequence[Training], evaluations: Sequence[Evaluating], workers: int = 1
) -> tuple[float, float]:
    """About how long what is missing of both takes on this machine: each kind of run is timed once, and a draw for each
    kind of network, whose weights need no training for that."""
    runs: dict[TrainSettings, float] = {}
    draws: dict[object, float] = {}
    first = second = 0.0
    for training in trainings:
        if not training.result.is_file():
            kind = replace(training.settings, seed=0)
            if kind not in runs:
                runs[kind] = seconds_of_run(kind, data_of(kind))
            first += runs[kind]
    for piece in evaluations:
        if not piece.result.is_file():
            settings = piece.trained.settings
            one = settings.model, settings.data, settings.data_root, settings.image_size, piece.options
            if one not in draws:
                splits = data_of(settings)
                network = built(settings.model, splits.test.channels, len(splits.test.classes)).eval()
                data = settings.normalized(splits).test
                draws[one] = seconds_of_draws(network, data, piece.noise, 1, **grouped(dict(piece.options)))
            second += draws[one] * piece.draws
    return first / workers, second / workers
