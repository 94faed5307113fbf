"""Training networks that survive weight noise."""

from noiserobust.training.ddp import Processes, torchrun
from noiserobust.training.engine import Engine, Output
from noiserobust.training.probability import Probability
from noiserobust.training.rules.asam import ASAM
from noiserobust.training.rules.base import Method, Plain
from noiserobust.training.rules.esam import ESAM
from noiserobust.training.rules.gsam import GSAM
from noiserobust.training.rules.looksam import LookSAM
from noiserobust.training.rules.mesa import MESA
from noiserobust.training.rules.rst import GRST, RST
from noiserobust.training.rules.rwp import RWP
from noiserobust.training.rules.rwp_mixed import MixedRWP
from noiserobust.training.rules.saf import SAF
from noiserobust.training.rules.sam import SAM
from noiserobust.training.rules.ssam import SSAM
from noiserobust.training.runs import Run, load_run
from noiserobust.training.schedules import Constant, Cosine, Linear, OffToOn, Progress, Quadratic, Schedule
from noiserobust.training.settings import TrainSettings
from noiserobust.training.trainer import fit

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
    "load_run",
    "torchrun",
]
