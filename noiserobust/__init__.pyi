from . import noise
from .analog.coverage import Coverage, coverage
from .analog.noisy import perturbed
from .analog.weights import analog_weights
from .errors import UserError
from .evaluation import (
    Chips,
    Compute,
    Evaluation,
    Where,
    budget,
    corrupted,
    evaluate,
    keep_digital,
    landscape,
    sensitivity,
    sharpness,
    yields,
)
from .rng import Stream
from .training import load_run

__all__ = [
    "Chips",
    "Compute",
    "Coverage",
    "Evaluation",
    "Stream",
    "UserError",
    "Where",
    "analog_weights",
    "budget",
    "corrupted",
    "coverage",
    "evaluate",
    "keep_digital",
    "landscape",
    "load_run",
    "noise",
    "perturbed",
    "sensitivity",
    "sharpness",
    "yields",
]
__version__: str
