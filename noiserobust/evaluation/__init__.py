"""Evaluating networks under weight noise."""

from noiserobust.evaluation.monte_carlo import Evaluation, evaluate
from noiserobust.evaluation.statistics import paired, summarize

__all__ = ["Evaluation", "evaluate", "paired", "summarize"]
