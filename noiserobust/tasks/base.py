"""What a task is: how a network is asked, what its outputs mean, and what is counted of them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from noiserobust.data import Batch, Labelled
from noiserobust.errors import UserError
from noiserobust.models.compute import arguments, as_weights, predictions_of
from noiserobust.spec import Described

T = TypeVar("T", bound="Task")


class Meter(Protocol):
    """A number, or several, of all answers, counted batch by batch: nothing but the count is kept."""

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Count the answers to one batch."""

    def compute(self) -> dict[str, float]:
        """What was counted, by the metrics' names."""


@dataclass(frozen=True)
class Task(Described, family="task"):
    """What a network is for: how a batch is put to it, what its outputs mean, which losses and metrics they have.

    A sample may have several units, each with a loss: the tokens of a text, the pixels of an image. The loss of data
    is the mean over all of their units, ``sum(losses * counts) / sum(counts)``.
    """

    @property
    @abstractmethod
    def metric(self) -> str:
        """The metric that is shown and chosen by, such as ``accuracy``; always the first of :meth:`meter`'s."""

    @abstractmethod
    def losses(self, predictions: Tensor, batch: Batch) -> Tensor:
        """(B,): the mean loss of each sample over its units, ignored ones left out; 0 for a sample without any."""

    @abstractmethod
    def meter(self) -> Meter:
        """A new count of this task's metrics: :attr:`metric` first, and ``loss`` among them."""

    def arguments(self, model: nn.Module, batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the network is called with: floats in the precision of its parameters."""
        return arguments(as_weights(model, batch.inputs))

    def call(self, model: nn.Module, batch: Batch) -> Any:
        """The network's outputs: ``model(x)``, ``model(*inputs)`` of a tuple, ``model(**inputs)`` of a dictionary."""
        args, kwargs = self.arguments(model, batch)
        return model(*args, **kwargs)

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
        raise UserError(
            f"expected a task whose samples are right or wrong (classification, binary, multilabel), got {self}; name "
            "a number of draws instead of a precision"
        )

    def divergence(self, past: Tensor, predictions: Tensor, batch: Batch, tau: float) -> Tensor:
        """(B,): KL(p(past / tau) || p(predictions / tau)) of the probabilities that logits mean, as the mean over a
        sample's units; what self-distilling rules add to the loss."""
        raise UserError(f"expected a task whose outputs are logits of probabilities, got {self}")

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
        """How many numbers a network has to give for a unit: classes, or values."""
        return len(data.classes)
