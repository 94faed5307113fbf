"""What a task is: how a network is asked, what its outputs mean, and what is counted of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from noiserobust.data import Batch, Labelled
from noiserobust.errors import UserError
from noiserobust.models.compute import arguments, as_weights, call, predictions_of
from noiserobust.spec import Described
from noiserobust.tasks.counts import Meter, Sums
from noiserobust.tasks.quantities import Quantity, quantity

T = TypeVar("T", bound="Task")

IGNORED = -100
"""The label of what does not count, as in PyTorch's cross-entropy."""


@dataclass(frozen=True)
class Task(Described, family="task"):
    """What a network is for: how a batch is put to it, what its outputs mean, which losses and metrics they have.

    A sample may have several units, each with a loss: the tokens of a text, the pixels of an image. The loss of data
    is the mean over all of their units, ``sum(losses * counts) / sum(counts)``.
    """

    metric = "loss"
    """The metric that is shown and chosen by, such as ``accuracy``: the first of :meth:`meter`'s."""

    names: ClassVar[tuple[str, ...]] = ("loss",)
    """All that :meth:`meter` counts: further metrics have other names."""

    @property
    def quantity(self) -> Quantity:
        """How :attr:`metric` is written, and which way is better."""
        return quantity(self.metric, str(self))

    @abstractmethod
    def losses(self, predictions: Tensor, batch: Batch) -> Tensor:
        """(B,): the mean loss of each sample over its units, ignored ones left out; 0 for a sample without any."""

    def meter(self) -> Meter:
        """A new count of this task's metrics: :attr:`metric` first, and ``loss`` among them; by default it alone."""
        return _MeanLoss(self)

    def inputs(self, model: nn.Module, batch: Batch) -> Any:
        """What the network is given: a tensor, or several, floats in the precision of its parameters."""
        return as_weights(model, batch.inputs)

    def arguments(self, model: nn.Module, batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same as positional and named arguments."""
        return arguments(self.inputs(model, batch))

    def call(self, model: nn.Module, batch: Batch) -> Any:
        """The network's outputs: ``model(x)``, ``model(*inputs)`` of a tuple, ``model(**inputs)`` of a dictionary."""
        return call(model, self.inputs(model, batch))

    def predictions(self, outputs: Any) -> Tensor:
        """The answer among the outputs (B, ...): a tensor's, tuple's, dictionary's or ModelOutput's
        (:func:`~noiserobust.models.compute.predictions_of`)."""
        return predictions_of(outputs)

    def counts(self, batch: Batch) -> Tensor | None:
        """(B,): how many units each sample has; None where each has one."""
        return None

    def pairs(self, predictions: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """What further metrics are given of a batch: predictions in float32, and labels."""
        return predictions.float(), batch.labels

    def answers(self, predictions: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B,) each: whether a sample is answered rightly (bool), and by what margin (above 0 where it is).

        Raises :class:`~noiserobust.UserError` for tasks whose samples are not right or wrong as a whole.
        """
        raise UserError(f"expected a task whose samples are right or wrong, got {self}")

    @property
    def right_or_wrong(self) -> bool:
        """Whether samples are right or wrong as a whole, so that :meth:`answers` says which."""
        return type(self).answers is not Task.answers

    @property
    def has_probabilities(self) -> bool:
        """Whether outputs are logits of probabilities, which :meth:`divergence` compares."""
        return type(self).divergence is not Task.divergence

    def divergence(self, past: Tensor, predictions: Tensor, batch: Batch, tau: float) -> Tensor:
        """(B,): KL(p(past / tau) || p(predictions / tau)) of the probabilities that logits mean, as the mean over a
        sample's units; what self-distilling rules add to the loss."""
        raise UserError(f"expected a task whose outputs are logits of probabilities, got {self}; use another rule")

    def smoothed(self: T, label_smoothing: float) -> T:
        """The same with label smoothing in its :meth:`losses` (metrics never have it), where labels are classes."""
        known = any(field.name == "label_smoothing" for field in fields(self))
        return replace(self, label_smoothing=label_smoothing) if known else self  # type: ignore[call-arg]

    def suited(self: T, data: Labelled) -> T:
        """The task as it is for ``data``, with what only they tell; :class:`UserError` for labels of another task."""
        return self

    def check(self, predictions: Tensor, batch: Batch, outputs: int) -> None:
        """Refuse predictions that are not of this task, or give fewer than ``outputs`` numbers for a unit."""

    def outputs(self, data: Labelled) -> int:
        """How many numbers a network has to give for a unit, at least: classes that occur, or values."""
        labels = data.labels
        return labels[0].numel() if labels.is_floating_point() else int(labels.max()) + 1


class _MeanLoss:
    """The mean over units of a task's losses."""

    def __init__(self, task: Task) -> None:
        self.task, self.sums, self.units = task, Sums(), 0.0

    def update(self, predictions: Tensor, batch: Batch) -> None:
        losses, counts = self.task.losses(predictions, batch).double(), self.task.counts(batch)
        self.units += len(losses) if counts is None else float(counts.sum())
        self.sums.add(loss=losses if counts is None else losses * counts, unanswered=~losses.isfinite())

    def compute(self) -> dict[str, float]:
        return {"loss": self.sums.total("loss") / self.units, **self.sums.nan_answers}


def parts_of(data: Labelled) -> Sequence[Batch]:
    """The data as they lie in memory, in one or several batches."""
    return getattr(data, "parts", None) or [Batch(getattr(data, "images", ()), data.labels)]


def checked_labels(task: Task, labels: Any, dims: Sequence[int] = (), numbers: bool = False) -> Tensor:
    """``labels`` that are whole numbers (or any finite ones, with ``numbers``) of so many dimensions (any, without)."""
    if not isinstance(labels, Tensor):
        got = "none" if labels is None else f"a {type(labels).__name__}"
        raise UserError(f"expected labels as one tensor for the task {task}, got {got}; name them labels")
    if not numbers and (labels.is_floating_point() or labels.is_complex()):
        raise UserError(
            f"expected whole numbers as labels of the task {task}, got {labels.dtype}; tasks with other labels are "
            "regression, binary and multilabel"
        )
    if numbers and not torch.isfinite(labels).all():
        raise UserError(f"expected finite labels of the task {task}, got inf or NaN among them")
    if dims and labels.dim() not in dims:
        shape = " or ".join({1: "(N,)", 2: "(N, T)", 3: "(N, H, W)"}.get(count, "") for count in dims[:1])
        others = {2: "tokens, multilabel, regression", 3: "segmentation"}.get(labels.dim())
        hint = f"; name another task: {others}" if others else ""
        raise UserError(f"expected labels of shape {shape} for the task {task}, got {tuple(labels.shape)}{hint}")
    return labels


def class_divergence(past: Tensor, predictions: Tensor, tau: float, dim: int) -> Tensor:
    """KL(softmax(past / tau) || softmax(predictions / tau)) over the classes in ``dim``, in float32 or better."""
    dtype = torch.promote_types(predictions.dtype, torch.float32)
    now, then = (functional.log_softmax(side.to(dtype) / tau, dim) for side in (predictions, past))
    return (then.exp() * (then - now)).sum(dim)
