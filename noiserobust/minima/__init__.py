"""Measures of trained networks: sharpness, gradients, weights, curvature; training logs and evaluation reports them."""

from noiserobust.minima.base import Measure, column, measure, metric
from noiserobust.minima.gradients import GradientCosine, GradientNorm
from noiserobust.minima.hessian import HessianTop, HessianTrace
from noiserobust.minima.perturbations import Ascent, Filters, Perturbation, Random, Training, Unperturbed
from noiserobust.minima.sharpness import (
    Accuracy,
    AscentSharpness,
    AverageSharpness,
    FirstOrderSharpness,
    GradientSharpness,
    Loss,
    PerturbationRadius,
    PerturbedLoss,
)
from noiserobust.minima.subset import ESAMSubset
from noiserobust.minima.surface import Surface
from noiserobust.minima.weights import FilterNorms, MaxOverRms, Path, PathLength, WeightNorm, filter_norms_of

__all__ = [
    "Accuracy",
    "Ascent",
    "AscentSharpness",
    "AverageSharpness",
    "ESAMSubset",
    "FilterNorms",
    "Filters",
    "FirstOrderSharpness",
    "GradientCosine",
    "GradientNorm",
    "GradientSharpness",
    "HessianTop",
    "HessianTrace",
    "Loss",
    "MaxOverRms",
    "Measure",
    "Path",
    "PathLength",
    "Perturbation",
    "PerturbationRadius",
    "PerturbedLoss",
    "Random",
    "Surface",
    "Training",
    "Unperturbed",
    "WeightNorm",
    "column",
    "filter_norms_of",
    "measure",
    "metric",
]
