"""Evaluating networks: Monte Carlo under weight noise, measures of minima, landscapes, corrupted images, logs."""

from noiserobust.evaluation.corruptions import Corrupted, corrupted
from noiserobust.evaluation.design.chip_yield import Yield, yields
from noiserobust.evaluation.design.digital_layers import KeptDigital, Search, Stop, keep_digital
from noiserobust.evaluation.design.layer_sensitivity import Sensitivity, sensitivity
from noiserobust.evaluation.design.noise_budget import Axis, Budget, budget
from noiserobust.evaluation.landscapes import Landscape, landscape
from noiserobust.evaluation.measure_minima import Sharpness, sharpness
from noiserobust.evaluation.monte_carlo import Evaluation, evaluate
from noiserobust.evaluation.precision.to_precision import Target
from noiserobust.evaluation.result import Result
from noiserobust.evaluation.settings import Chips, Compute, Where
from noiserobust.evaluation.statistics.noise_area import area
from noiserobust.evaluation.statistics.summary import paired, summarize
from noiserobust.evaluation.training_logs import Trajectories, trajectories

__all__ = [
    "Axis",
    "Budget",
    "Chips",
    "Compute",
    "Corrupted",
    "Evaluation",
    "KeptDigital",
    "Landscape",
    "Result",
    "Search",
    "Sensitivity",
    "Sharpness",
    "Stop",
    "Target",
    "Trajectories",
    "Where",
    "Yield",
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
    "yields",
]
