from . import design, precision, statistics
from .corruptions import Corrupted, corrupted
from .design.chip_yield import Yield, yields
from .design.digital_layers import KeptDigital, Search, Stop, keep_digital
from .design.layer_sensitivity import Sensitivity, sensitivity
from .design.noise_budget import Axis, Budget, budget
from .landscapes import Landscape, landscape
from .measure_minima import Sharpness, sharpness
from .monte_carlo import Evaluation, evaluate
from .precision.to_precision import Target
from .programming import Programming, program
from .result import Result, wide
from .settings import Chips, Compute, Where
from .statistics.noise_area import area
from .statistics.summary import paired, summarize
from .training_logs import Trajectories, trajectories

__all__ = [
    "Axis",
    "Budget",
    "Chips",
    "Compute",
    "Corrupted",
    "Evaluation",
    "KeptDigital",
    "Landscape",
    "Programming",
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
    "design",
    "evaluate",
    "keep_digital",
    "landscape",
    "paired",
    "precision",
    "program",
    "sensitivity",
    "sharpness",
    "statistics",
    "summarize",
    "trajectories",
    "wide",
    "yields",
]
