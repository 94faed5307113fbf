"""Grids of training runs and their evaluation, in one process or on a Ray cluster: only what is missing is computed."""

from noiserobust.sweep.executors import Executor, Local, OnRay
from noiserobust.sweep.grid import evaluations, runs_of, sweep
from noiserobust.sweep.pieces import Evaluating, Piece, Training
from noiserobust.sweep.recommendation import Recommendation, recommend

__all__ = [
    "Evaluating",
    "Executor",
    "Local",
    "OnRay",
    "Piece",
    "Recommendation",
    "Training",
    "evaluations",
    "recommend",
    "runs_of",
    "sweep",
]
