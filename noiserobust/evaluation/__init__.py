"""Evaluating networks under weight noise."""

from noiserobust.evaluation.area import area
from noiserobust.evaluation.budget import Budget, budget
from noiserobust.evaluation.digital import KeptDigital, keep_digital
from noiserobust.evaluation.monte_carlo import Evaluation, evaluate
from noiserobust.evaluation.sensitivity import Sensitivity, sensitivity
from noiserobust.evaluation.statistics import paired, summarize
from noiserobust.evaluation.to_precision import Target

__all__ = [
    "Budget",
    "Evaluation",
    "KeptDigital",
    "Sensitivity",
    "Target",
    "area",
    "budget",
    "evaluate",
    "keep_digital",
    "paired",
    "sensitivity",
    "summarize",
]
