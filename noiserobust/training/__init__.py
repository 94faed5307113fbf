"""Training networks that survive weight noise."""

from noiserobust.training.asam import ASAM
from noiserobust.training.engine import Engine, Output
from noiserobust.training.esam import ESAM
from noiserobust.training.fit import Run, fit
from noiserobust.training.gsam import GSAM
from noiserobust.training.looksam import LookSAM
from noiserobust.training.method import Method, Plain
from noiserobust.training.probability import Probability
from noiserobust.training.processes import Processes, torchrun
from noiserobust.training.rst import GRST, RST
from noiserobust.training.rwp import RWP
from noiserobust.training.rwp_mixed import MixedRWP
from noiserobust.training.sam import SAM
from noiserobust.training.schedules import Constant, Cosine, Linear, OffToOn, Progress, Quadratic, Schedule
from noiserobust.training.settings import TrainSettings
from noiserobust.training.ssam import SSAM
from noiserobust.training.trajectory import MESA, SAF

__all__ = [
    "ASAM",
    "ESAM",
    "GRST",
    "GSAM",
    "MESA",
    "RST",
    "RWP",
    "SAF",
    "SAM",
    "SSAM",
    "Constant",
    "Cosine",
    "Engine",
    "Linear",
    "LookSAM",
    "Method",
    "MixedRWP",
    "OffToOn",
    "Output",
    "Plain",
    "Probability",
    "Processes",
    "Progress",
    "Quadratic",
    "Run",
    "Schedule",
    "TrainSettings",
    "fit",
    "torchrun",
]
