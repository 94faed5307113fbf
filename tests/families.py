"""Every family of things that are found by name, by the word that ``noiserobust list`` has for it."""

from __future__ import annotations

from noiserobust.analog.backends import Backend
from noiserobust.analog.converters import Converters
from noiserobust.analog.ranges import InputRanges
from noiserobust.data import DataSource
from noiserobust.minima import Measure, Perturbation
from noiserobust.models import ModelSpec
from noiserobust.noise import NoiseModel
from noiserobust.spec import Described
from noiserobust.tasks import Task
from noiserobust.tasks.metrics import Metric
from noiserobust.training import Method, Probability, Schedule
from noiserobust.training.averages import Average
from noiserobust.training.clipping import Clip

ROOTS: dict[str, type[Described]] = {
    "noises": NoiseModel,
    "methods": Method,
    "measures": Measure,
    "tasks": Task,
    "metrics": Metric,
    "models": ModelSpec,
    "data": DataSource,
    "schedules": Schedule,
    "probabilities": Probability,
    "averages": Average,
    "clippings": Clip,
    "converters": Converters,
    "ranges": InputRanges,
    "perturbations": Perturbation,
    "backends": Backend,
}
