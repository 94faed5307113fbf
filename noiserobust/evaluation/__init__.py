"""Evaluating networks under weight noise."""

from noiserobust.evaluation.area import area
from noiserobust.evaluation.monte_carlo import Evaluation, evaluate
from noiserobust.evaluation.statistics import paired, summarize

__all__ = ["Evaluation", "area", "evaluate", "paired", "summarize"]
