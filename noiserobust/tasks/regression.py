"""Numbers as answers: squared and absolute errors, explained variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from noiserobust.data import Batch, Labelled
from noiserobust.errors import UserError
from noiserobust.tasks.base import Task, checked_labels
from noiserobust.tasks.counts import Meter, Sums


@dataclass(frozen=True)
class Regression(Task, name="regression"):
    """Numbers as answers: predictions and labels of shape (B,) or (B, K), in the labels' units.

    ``mse`` (also ``loss``) is the mean squared error over samples and outputs, ``mae`` the mean absolute one, ``r2``
    the share of the labels' variance that is explained, as the mean over outputs (1 at best).

    - ``metric``: what is shown and chosen by: ``mse``, ``mae`` or ``r2``.
    """

    example: ClassVar[str] = "regression:mae"
    names: ClassVar[tuple[str, ...]] = ("mse", "mae", "r2", "loss")
    leading: ClassVar[Any] = "changed"

    metric: Literal["mse", "mae", "r2"] = "mse"

    def suited(self, data: Labelled) -> Regression:
        checked_labels(self, data.labels, numbers=True)
        return self

    def check(self, predictions: Tensor, batch: Batch, outputs: int) -> None:
        _aligned(predictions, batch.labels)

    def losses(self, predictions: Tensor, batch: Batch) -> Tensor:
        answers, labels = _aligned(predictions, batch.labels)
        return (answers - labels).square().flatten(1).mean(1)

    def pairs(self, predictions: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return _aligned(predictions, batch.labels)

    def meter(self) -> Meter:
        return _Errors(self)

    def outputs(self, data: Labelled) -> int:
        return data.labels[0].numel()


class _Errors:
    """In float64, the labels counted from the first batch's mean: large offsets cancel without loss."""

    def __init__(self, task: Regression) -> None:
        self.task, self.sums = task, Sums()
        self.origin: Tensor | None = None

    def update(self, predictions: Tensor, batch: Batch) -> None:
        answers, labels = (side.double().flatten(1) for side in _aligned(predictions, batch.labels))
        self.origin = origin = labels.mean(0) if self.origin is None else self.origin
        error, shifted = answers - labels, labels - origin
        self.sums.add(square=error.square(), absolute=error.abs(), label=shifted, label_square=shifted.square())
        self.sums.add(unanswered=~answers.isfinite().all(1))

    def compute(self) -> dict[str, float]:
        square, absolute, label, label_square = (
            self.sums.means(name) for name in ("square", "absolute", "label", "label_square")
        )
        # Of an output whose labels are all the same there is no variance to explain.
        r2 = 1 - square / (label_square - label.square())
        values = {"mse": float(square.mean()), "mae": float(absolute.mean()), "r2": float(r2.mean())}
        first = self.task.metric
        return {first: values.pop(first), **values, "loss": float(square.mean()), **self.sums.nan_answers}


def _aligned(predictions: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K) each, in float32 or better; :class:`UserError` unless each label has a prediction."""
    sides = [side.squeeze(1) if side.dim() == 2 and side.shape[1] == 1 else side for side in (predictions, labels)]
    if sides[0].shape != sides[1].shape:
        raise UserError(
            f"expected a model that gives a number for each label, of shape {tuple(labels.shape)}, got "
            f"{tuple(predictions.shape)}"
        )
    answers = sides[0] if sides[0].dtype.itemsize >= 4 and sides[0].is_floating_point() else sides[0].float()
    return tuple(side.to(answers.dtype).reshape(len(labels), -1) for side in (answers, sides[1]))  # type: ignore[return-value]
