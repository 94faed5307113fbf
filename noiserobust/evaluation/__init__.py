"""Evaluating networks: Monte Carlo under weight noise, measures of minima, landscapes, corrupted images, logs."""

from noiserobust.evaluation.corrupted import corrupted
from noiserobust.evaluation.landscape import landscape
from noiserobust.evaluation.monte_carlo import Evaluation, evaluate
from noiserobust.evaluation.sharpness import sharpness
from noiserobust.evaluation.statistics import paired, summarize
from noiserobust.evaluation.trajectory import trajectories

__all__ = ["Evaluation", "corrupted", "evaluate", "landscape", "paired", "sharpness", "summarize", "trajectories"]
