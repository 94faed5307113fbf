from . import (
    analog,
    data,
    evaluation,
    integrations,
    memory,
    minima,
    models,
    noise,
    page,
    report,
    rng,
    sweep,
    tasks,
    training,
)
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
    "analog",
    "analog_weights",
    "budget",
    "corrupted",
    "coverage",
    "data",
    "evaluate",
    "evaluation",
    "integrations",
    "keep_digital",
    "landscape",
    "load_run",
    "memory",
    "minima",
    "models",
    "noise",
    "page",
    "perturbed",
    "report",
    "rng",
    "sensitivity",
    "sharpness",
    "sweep",
    "tasks",
    "training",
    "yields",
]
__version__: str
