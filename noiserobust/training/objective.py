"""What a batch's loss is: of which outputs, over which units, and what a rank's part of it weighs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.minima import Perturbation
from noiserobust.tasks import Classification, Task
from noiserobust.training.ddp import Processes
from noiserobust.training.teacher import Teacher

Loss = Callable[[Tensor, Any], Tensor]
"""From predictions and labels to one value per sample."""
Penalty = Callable[[Tensor, Batch, int], Tensor]
"""From predictions, the micro-batch that they are of and its number to one value per sample."""


@dataclass(frozen=True)
class Output:
    """What a pass or a step saw: per-sample ``losses`` (B,) and ``logits`` (B, classes), detached.

    ``logits`` are None where predictions are more than one row a sample (texts, images): they would outgrow the
    network. ``counts`` are the units of each sample, None where it is one. ``perturbation`` is what a step moved the
    weights by, ``strength`` its size (or that of the rule's loss term); None where nobody said.
    """

    losses: Tensor
    logits: Tensor | None
    perturbation: Perturbation | None = None
    strength: float | None = None
    counts: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """The mean loss over all units, ``sum(losses * counts) / sum(counts)``, 0-dimensional."""
        if self.counts is None:
            return self.losses.mean()
        return (self.losses * self.counts).sum() / self.counts.sum().clamp(min=1)

    def at(self, perturbation: Perturbation) -> Output:
        """The same of a step with ``perturbation``, where it does not say yet."""
        known = self.perturbation is not None
        return self if known else replace(self, perturbation=perturbation, strength=perturbation.strength)


class Answer(NamedTuple):
    """Of one micro-batch: ``losses`` (B,), ``predictions`` (B, ...), and ``counts`` (B,), None where each is 1."""

    losses: Tensor
    predictions: Tensor
    counts: Tensor | None = None

    def kept(self) -> Output:
        """What outlives the pass: predictions of one row a sample."""
        logits = self.predictions.detach() if self.predictions.dim() <= 2 else None
        return Output(self.losses.detach(), logits, counts=self.counts)


def joined(outputs: Sequence[Output]) -> Output:
    """The micro-batches' outputs as one."""
    logits = [one.logits for one in outputs if one.logits is not None]
    counts = [one.counts for one in outputs if one.counts is not None]
    return Output(
        torch.cat([one.losses for one in outputs]),
        torch.cat(logits) if logits else None,
        counts=torch.cat(counts) if counts else None,
    )


class Objective:
    """The loss of a task, or ``loss(predictions, labels)``, which gives one value per sample; with a ``teacher``, its
    term is added. See :class:`Engine`."""

    def __init__(self, task: Task | str | None, loss: Loss | None, teacher: Teacher | None = None) -> None:
        self.task: Task = Classification() if task is None else Task.parse(task)
        self.loss, self.teacher = loss, teacher

    def answer(self, model: nn.Module, part: Batch, twin: Mapping[str, Tensor] | None = None) -> Answer:
        """What ``model`` answers, with the parameters and buffers of a ``twin`` by name in place of its own."""
        try:
            if twin is None:
                outputs = self.task.call(model, part)
            else:
                outputs = torch.func.functional_call(model, dict(twin), *self.task.arguments(model, part))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                f"expected 2 or more samples for batch norm in training, got {len(part)}: give larger batches, or let "
                "the rule take more samples at once (m of SAM, gamma of ESAM, micro-batches)"
            ) from None
        predictions = self.task.predictions(outputs)
        losses = self.task.losses(predictions, part) if self.loss is None else self._own(predictions, part.labels)
        if not isinstance(losses, Tensor) or losses.shape != (len(part),):
            got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise UserError(
                f"expected a loss with one value per sample, shape ({len(part)},), got {got}; use reduction='none'"
            )
        if self.teacher is not None:
            losses = self.teacher.guided(self.task, losses, predictions, part)
        return Answer(losses, predictions, self.task.counts(part))

    def _own(self, predictions: Tensor, labels: Tensor) -> Tensor:
        assert self.loss is not None
        try:
            return self.loss(predictions, labels)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise  # inside of it
            raise UserError(f"expected a loss of predictions and labels, got {error}") from None

    def begin(self) -> None:
        """A new step: other batches."""
        if self.teacher is not None:
            self.teacher.forget()

    def units(self, micro: Sequence[Batch]) -> Tensor | int:
        """How many units the mean is over: samples, or what the task counts."""
        if not any(map(len, micro)):
            raise UserError("expected a batch with at least one sample, got none")
        counts = [self.task.counts(part) for part in micro]
        known = [count.sum() for count in counts if count is not None]
        # In float64: the mean of float64 losses needs it.
        return torch.stack(known).sum().double().clamp(min=1) if known else sum(len(part) for part in micro)

    def share(self, micro: Sequence[Batch], ranks: Processes, device: torch.device) -> Tensor | float:
        """What the mean over this rank's units weighs beside the other ranks' when their gradients are averaged."""
        if ranks.count == 1 or self.task.counts(micro[0]) is None:
            return micro[0].share
        own = self.units(micro)
        return own * ranks.count / sum(ranks.gather_numbers(int(own), device))
