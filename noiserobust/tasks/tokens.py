"""Sequences: a class for every token."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from noiserobust.data import Batch, Labelled, nests
from noiserobust.errors import UserError
from noiserobust.models.wrappers import unwrap
from noiserobust.tasks.base import IGNORED, Task, checked_labels, class_divergence, parts_of
from noiserobust.tasks.counts import Meter, Sums


@dataclass(frozen=True)
class Tokens(Task, name="tokens"):
    """A class for every token, as in language models: logits (B, T, V), labels (B, T), of which -100 are ignored.

    ``loss`` is the mean cross-entropy over all tokens of the data (nats per token), ``perplexity`` its exponential,
    ``accuracy`` the percent of tokens whose largest logit is their label's.

    - ``metric``: what is shown and chosen by: ``perplexity`` (the less the better) or ``accuracy``.
    - ``shift``: whether the logits at a place are about the token *after* it, as causal language models' are. Left
      out, the data say so: labels that are the input tokens themselves, wherever they are not ignored, are shifted by
      one place (as transformers' causal models shift them); others are compared where they stand (masked language
      models, token classification, T5, labels that are shifted already). Data without labels are their own. Of labels
      that are the input tokens, those that ``attention_mask`` leaves out (padding) are ignored.
    - ``label_smoothing``: of the training loss; metrics have none.

    The labels are not given to the network, but for encoder-decoders, which read them.
    """

    example: ClassVar[str] = "tokens:accuracy"
    names: ClassVar[tuple[str, ...]] = ("perplexity", "accuracy", "loss")
    leading: ClassVar[Any] = "changed"

    metric: Literal["perplexity", "accuracy"] = "perplexity"
    shift: bool | None = None
    label_smoothing: float = 0.0

    def suited(self, data: Labelled) -> Tokens:
        shifts = []
        for batch in parts_of(data):
            ids, labels = _ids(batch), batch.labels
            if labels is None and ids is None:
                raise UserError("expected token labels (N, T), or tokens as input_ids, got neither; name them labels")
            if labels is not None:
                checked_labels(self, labels, dims=(2,))
            shifts.append(labels is None or _are_inputs(labels, ids))
        return replace(self, shift=all(shifts)) if self.shift is None else self

    def inputs(self, model: nn.Module, batch: Batch) -> Any:
        inputs = super().inputs(model, batch)
        reads = getattr(getattr(unwrap(model), "config", None), "is_encoder_decoder", False)
        if reads and batch.labels is not None and "decoder_input_ids" not in inputs:
            return inputs | {"labels": batch.labels}
        return inputs

    def check(self, predictions: Tensor, batch: Batch, outputs: int) -> None:
        shape = predictions.shape
        length = _targets(batch).shape
        if predictions.dim() != 3 or shape[:2] != length or shape[2] < outputs:
            raise UserError(
                f"expected a model that gives logits of shape {(*length, 'V')}, V of {outputs} or more, got "
                f"{tuple(shape)}; a whole text's class is task=classification"
            )

    def losses(self, predictions: Tensor, batch: Batch) -> Tensor:
        logits, labels = self._aligned(predictions, batch)
        each = _cross_entropy(logits, labels, self.label_smoothing)
        return each.sum(1) / (labels != IGNORED).sum(1).clamp(min=1)

    def counts(self, batch: Batch) -> Tensor:
        labels = _targets(batch)
        return ((labels[:, 1:] if self._shifts(batch) else labels) != IGNORED).sum(1)

    def pairs(self, predictions: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (tokens, V) and labels (tokens,) of all tokens that are not ignored."""
        logits, labels = self._aligned(predictions, batch)
        counted = labels != IGNORED
        return logits[counted].to(torch.promote_types(logits.dtype, torch.float32)), labels[counted]

    def divergence(self, past: Tensor, predictions: Tensor, batch: Batch, tau: float) -> Tensor:
        (now, labels), (then, _) = (self._aligned(side, batch) for side in (predictions, past))
        counted = labels != IGNORED
        each = class_divergence(then, now, tau, dim=2) * counted
        return each.sum(1) / counted.sum(1).clamp(min=1)

    def meter(self) -> Meter:
        return _TokenMeter(self)

    def outputs(self, data: Labelled) -> int:
        return max(int(_targets(batch).max()) for batch in parts_of(data)) + 1

    def _shifts(self, batch: Batch) -> bool:
        if self.shift is not None:
            return self.shift
        return batch.labels is None or _are_inputs(batch.labels, _ids(batch))

    def _aligned(self, predictions: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits and the labels that they are about, place by place."""
        labels = _targets(batch)
        return (predictions[:, :-1], labels[:, 1:]) if self._shifts(batch) else (predictions, labels)


class _TokenMeter:
    def __init__(self, task: Tokens) -> None:
        self.task, self.sums = task, Sums()

    def update(self, predictions: Tensor, batch: Batch) -> None:
        logits, labels = self.task.pairs(predictions, batch)
        largest, answer = logits.max(1)
        answered = largest.isfinite()
        self.sums.add(
            loss=functional.cross_entropy(logits, labels, reduction="none").double(),
            correct=(answer == labels) & answered,
            unanswered=~answered,
        )

    def compute(self) -> dict[str, float]:
        loss = self.sums.mean("loss")
        values = {"perplexity": math.exp(loss) if loss < 700 else math.inf if loss == loss else loss}
        values["accuracy"] = 100 * self.sums.mean("correct")
        first = self.task.metric
        return {first: values.pop(first), **values, "loss": loss, **self.sums.nan_answers}


def _cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """(B, T), 0 where the label is ignored."""
    flat = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED, label_smoothing=label_smoothing
    )
    return flat.view(labels.shape)


def _ids(batch: Batch) -> Tensor | None:
    """The input tokens (B, T) of a batch."""
    if isinstance(batch.inputs, dict):
        found = batch.inputs.get("input_ids")
        return found if isinstance(found, Tensor) else None
    whole = (one for one in nests.tensors(batch.inputs) if one.dim() == 2 and not one.is_floating_point())
    return next(whole, None)


def _targets(batch: Batch) -> Tensor:
    """The labels (B, T); of data without any, their own tokens. Of those the attention mask leaves padding out."""
    labels, ids = batch.labels, _ids(batch)
    if labels is None and ids is None:
        raise UserError("expected token labels (B, T), or tokens as input_ids, got neither; name them labels")
    mask = batch.inputs.get("attention_mask") if isinstance(batch.inputs, dict) else None
    if labels is not None and (mask is None or mask.shape != labels.shape or not _are_inputs(labels, ids)):
        return labels
    targets = labels if labels is not None else ids
    assert targets is not None
    return targets if mask is None else targets.masked_fill(mask == 0, IGNORED)


def _are_inputs(labels: Tensor, ids: Tensor | None) -> bool:
    """Whether labels that count are the input tokens at the same places."""
    if ids is None or ids.shape != labels.shape:
        return False
    counted = labels != IGNORED
    return bool(torch.equal(labels[counted], ids[counted].to(labels.dtype)))
