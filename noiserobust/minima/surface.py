"""The loss of a network on fixed data as a function of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from noiserobust.analog.backup import Backup
from noiserobust.analog.noisy import NoisyWeights
from noiserobust.analog.weights import AnalogWeight, analog_weights
from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.minima.vectors import Gradients
from noiserobust.models.compute import Precision, autocast, device_of
from noiserobust.models.modes import batch_normalised, evaluating
from noiserobust.models.wrappers import canonical, unwrap

Over = Literal["all", "analog"]
Normalisation = Literal["frozen", "batch"]
Loss = Callable[[Tensor, Tensor], Tensor]


class Surface:
    """L(w), the mean loss of ``model`` on ``batches``, in eval mode.

    - ``batches``: what :func:`noiserobust.tasks.batches.prepare` made, all of them at once.
    - ``loss(logits, labels)``: one value per sample; by default cross-entropy in nats without label smoothing, as
      ``evaluate`` reports it, so that methods trained on other losses can be compared.
    - ``normalisation``: ``frozen``, by the statistics learnt in training, as ``evaluate`` has it; ``batch``, by those
      of each batch, as the training step has it. The two differ widely at perturbed weights, whose activations the
      frozen statistics do not fit.
    - ``precision``: ``fp32`` or ``bf16`` autocast. The mean over samples is taken in float64.
    - ``include``, ``exclude``: which weights are analog.

    ``passes`` counts forward and backward passes, in units of one over all the data. Neither weights nor buffers nor
    ``.grad`` are changed, except inside :meth:`moved`, which restores every bit.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        loss: Loss | None = None,
        normalisation: Normalisation = "frozen",
        precision: Precision = "fp32",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> None:
        self.model, self.batches = unwrap(model), batches
        self.loss_of: Loss = nn.CrossEntropyLoss(reduction="none") if loss is None else loss
        self.normalisation: Normalisation = normalisation
        self.precision: Precision = precision
        self.include, self.exclude = include, exclude
        self.device = device_of(model)
        named = [(canonical(name), p) for name, p in self.model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.images = sum(len(batch) for batch in self.batches)
        self.passes = {"forward": 0.0, "backward": 0.0}
        self.memo: dict[Any, Any] = {}
        """What is known of the present weights; :meth:`forget` it when they change."""
        self._backup = Backup(self.parameters)

    @cached_property
    def noisy_weights(self) -> NoisyWeights:
        """The analog weights, ready for noise."""
        return NoisyWeights(self.model, include=self.include, exclude=self.exclude)

    @cached_property
    def analog(self) -> list[AnalogWeight]:
        """The analog weights, if any."""
        return analog_weights(self.model, include=self.include, exclude=self.exclude)

    def inputs(self, batch: Batch) -> Tensor:
        """The batch's inputs in the precision of the parameters."""
        dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)
        return batch.inputs.to(dtype) if batch.inputs.is_floating_point() else batch.inputs

    def forget(self) -> None:
        """The weights are other ones now."""
        self.memo.clear()

    def chosen(self, over: Over) -> list[bool]:
        """Which of the parameters belong to ``all`` trainable ones or to the ``analog`` weights; never none."""
        analog = {id(weight.parameter) for weight in self.analog}
        marks = [over == "all" or id(parameter) in analog for parameter in self.parameters]
        if not any(marks):
            what = "trainable parameter" if over == "all" else "trainable analog weight"
            raise UserError(
                f"expected at least one {what} in {type(self.model).__name__}, found none; use another over"
            )
        return marks

    def only(self, vectors: Gradients, over: Over) -> Gradients:
        """``vectors``, one per parameter, without those that are not in ``over``."""
        return [v if mark else None for v, mark in zip(vectors, self.chosen(over), strict=True)]

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
        with self._mode():
            return torch.cat([self._losses(batch).double() for batch in self._given(batches)])

    def loss(self, batches: Sequence[Batch] | None = None) -> float:
        """L at the present weights."""
        return self.losses(batches).mean().item()

    def gradient(self, batches: Sequence[Batch] | None = None) -> tuple[Tensor, Gradients]:
        """One loss per sample, and the gradient of their mean: a tensor per parameter, None where L does not reach."""
        if self.precision == "fp16":
            raise UserError("expected precision fp32 or bf16 for gradients, got fp16, in which small ones vanish")
        given = self._given(batches)
        total = sum(len(batch) for batch in given)
        self.chosen("all")
        losses: list[Tensor] = []
        gradients: Gradients = [None] * len(self.parameters)
        with self._mode(), torch.enable_grad():
            for batch in given:
                each = self._losses(batch)
                found = torch.autograd.grad(each.sum() / total, self.parameters, allow_unused=True)
                self.passes["backward"] += len(batch) / self.images
                for index, gradient in enumerate(found):
                    held = gradients[index]
                    gradients[index] = gradient if held is None or gradient is None else held.add_(gradient)
                losses.append(each.detach().double())
        return torch.cat(losses), gradients

    @contextmanager
    def moved(self, *directions: Gradients, factors: Sequence[float] = (1.0,)) -> Iterator[None]:
        """Inside, the parameters stand at w plus each of the ``directions`` times its factor; restored bit for bit."""
        with self._backup.moved():
            with torch.no_grad():
                for direction, factor in zip(directions, factors, strict=True):
                    pairs = [(p, s) for p, s in zip(self.parameters, direction, strict=True) if s is not None]
                    if factor and pairs:
                        torch._foreach_add_([p for p, _ in pairs], [s for _, s in pairs], alpha=factor)
            yield

    def _mode(self) -> AbstractContextManager[None]:
        return (evaluating if self.normalisation == "frozen" else batch_normalised)(self.model)

    def _given(self, batches: Sequence[Batch] | None) -> Sequence[Batch]:
        return self.batches if batches is None else batches

    def _losses(self, batch: Batch) -> Tensor:
        with autocast(self.device, self.precision):
            out = self.model(self.inputs(batch))
        if not isinstance(out, Tensor):
            raise UserError(f"expected a model that gives logits of shape (B, classes), got {type(out).__name__}")
        self.passes["forward"] += len(batch) / self.images
        losses = self.loss_of(out.to(torch.promote_types(out.dtype, torch.float32)), batch.labels)
        if losses.shape != batch.labels.shape[:1]:
            raise UserError(
                f"expected a loss with one value per sample, shape ({len(batch)},), got {tuple(losses.shape)}; use "
                "reduction='none'"
            )
        return losses
