"""Evaluating networks under weight noise."""

from noiserobust.evaluation.area import area
from noiserobust.evaluation.monte_carlo import Evaluation, evaluate
from noiserobust.evaluation.statistics import paired, summarize
from noiserobust.evaluation.to_precision import Target

__all__ = ["Evaluation", "Target", "area", "evaluate", "paired", "summarize"]
