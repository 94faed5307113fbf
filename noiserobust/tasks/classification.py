"""Accuracy, loss and margins of a classifier on prepared batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.models.compute import Precision, as_weights, autocast, device_of
from noiserobust.models.modes import evaluating
from noiserobust.tasks.metrics import MetricFunction, metric_value


@torch.no_grad()
def score(
    model: nn.Module,
    batches: Sequence[Batch],
    precision: Precision = "fp32",
    classes: int = 0,
    metrics: Mapping[str, MetricFunction] | None = None,
) -> dict[str, float]:
    """Accuracy in percent and mean cross-entropy (nats) of ``model`` as it stands, in eval mode, and the ``metrics``.

    Inputs are given in the precision of the model's parameters. Raises :class:`~noiserobust.UserError` when its output
    is no (B, C) tensor, or C is less than the ``classes`` of the data.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    device = device_of(model)
    correct, loss, count = torch.zeros((), device=device), torch.zeros((), device=device), 0
    with evaluating(model), autocast(device, precision):
        for batch in batches:
            logits = _logits(model, batch, classes)
            correct += (logits.argmax(1) == batch.labels).sum()
            loss += functional.cross_entropy(logits, batch.labels, reduction="sum")
            count += len(batch)
            if metrics:
                kept.append((logits, batch.labels))
    values = {"accuracy": 100 * correct.item() / count, "loss": loss.item() / count}
    if metrics:
        whole = [torch.cat(parts) for parts in zip(*kept, strict=True)]
        values |= {name: metric_value(name, metric, *whole) for name, metric in metrics.items()}
    return values


@torch.no_grad()
def answers(
    model: nn.Module, batches: Sequence[Batch], precision: Precision = "fp32", classes: int = 0
) -> tuple[Tensor, Tensor]:
    """Image by image, in order: whether it is classified rightly (bool), as :func:`score` counts it, and its signed
    margin, the logit of its class minus the largest other one (infinite where there is no other)."""
    pairs = []
    with evaluating(model), autocast(device_of(model), precision):
        for batch in batches:
            logits, labels = _logits(model, batch, classes), batch.labels[:, None]
            others = logits.scatter(1, labels, -torch.inf).amax(1)
            pairs.append((logits.argmax(1) == batch.labels, logits.gather(1, labels)[:, 0] - others))
    correct, margin = zip(*pairs, strict=True)
    return torch.cat(correct), torch.cat(margin)


def _logits(model: nn.Module, batch: Batch, classes: int) -> Tensor:
    """float32 (B, C); the inputs are given in the precision of the model's parameters."""
    logits = model(as_weights(model, batch.inputs))
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < classes:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"expected a model that gives logits of shape (B, {classes} or more), got {got}")
    return logits.float()
