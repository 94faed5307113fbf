"""Evaluating networks: Monte Carlo under weight noise, measures of minima, landscapes, corrupted images, logs."""

from noiserobust.evaluation.area import area
from noiserobust.evaluation.budget import Budget, budget
from noiserobust.evaluation.corrupted import corrupted
from noiserobust.evaluation.digital import KeptDigital, keep_digital
from noiserobust.evaluation.landscape import landscape
from noiserobust.evaluation.monte_carlo import Evaluation, evaluate
from noiserobust.evaluation.sensitivity import Sensitivity, sensitivity
from noiserobust.evaluation.sharpness import sharpness
from noiserobust.evaluation.statistics import paired, summarize
from noiserobust.evaluation.to_precision import Target
from noiserobust.evaluation.trajectory import trajectories

__all__ = [
    "Budget",
    "Evaluation",
    "KeptDigital",
    "Sensitivity",
    "Target",
    "area",
    "budget",
    "corrupted",
    "evaluate",
    "keep_digital",
    "landscape",
    "paired",
    "sensitivity",
    "sharpness",
    "summarize",
    "trajectories",
]
