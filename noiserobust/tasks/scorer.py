"""Any task at all: a function scores the network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.spec import Described
from noiserobust.spec.references import digest_of, load, one_line, reference_to
from noiserobust.tasks.base import Task
from noiserobust.tasks.counts import Meter
from noiserobust.tasks.metrics import numbers


@dataclass(frozen=True)
class Scorer(Task):
    """Base of tasks that score a whole network and bring their own data.

    They find the network in eval mode, without gradients, its weights as they are on the chip. What needs losses or
    samples of this package (training, precision targets, sharpness, landscapes) is closed to them.
    """

    @abstractmethod
    def score(self, model: nn.Module) -> dict[str, float]:
        """Numbers of ``model`` by name: :attr:`metric` first, or the one that stands for it."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """16 hex digits that name what the numbers depend on besides the network."""

    def losses(self, predictions: Tensor, batch: Batch) -> Tensor:
        raise self._closed()

    def meter(self) -> Meter:
        raise self._closed()

    def _closed(self) -> UserError:
        return UserError(f"expected a task with losses of samples, got {self}, which scores the whole network")


@dataclass(frozen=True)
class Score(Scorer, name="score"):
    """Whatever a function of the network says: ``function(model)`` gives a number, or several by name.

    - ``function``: ``package.module:function``; in Python the function itself will do (``task=function``).
    - ``metric``: what is shown and chosen by; left out, the first number.
    - ``less``: whether less of it is better.
    """

    example: ClassVar[str] = "score:my_task:score"

    function: str
    metric: str = "score"
    less: bool = False
    _at_hand = None

    @staticmethod
    def of(function: Callable[[nn.Module], Any]) -> Score:
        """The task of a function that is at hand, which need not be found by its name again."""
        named = function if hasattr(function, "__qualname__") else type(function)
        task = Score(reference_to(named))
        object.__setattr__(task, "_at_hand", function)
        return task

    def score(self, model: nn.Module) -> dict[str, float]:
        """What the function says of ``model``, by name: :attr:`metric` first."""
        function = self._function
        with one_line(f"{self}: expected a function of the network that gives numbers"):
            value = function(model)
        if isinstance(value, Mapping):
            values = {key: one for name, part in value.items() for key, one in numbers(str(name), part).items()}
        else:
            values = numbers(self.metric, value)
        if not values:
            raise UserError(f"expected a number, or numbers by name, from {self.function}, got none")
        first = self.metric if self.metric in values else next(iter(values))
        return {first: values[first], **values}

    @property
    def digest(self) -> str:
        """16 hex digits that name the function: its name and text, and the plain values that it holds.

        Others (data that it reads) are not looked at: name another file for the rows where they change.
        """
        return digest_of(self._function, self.function)

    @property
    def _function(self) -> Any:
        return self._at_hand or load(self.function)


def task_of(task: Any, data: Any = None) -> Task | None:
    """The task that a person named (a task, its text, or a scoring function); of ``data`` that are a function, it."""
    for given in (task, data):
        if callable(given) and not isinstance(given, (Described, type)):
            return Score.of(given)
    return None if task is None else Task.parse(task)
