"""What can be said of a minimum: sharpness, gradients, weights, curvature. Training logs it, evaluation reports it."""

from noiserobust.measures.gradients import GradientCosine, GradientNorm
from noiserobust.measures.hessian import HessianTop, HessianTrace
from noiserobust.measures.measure import Measure, column, measure, metric
from noiserobust.measures.perturbation import Ascent, Filters, Perturbation, Random, Training, Unperturbed
from noiserobust.measures.sharpness import (
    Accuracy,
    AscentSharpness,
    AverageSharpness,
    FirstOrderSharpness,
    GradientSharpness,
    Loss,
    PerturbationRadius,
    PerturbedLoss,
)
from noiserobust.measures.subset import ESAMSubset
from noiserobust.measures.surface import Surface
from noiserobust.measures.weights import FilterNorms, MaxOverRms, Path, PathLength, WeightNorm, filter_norms_of

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
