"""A batch in micro-batches: as a list, some of its rows, the one of the step before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from noiserobust.data import nests
from noiserobust.data.batches import Batch
from noiserobust.errors import UserError

AnyBatch = Batch | Sequence[Batch]
"""A batch, or the micro-batches that it consists of."""
Batches = Batch | Iterable[Batch]
"""The same, also from a generator."""


def held(batch: Batches) -> AnyBatch:
    """``batch``, or a list of its micro-batches: every pass of a rule sees all of them."""
    if isinstance(batch, Batch):
        return batch
    parts = list(batch)
    if not parts or not all(isinstance(part, Batch) for part in parts):
        got = type(batch).__name__ + (f" of {type(parts[0]).__name__}" if parts else " without any")
        raise UserError(f"expected a Batch, or micro-batches, got {got}; use Batch(inputs, labels)")
    return parts


def as_list(batch: AnyBatch) -> list[Batch]:
    """The micro-batches of ``batch``."""
    return [batch] if isinstance(batch, Batch) else list(batch)


def only_rows(micro: list[Batch], rows: Tensor) -> list[Batch]:
    """The samples at ``rows`` of the whole batch, in as few micro-batches as are no larger than the given ones.

    Joined first: to ask each part which of the rows it holds would wait for the device.
    """
    whole = micro[0] if len(micro) == 1 else Batch.join(micro)
    return whole[rows].split(math.ceil(len(rows) / max(len(part) for part in micro)))


def previous(memory: dict[str, Any], name: str, batch: AnyBatch) -> list[Batch]:
    """The batch of the step before, ``batch`` itself in the first one; a copy of ``batch`` is kept for the next, since
    a loader may fill one buffer again and again.

    ``memory`` is the rank's (:class:`Engine.own_memory`): each remembers its own samples.
    """
    kept = memory.get(name)
    memory[name] = [nests.mapped(vars(part), torch.clone) for part in as_list(batch)]
    return as_list(batch) if kept is None else [Batch(**part) for part in kept]
