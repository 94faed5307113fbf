"""Yes or no: one logit per sample, or one per label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from noiserobust.data import Batch, Labelled
from noiserobust.errors import UserError
from noiserobust.tasks.base import IGNORED, Task, checked_labels
from noiserobust.tasks.counts import Meter, Sums


class _YesOrNo(Task):
    """Logits (B, L), labels 0 or 1 of the same shape, -100 where one is unknown; an answer is yes above 0.

    Samples of which no label is known count nowhere.
    """

    def suited(self, data: Labelled):  # type: ignore[no-untyped-def]  # Self
        labels = checked_labels(self, data.labels, numbers=True)
        values = set(labels.unique().tolist())
        if not values <= {0, 1, IGNORED}:
            raise UserError(f"expected labels 0 or 1 (-100: unknown) of {self}, got {sorted(values)[:6]}")
        return self

    def check(self, predictions: Tensor, batch: Batch, outputs: int) -> None:
        self._aligned(predictions, batch)

    def losses(self, predictions: Tensor, batch: Batch) -> Tensor:
        logits, labels, known = self._aligned(predictions, batch)
        each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none") * known
        return each.sum(1) / known.sum(1).clamp(min=1)

    def counts(self, batch: Batch) -> Tensor | None:
        return (batch.labels != IGNORED).reshape(len(batch.labels), -1).sum(1)

    def answers(self, predictions: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The margin is the least distance of a logit from 0, counted on the side of its label."""
        logits, labels, known = self._aligned(predictions, batch)
        if not known.any(1).all():
            raise UserError("expected samples with a known label for a precision target, got one without; drop it")
        right = _right(logits, labels)
        margin = torch.where(known, logits * (2 * labels - 1), torch.inf).amin(1)
        return (right | ~known).all(1), margin

    def divergence(self, past: Tensor, predictions: Tensor, batch: Batch, tau: float) -> Tensor:
        then, _, known = self._aligned(past, batch)
        now = self._aligned(predictions, batch)[0]
        each = torch.zeros_like(now)
        for sign in (1, -1):  # yes, and no
            before, after = (functional.logsigmoid(sign * side / tau) for side in (then, now))
            each = each + before.exp() * (before - after)
        return (each * known).sum(1) / known.sum(1).clamp(min=1)

    def outputs(self, data: Labelled) -> int:
        return data.labels[0].numel()

    def pairs(self, predictions: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return predictions.float().reshape(batch.labels.shape), batch.labels.long()

    def _aligned(self, predictions: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and labels (B, L) in float32 or better, and which of them are known; unknown labels are 0."""
        labels = batch.labels.reshape(len(batch.labels), -1)
        logits = predictions.to(torch.promote_types(predictions.dtype, torch.float32))
        logits = logits[:, None] if logits.dim() == 1 else logits
        if logits.shape != labels.shape:
            raise UserError(
                f"expected a model that gives a logit for each label, of shape {tuple(batch.labels.shape)}, got "
                f"{tuple(predictions.shape)}; two logits for one label are task=classification"
            )
        known = labels != IGNORED
        return logits, torch.where(known, labels, 0).to(logits.dtype), known


@dataclass(frozen=True)
class Binary(_YesOrNo, name="binary"):
    """Yes or no by one logit: logits (B,) or (B, 1), labels 0 or 1.

    ``accuracy`` is the percent of samples on whose side of 0 the logit lies, ``loss`` the mean binary cross-entropy in
    nats. A logit that is not finite is wrong.
    """

    example: ClassVar[str] = "binary"
    names: ClassVar[tuple[str, ...]] = ("accuracy", "loss")

    metric: ClassVar[str] = "accuracy"  # type: ignore[misc]

    def meter(self) -> Meter:
        return _YesMeter(self, "accuracy", ("loss",))


@dataclass(frozen=True)
class MultiLabel(_YesOrNo, name="multilabel"):
    """Several labels that hold or not, with a logit each: logits and labels (B, L), labels 0 or 1, -100 unknown.

    ``accuracy`` is the percent of samples all of whose labels are answered rightly, ``f1`` the micro-averaged F1 score
    in percent, ``loss`` the mean binary cross-entropy over all labels, in nats. A logit that is not finite is wrong.

    - ``metric``: what is shown and chosen by: ``accuracy`` or ``f1``.
    """

    example: ClassVar[str] = "multilabel:f1"
    names: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "loss")
    leading: ClassVar[Any] = "changed"

    metric: Literal["accuracy", "f1"] = "accuracy"

    def meter(self) -> Meter:
        return _YesMeter(self, self.metric, ("f1" if self.metric == "accuracy" else "accuracy", "loss"))


class _YesMeter:
    def __init__(self, task: _YesOrNo, first: str, others: tuple[str, ...]) -> None:
        self.task, self.names, self.sums = task, (first, *others), Sums()

    def update(self, predictions: Tensor, batch: Batch) -> None:
        logits, labels, known = self.task._aligned(predictions, batch)
        right, yes = _right(logits, labels), labels > 0
        each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").double()
        self.sums.add(
            loss=each[known],
            correct=(right | ~known).all(1)[known.any(1)],
            hits=(right & yes)[known],
            wrong=~right[known],
            unanswered=~(logits.isfinite() | ~known).all(1),
        )

    def compute(self) -> dict[str, float]:
        hits, wrong = self.sums.total("hits"), self.sums.total("wrong")
        values = {
            "accuracy": 100 * self.sums.mean("correct"),
            # 2 hits / (2 hits + missed + false): every wrong answer is one of the latter.
            "f1": 200 * hits / (2 * hits + wrong) if hits + wrong else 100.0,
            "loss": self.sums.mean("loss"),
        }
        return {name: values[name] for name in self.names} | self.sums.nan_answers


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return ((logits > 0) == (labels > 0)) & logits.isfinite()
