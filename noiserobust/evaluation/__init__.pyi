from .corruptions import corrupted
from .design.digital_layers import KeptDigital, keep_digital
from .design.layer_sensitivity import Sensitivity, sensitivity
from .design.noise_budget import Budget, budget
from .landscapes import landscape
from .measure_minima import sharpness
from .monte_carlo import Evaluation, evaluate
from .precision.to_precision import Target
from .statistics.noise_area import area
from .statistics.summary import paired, summarize
from .training_logs import trajectories

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
