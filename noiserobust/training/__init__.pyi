from . import checkpointing, loggers, rules, schedules
from .ddp import Processes, torchrun
from .engine import Engine, Output
from .loggers import CSV, Logger, TensorBoard, WandB
from .probability import Probability
from .rules.amp import AMP
from .rules.arwp import ARWP, MixedARWP
from .rules.asam import ASAM
from .rules.base import Method, Plain
from .rules.esam import ESAM
from .rules.fsam import FSAM
from .rules.gsam import GSAM
from .rules.looksam import LookSAM
from .rules.lpf_sgd import LPFSGD
from .rules.mesa import MESA
from .rules.rst import GRST, RST
from .rules.rwp import RWP
from .rules.rwp_mixed import MixedRWP
from .rules.saf import SAF
from .rules.sam import SAM
from .rules.samson import SAMSON
from .rules.ssam import SSAM
from .rules.vasso import VaSSO
from .runs import Run, load_run
from .schedules import Constant, Cosine, HalfNormal, Linear, Normal, OffToOn, Progress, Quadratic, Schedule, Uniform
from .settings import TrainSettings
from .teacher import Teacher
from .trainer import fit

__all__ = [
    "AMP",
    "ARWP",
    "ASAM",
    "CSV",
    "ESAM",
    "FSAM",
    "GRST",
    "GSAM",
    "LPFSGD",
    "MESA",
    "RST",
    "RWP",
    "SAF",
    "SAM",
    "SAMSON",
    "SSAM",
    "Constant",
    "Cosine",
    "Engine",
    "HalfNormal",
    "Linear",
    "Logger",
    "LookSAM",
    "Method",
    "MixedARWP",
    "MixedRWP",
    "Normal",
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
    "TensorBoard",
    "TrainSettings",
    "Uniform",
    "VaSSO",
    "WandB",
    "checkpointing",
    "fit",
    "load_run",
    "loggers",
    "rules",
    "schedules",
    "torchrun",
]
