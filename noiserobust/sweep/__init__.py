"""Grids of training runs and their evaluation, in one process or on a Ray cluster: only what is missing is computed."""

from noiserobust.sweep.executors import Executor, Local, OnRay
from noiserobust.sweep.grid import evaluations, runs_of, sweep
from noiserobust.sweep.pieces import Evaluating, Piece, Training

__all__ = ["Evaluating", "Executor", "Local", "OnRay", "Piece", "Training", "evaluations", "runs_of", "sweep"]
