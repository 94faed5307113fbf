"""Train and evaluate neural networks that survive the weight noise of analog in-memory-computing chips.

- :mod:`noiserobust.noise`: what an array does to the weights it stores
- :mod:`noiserobust.training`: methods, schedules, and the engine that runs them
- :mod:`noiserobust.evaluation`: Monte Carlo under noise, and its statistics
- :mod:`noiserobust.models`, :mod:`noiserobust.data`, :mod:`noiserobust.report`
"""

from noiserobust import noise
from noiserobust.analog.coverage import Coverage, coverage
from noiserobust.analog.noisy import perturbed
from noiserobust.analog.weights import analog_weights
from noiserobust.errors import UserError
from noiserobust.evaluation import Evaluation, evaluate
from noiserobust.rng import Stream

__all__ = [
    "Coverage",
    "Evaluation",
    "Stream",
    "UserError",
    "analog_weights",
    "coverage",
    "evaluate",
    "noise",
    "perturbed",
]
__version__ = "0.1.0"
