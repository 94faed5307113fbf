"""What a network's outputs mean: tasks, their losses and metrics, further metrics; data made ready for passes."""

from noiserobust.tasks.base import Task
from noiserobust.tasks.classification import Classification
from noiserobust.tasks.harness import Harness
from noiserobust.tasks.regression import Regression
from noiserobust.tasks.scorer import Score, Scorer, task_of
from noiserobust.tasks.segmentation import Segmentation
from noiserobust.tasks.tokens import Tokens
from noiserobust.tasks.yes_or_no import Binary, MultiLabel

__all__ = [
    "Binary",
    "Classification",
    "Harness",
    "MultiLabel",
    "Regression",
    "Score",
    "Scorer",
    "Segmentation",
    "Task",
    "Tokens",
    "task_of",
]
