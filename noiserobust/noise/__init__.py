"""Models of what an analog memory array does to the weights that it stores: errors of programming, drift, read noise.

A model is a small frozen value. Given a weight and a named random stream it makes a noisy weight, always the same one.
"""

from noiserobust.noise.additive import Gaussian, Laplace
from noiserobust.noise.base import Chip, NoiseModel, Sum, read_stream
from noiserobust.noise.cells import Cells
from noiserobust.noise.compensation import (
    Compensate,
    Compensation,
    check_compensation,
    compensated,
    compensation_factor,
    folded,
    read_out,
    rescaled,
)
from noiserobust.noise.correlated import Correlated
from noiserobust.noise.device import DeviceProfile, Devices
from noiserobust.noise.faults import Stuck
from noiserobust.noise.levels import Quantize
from noiserobust.noise.measured import Measured
from noiserobust.noise.measured_chips import MeasuredChips
from noiserobust.noise.multiplicative import LogNormal
from noiserobust.noise.own import Own
from noiserobust.noise.profiles import PCM, Hermes, ReRamCMO, ReRamWan2022, StateIndependent
from noiserobust.noise.reference import reference_scale
from noiserobust.noise.sliced import Sliced
from noiserobust.noise.write_verify import WriteVerify

parse = NoiseModel.parse

__all__ = [
    "PCM",
    "Cells",
    "Chip",
    "Compensate",
    "Compensation",
    "Correlated",
    "DeviceProfile",
    "Devices",
    "Gaussian",
    "Hermes",
    "Laplace",
    "LogNormal",
    "Measured",
    "MeasuredChips",
    "NoiseModel",
    "Own",
    "Quantize",
    "ReRamCMO",
    "ReRamWan2022",
    "Sliced",
    "StateIndependent",
    "Stuck",
    "Sum",
    "WriteVerify",
    "check_compensation",
    "compensated",
    "compensation_factor",
    "folded",
    "parse",
    "read_out",
    "read_stream",
    "reference_scale",
    "rescaled",
]
