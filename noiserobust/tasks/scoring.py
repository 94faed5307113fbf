"""What a network scores on prepared batches, whatever its task: one pass, nothing kept but the counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.models.check import taking
from noiserobust.models.compute import Precision, answer_to, autocast, device_of
from noiserobust.models.modes import evaluating
from noiserobust.tasks.base import Task
from noiserobust.tasks.classification import Classification
from noiserobust.tasks.counts import Meter
from noiserobust.tasks.scorer import Scorer


@torch.no_grad()
def score(
    model: nn.Module,
    batches: Sequence[Batch],
    precision: Precision = "fp32",
    task: Task = Classification(),
    meters: Iterable[Meter] = (),
) -> dict[str, float]:
    """The metrics of ``model`` as it stands, in eval mode: those of its ``task``, then those of further ``meters``."""
    with evaluating(model), autocast(device_of(model), precision):
        further = list(meters)
        if isinstance(task, Scorer):
            if further:
                raise UserError(f"expected no further metrics beside {task}: the function gives what is wanted")
            return task.score(model)
        counts = [task.meter(), *further]
        for batch in batches:
            predictions = task.predictions(task.call(model, batch))
            for meter in counts:
                meter.update(predictions, batch)
    return {name: value for meter in counts for name, value in meter.compute().items()}


@torch.no_grad()
def answers(
    model: nn.Module, batches: Sequence[Batch], precision: Precision = "fp32", task: Task = Classification()
) -> tuple[Tensor, Tensor]:
    """Sample by sample, in order: whether it is answered rightly (bool), and its signed margin
    (:meth:`~noiserobust.tasks.base.Task.answers`)."""
    pairs = []
    with evaluating(model), autocast(device_of(model), precision):
        for batch in batches:
            pairs.append(task.answers(task.predictions(task.call(model, batch)), batch))
    correct, margin = zip(*pairs, strict=True)
    return torch.cat(correct), torch.cat(margin)


@torch.no_grad()
def checked(
    model: nn.Module, batch: Batch, task: Task, outputs: int, name: str, precision: Precision = "fp32"
) -> Tensor:
    """The predictions for ``batch``; one line instead of a traceback when the network called ``name`` does not take
    it, or gives no predictions of ``task`` with ``outputs`` numbers or more."""
    with evaluating(model), autocast(device_of(model), precision):
        with taking(batch.inputs, name):
            given = answer_to(model, lambda: task.call(model, batch))
        predictions = task.predictions(given)
    kinds = ("is_sparse", "is_quantized", "is_meta")
    if predictions.is_complex() or any(getattr(predictions, kind) for kind in kinds):
        got = f"{predictions.layout}, {predictions.dtype} on {predictions.device}".replace("torch.", "")
        raise UserError(f"expected predictions that are dense and real, got {got} from {name}; return others")
    task.check(predictions, batch, outputs)
    return predictions
