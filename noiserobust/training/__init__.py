"""Training networks that survive weight noise."""

from noiserobust.training.engine import Engine, Output
from noiserobust.training.fit import Run, TrainSettings, fit
from noiserobust.training.method import Method, Plain
from noiserobust.training.rwp import RWP
from noiserobust.training.sam import SAM
from noiserobust.training.schedules import Constant, Linear, OffToOn, Progress, Quadratic, Schedule

__all__ = [
    "RWP",
    "SAM",
    "Constant",
    "Engine",
    "Linear",
    "Method",
    "OffToOn",
    "Output",
    "Plain",
    "Progress",
    "Quadratic",
    "Run",
    "Schedule",
    "TrainSettings",
    "fit",
]
