"""What an analog array does to the weights it stores: pure functions from a weight and a named stream to a weight."""

from noiserobust.noise.additive import Gaussian, Laplace
from noiserobust.noise.base import Chip, NoiseModel, Sum
from noiserobust.noise.reference import reference_scale

parse = NoiseModel.parse

__all__ = ["Chip", "Gaussian", "Laplace", "NoiseModel", "Sum", "parse", "reference_scale"]
