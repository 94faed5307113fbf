"""One class per sample: accuracy, cross-entropy and margins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from noiserobust.data import Batch, Labelled
from noiserobust.errors import UserError
from noiserobust.tasks.base import Task, checked_labels, class_divergence
from noiserobust.tasks.counts import NAN_ANSWERS, Meter


@dataclass(frozen=True)
class Classification(Task, name="classification"):
    """One class per sample, the one of the largest logit: logits (B, C), labels (B,) from 0.

    ``accuracy`` in percent and ``loss``, the mean cross-entropy in nats. An answer that is not finite is wrong.

    - ``label_smoothing``: of the training loss (labels may then be probabilities, B x C, too); metrics have none.
    """

    example: ClassVar[str] = "classification"
    names: ClassVar[tuple[str, ...]] = ("accuracy", "loss")
    leading: ClassVar[Any] = "by key"

    label_smoothing: float = 0.0

    metric: ClassVar[str] = "accuracy"  # type: ignore[misc]

    def suited(self, data: Labelled) -> Classification:
        labels = checked_labels(self, data.labels, dims=(1,))
        if int(labels.min()) < 0:
            raise UserError(f"expected labels from 0 on (class numbers), got {int(labels.min())}")
        return self

    def losses(self, predictions: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(
            predictions, batch.labels, reduction="none", label_smoothing=self.label_smoothing
        )

    def meter(self) -> Meter:
        return _Accuracy()

    def check(self, predictions: Tensor, batch: Batch, outputs: int) -> None:
        if len(logits_of_classes(predictions, outputs)) != len(batch):
            raise UserError(
                f"expected a model that gives a row of logits for each of {len(batch)} inputs, got {len(predictions)}"
            )

    def answers(self, predictions: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The margin is the logit of the class minus the largest other one (infinite where there is no other)."""
        logits, labels = logits_of_classes(predictions), batch.labels[:, None]
        largest, answer = logits.max(1)
        others = logits.scatter(1, labels, -torch.inf).amax(1)
        return (answer == batch.labels) & largest.isfinite(), logits.gather(1, labels)[:, 0] - others

    def divergence(self, past: Tensor, predictions: Tensor, batch: Batch, tau: float) -> Tensor:
        return class_divergence(past, predictions, tau, dim=1)


class _Accuracy:
    """The meter of a classifier, in float32."""

    def __init__(self) -> None:
        self.correct: Tensor | float = 0.0
        self.loss: Tensor | float = 0.0
        self.unanswered: Tensor | float = 0.0
        self.count = 0

    def update(self, predictions: Tensor, batch: Batch) -> None:
        logits = logits_of_classes(predictions)
        right = logits.argmax(1) == batch.labels
        loss = functional.cross_entropy(logits, batch.labels, reduction="sum")
        # A finite loss says that every largest logit is; on an accelerator, to ask would mean to wait.
        if loss.device.type != "cpu" or not math.isfinite(loss.item()):
            answered = logits.amax(1).isfinite()
            right = right & answered
            self.unanswered += (~answered).sum()
        self.correct += right.sum()
        self.loss += loss
        self.count += len(batch)

    def compute(self) -> dict[str, float]:
        values = {"accuracy": 100 * float(self.correct) / self.count, "loss": float(self.loss) / self.count}
        missing = float(self.unanswered)
        return values | {NAN_ANSWERS: missing} if missing else values


OTHERS = {1: "binary or regression", 2: "binary, regression or multilabel", 3: "tokens", 4: "segmentation"}
"""Tasks whose predictions have so many dimensions."""


def logits_of_classes(predictions: Tensor, classes: int = 0) -> Tensor:
    """float32 (B, C) of a classifier; :class:`UserError`, with the tasks that it could be, for another shape."""
    if predictions.dim() == 2 and predictions.shape[1] >= classes:
        return predictions.float()
    raise UserError(
        f"expected a model that gives logits of shape (B, {classes} or more), got {tuple(predictions.shape)}; name "
        f"its task: {OTHERS.get(predictions.dim(), 'score:package.module:function')}"
    )
