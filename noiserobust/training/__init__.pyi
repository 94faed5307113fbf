from .ddp import Processes, torchrun
from .engine import Engine, Output
from .probability import Probability
from .rules.asam import ASAM
from .rules.base import Method, Plain
from .rules.esam import ESAM
from .rules.gsam import GSAM
from .rules.looksam import LookSAM
from .rules.mesa import MESA
from .rules.rst import GRST, RST
from .rules.rwp import RWP
from .rules.rwp_mixed import MixedRWP
from .rules.saf import SAF
from .rules.sam import SAM
from .rules.ssam import SSAM
from .runs import Run, load_run
from .schedules import Constant, Cosine, Linear, OffToOn, Progress, Quadratic, Schedule
from .settings import TrainSettings
from .teacher import Teacher
from .trainer import fit

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
    "Teacher",
    "TrainSettings",
    "fit",
    "load_run",
    "torchrun",
]
