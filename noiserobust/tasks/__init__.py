"""What a network's outputs mean: tasks, their losses and metrics, further metrics; data made ready for passes."""

from noiserobust.tasks.base import Meter, Task
from noiserobust.tasks.classification import Classification

__all__ = ["Classification", "Meter", "Task"]
