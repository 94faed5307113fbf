from . import noise
from .analog.coverage import Coverage, coverage
from .analog.noisy import perturbed
from .analog.weights import analog_weights
from .errors import UserError
from .evaluation import Evaluation, evaluate
from .rng import Stream
from .training import load_run

__all__ = [
    "Coverage",
    "Evaluation",
    "Stream",
    "UserError",
    "analog_weights",
    "coverage",
    "evaluate",
    "load_run",
    "noise",
    "perturbed",
]
__version__: str
