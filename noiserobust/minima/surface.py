"""The loss of a network on fixed data as a function of its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from noiserobust.analog.layer_table import LayerTable
from noiserobust.analog.vectors import Vector
from noiserobust.analog.weight_space import WeightSpace
from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.models.compute import Precision, autocast, device_of
from noiserobust.models.modes import batch_normalised, evaluating
from noiserobust.models.wrappers import unwrap
from noiserobust.tasks import Classification, Task

Normalisation = Literal["frozen", "batch"]
Loss = Callable[[Tensor, Tensor], Tensor]


class Surface(WeightSpace):
    """The mean loss L(w) of ``model`` on ``batches``, in eval mode, at whatever weights the model holds.

    - ``batches``: what :func:`noiserobust.tasks.batches.prepare` made, all of them at once.
    - ``task``: what outputs and labels mean. L is the mean of its losses over their units (samples, tokens, pixels);
      by default cross-entropy in nats without label smoothing, as ``evaluate`` reports it, so that methods trained on
      other losses can be compared.
    - ``loss(predictions, labels)``: one value per sample, in place of the task's.
    - ``normalisation``: ``frozen``, by the statistics learnt in training, as ``evaluate`` has it; ``batch``, by those
      of each batch, as the training step has it. The two differ widely at perturbed weights, whose activations the
      frozen statistics do not fit.
    - ``precision``: ``fp32`` or ``bf16`` autocast. The mean over samples is taken in float64.
    - ``include``, ``exclude``: which weights are analog.

    ``passes`` counts forward and backward passes, in units of one over all the data. Neither weights nor buffers nor
    ``.grad`` are changed, except inside a perturbation, which restores every bit.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        task: Task | None = None,
        loss: Loss | None = None,
        normalisation: Normalisation = "frozen",
        precision: Precision = "fp32",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        layers: LayerTable | None = None,
    ) -> None:
        super().__init__(unwrap(model), include=include, exclude=exclude, layers=layers)
        self.batches = batches
        self.task: Task = Classification() if task is None else task
        self.loss_of = loss
        self.normalisation: Normalisation = normalisation
        self.precision: Precision = precision
        self.device = device_of(model)
        self.images = sum(len(batch) for batch in self.batches)
        self.passes = {"forward": 0.0, "backward": 0.0}
        self.memo: dict[Any, Any] = {}
        """What is known of the present weights; :meth:`forget` it when they change."""

    def forget(self) -> None:
        """The weights are other ones now."""
        self.memo.clear()

    def parts(self, m: int | None) -> list[Sequence[Batch]]:
        """The data in micro-batches of ``m`` samples (but for the last), all in memory; whole without ``m``."""
        if m is None:
            return [self.batches]
        whole = Batch.join(self.batches)
        starts = list(range(0, len(whole), m))
        if self.normalisation == "batch" and len(whole) % m == 1 and len(starts) > 1:
            starts.pop()  # a single sample has no statistics: it joins the part before
        return [[whole[slice(start, end)]] for start, end in pairwise([*starts, len(whole)])]

    @torch.no_grad()
    def losses(self, batches: Sequence[Batch] | None = None) -> Tensor:
        """One loss per sample at the present weights, in float64."""
        with self.mode():
            return torch.cat([self.losses_of(batch).double() for batch in self._given(batches)])

    def loss(self, batches: Sequence[Batch] | None = None) -> float:
        """L at the present weights."""
        return self.mean(self.losses(batches), batches)

    def mean(self, losses: Tensor, batches: Sequence[Batch] | None = None) -> float:
        """The mean over all units of the samples' ``losses``."""
        counts = self._counts(self._given(batches))
        return (losses.mean() if counts is None else losses @ counts.double() / counts.sum()).item()

    def units(self, batches: Sequence[Batch] | None = None) -> int:
        """How many units L is a mean over: samples, tokens, pixels."""
        given = self._given(batches)
        counts = self._counts(given)
        return sum(len(batch) for batch in given) if counts is None else int(counts.sum())

    def total(self, losses: Tensor, batch: Batch) -> Tensor:
        """The sum over all units of the ``losses`` of a batch's samples."""
        counts = self._counts([batch])
        return losses.sum() if counts is None else losses @ counts.to(losses.dtype)

    def gradient(self, batches: Sequence[Batch] | None = None) -> tuple[Tensor, Vector]:
        """One loss per sample, and the gradient of their mean: a tensor per parameter, None where L does not reach."""
        if self.precision == "fp16":
            raise UserError("expected precision fp32 or bf16 for gradients, got fp16, in which small ones vanish")
        given = self._given(batches)
        units = self.units(given)
        self.chosen("all")
        losses: list[Tensor] = []
        gradients: Vector = [None] * len(self.parameters)
        with self.mode(), torch.enable_grad():
            for batch in given:
                each = self.losses_of(batch)
                total = self.total(each, batch)
                if not total.requires_grad:
                    raise UserError(
                        "expected a loss with a gradient, got none: the network computes under no_grad, or all of its "
                        "weights are frozen (requires_grad_(True) changes that)"
                    )
                new = torch.autograd.grad(total / units, self.parameters, allow_unused=True)
                self.passes["backward"] += len(batch) / self.images
                for index, gradient in enumerate(new):
                    if gradient is not None and gradient.is_sparse:  # of an embedding
                        gradient = gradient.to_dense()
                    held = gradients[index]
                    gradients[index] = gradient if held is None or gradient is None else held.add_(gradient)
                losses.append(each.detach().double())
        return torch.cat(losses), gradients

    def mode(self) -> AbstractContextManager[None]:
        return (evaluating if self.normalisation == "frozen" else batch_normalised)(self.model)

    def _given(self, batches: Sequence[Batch] | None) -> Sequence[Batch]:
        return self.batches if batches is None else batches

    def _counts(self, batches: Sequence[Batch]) -> Tensor | None:
        """The units of every sample; None for one each."""
        counts = [None if self.loss_of is not None else self.task.counts(batch) for batch in batches]
        return torch.cat([c for c in counts if c is not None]) if counts and counts[0] is not None else None

    def predictions(self, batch: Batch) -> Tensor:
        """What the network answers, in float32 at least; one forward pass."""
        with autocast(self.device, self.precision):
            out = self.task.predictions(self.task.call(self.model, batch))
        self.passes["forward"] += len(batch) / self.images
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def losses_of(self, batch: Batch) -> Tensor:
        """One loss per sample of ``batch``, with its graph."""
        predictions = self.predictions(batch)
        losses = (
            self.task.losses(predictions, batch) if self.loss_of is None else self.loss_of(predictions, batch.labels)
        )
        if losses.shape != (len(batch),):
            raise UserError(
                f"expected a loss with one value per sample, shape ({len(batch)},), got {tuple(losses.shape)}; use "
                "reduction='none'"
            )
        return losses
