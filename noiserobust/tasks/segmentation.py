"""Images: a class for every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from noiserobust.data import Batch, Labelled
from noiserobust.errors import UserError
from noiserobust.tasks.base import IGNORED, Task, checked_labels, class_divergence
from noiserobust.tasks.counts import Meter, Sums


@dataclass(frozen=True)
class Segmentation(Task, name="segmentation"):
    """A class for every pixel: logits (B, C, H, W), labels (B, H, W), of which 255 and -100 are ignored.

    ``miou`` is the mean over classes of intersection over union in percent (classes that neither are nor are answered
    anywhere have none), ``accuracy`` the percent of pixels that are right, ``loss`` the mean cross-entropy per pixel in
    nats. A pixel whose largest logit is not finite is wrong. Logits of another size than the labels are brought to it
    bilinearly, as transformers' own losses do.

    - ``metric``: what is shown and chosen by: ``miou`` or ``accuracy``.
    - ``ignored``: the label that is left out beside -100.
    - ``label_smoothing``: of the training loss; metrics have none.
    """

    example: ClassVar[str] = "segmentation"
    names: ClassVar[tuple[str, ...]] = ("miou", "accuracy", "loss")
    leading: ClassVar[Any] = "changed"

    metric: Literal["miou", "accuracy"] = "miou"
    ignored: int = 255
    label_smoothing: float = 0.0

    def suited(self, data: Labelled) -> Segmentation:
        labels = checked_labels(self, data.labels, dims=(3, 4))
        counted = labels[(labels != self.ignored) & (labels != IGNORED)]
        if len(counted) and (least := int(counted.min())) < 0:
            raise UserError(
                f"expected labels from 0 on (class numbers; -100 and {self.ignored} are ignored), got {least}; "
                f"segmentation:ignored={least} leaves those out"
            )
        return self

    def check(self, predictions: Tensor, batch: Batch, outputs: int) -> None:
        labels = batch.labels
        if predictions.dim() != labels.dim() + 1 or len(predictions) != len(labels) or predictions.shape[1] < outputs:
            raise UserError(
                f"expected a model that gives logits of shape {(len(labels), 'C', *labels.shape[1:])}, C of {outputs} "
                f"or more, got {tuple(predictions.shape)}"
            )

    def losses(self, predictions: Tensor, batch: Batch) -> Tensor:
        logits, labels = self.pairs(predictions, batch)
        each = functional.cross_entropy(
            logits, labels, reduction="none", ignore_index=IGNORED, label_smoothing=self.label_smoothing
        )
        return each.flatten(1).sum(1) / (labels != IGNORED).flatten(1).sum(1).clamp(min=1)

    def counts(self, batch: Batch) -> Tensor:
        return (self._labels(batch) != IGNORED).flatten(1).sum(1)

    def pairs(self, predictions: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, C, H, W) and labels (B, H, W), with -100 where a pixel is ignored."""
        labels = self._labels(batch)
        logits = predictions.to(torch.promote_types(predictions.dtype, torch.float32))
        if logits.shape[2:] != labels.shape[1:]:
            mode = "bilinear" if labels.dim() == 3 else "trilinear"
            logits = functional.interpolate(logits, labels.shape[1:], mode=mode, align_corners=False)
        return logits, labels

    def divergence(self, past: Tensor, predictions: Tensor, batch: Batch, tau: float) -> Tensor:
        (then, labels), (now, _) = (self.pairs(side, batch) for side in (past, predictions))
        counted = labels != IGNORED
        each = class_divergence(then, now, tau, dim=1) * counted
        return each.flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)

    def meter(self) -> Meter:
        return _Confusion(self)

    def outputs(self, data: Labelled) -> int:
        labels = data.labels
        return int(labels[labels != self.ignored].max()) + 1 if (labels != self.ignored).any() else 1

    def _labels(self, batch: Batch) -> Tensor:
        return batch.labels.long().masked_fill(batch.labels == self.ignored, IGNORED)


class _Confusion:
    """Counts of pixels by their label and their answer."""

    def __init__(self, task: Segmentation) -> None:
        self.task, self.sums, self.table = task, Sums(), torch.zeros(0)

    def update(self, predictions: Tensor, batch: Batch) -> None:
        logits, labels = self.task.pairs(predictions, batch)
        each = functional.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
        counted, classes = labels != IGNORED, logits.shape[1]
        largest, answer = logits.max(1)
        answer = torch.where(largest.isfinite(), answer, classes)  # a column of its own: no answer
        cells = (labels * (classes + 1) + answer)[counted]
        table = torch.bincount(cells, minlength=classes * (classes + 1)).view(classes, classes + 1)
        self.table = table if self.table.numel() == 0 else self.table + table
        self.sums.add(loss=each[counted].double(), unanswered=answer[counted] == classes)

    def compute(self) -> dict[str, float]:
        loss = self.sums.mean("loss")  # refuses data without any pixel that counts
        table = self.table.double()
        right = table.diagonal()
        union = table.sum(1) + table[:, :-1].sum(0) - right
        there = union > 0
        values = {"miou": float(100 * (right[there] / union[there]).mean())}
        values["accuracy"] = float(100 * right.sum() / table.sum())
        first = self.task.metric
        return {first: values.pop(first), **values, "loss": loss, **self.sums.nan_answers}
