"""Totals and means of what comes batch by batch."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from noiserobust.data import Batch
from noiserobust.errors import UserError

NAN_ANSWERS = "nan_answers"
"""Metric that says how many answers were no finite numbers; there is none where there were none. They are wrong."""


class Meter(Protocol):
    """A number, or several, of all answers, counted batch by batch: nothing but the count is kept."""

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Count the answers to one batch."""

    def compute(self) -> dict[str, float]:
        """What was counted, by the metrics' names."""


class Sums:
    """Sums over the first dimension of named values, on whatever device they come from."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, **values: Tensor) -> None:
        """Add the samples of each of the ``values``, (N,) or (N, K)."""
        for name, value in values.items():
            known = self._sums.get(name)
            self._sums[name] = value.sum(0) if known is None else known + value.sum(0)
            self._counts[name] = self._counts.get(name, 0) + len(value)

    def total(self, name: str) -> float:
        """The sum of an (N,) value."""
        return float(self._sums[name])

    def means(self, name: str) -> Tensor:
        """The mean over samples, (K,) of an (N, K) value; :class:`UserError` where there was none."""
        if not self._counts.get(name):
            raise UserError("expected samples with labels that count, got none; -100 is the label of what does not")
        return self._sums[name] / self._counts[name]

    def mean(self, name: str) -> float:
        """The mean of an (N,) value."""
        return float(self.means(name))

    @property
    def nan_answers(self) -> dict[str, float]:
        """The metric :data:`NAN_ANSWERS`, from the value ``unanswered``, where there is anything to say."""
        return {NAN_ANSWERS: count} if (count := self.total("unanswered")) else {}
