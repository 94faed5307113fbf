"""Small mechanics of the engine: micro-batches, saved state, what cannot be supported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from noiserobust.data.batches import Batch
from noiserobust.errors import UserError


def as_list(batch: Batch | Sequence[Batch]) -> list[Batch]:
    """The micro-batches of ``batch``."""
    return [batch] if isinstance(batch, Batch) else list(batch)


def only_rows(micro: list[Batch], rows: Tensor) -> list[Batch]:
    """The samples at ``rows`` of the whole batch, in as few micro-batches as are no larger than the given ones.

    Put together first: to ask each part which of the rows are its own would wait for the device.
    """
    whole = micro[0] if len(micro) == 1 else Batch.join(micro)
    return whole[rows].split(math.ceil(len(rows) / max(len(part) for part in micro)))


def before(own_memory: dict[str, Any], name: str, batch: Batch | Sequence[Batch]) -> list[Batch]:
    """The batch of the step before, ``batch`` itself in the first one; ``batch`` is remembered for the next."""
    kept = own_memory.get(name)
    # A rank's own samples: each remembers its own.
    own_memory[name] = [dict(vars(part)) for part in as_list(batch)]
    return as_list(batch) if kept is None else [Batch(**part) for part in kept]


def moved_to(device: torch.device, value: Any) -> Any:
    """A copy of nested dictionaries and lists, with their tensors on ``device``."""
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    if isinstance(value, dict):
        return {key: moved_to(device, part) for key, part in value.items()}
    return [moved_to(device, part) for part in value] if isinstance(value, list) else value


def require_supported(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse what would silently train by another rule."""
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UserError("expected an optimizer that steps without a closure, got LBFGS; use SGD or AdamW")
    sharded = any(hasattr(parameter, "device_mesh") for parameter in model.parameters())
    if sharded or any(type(module).__name__.startswith(("FullySharded", "FSDP")) for module in model.modules()):
        raise UserError(
            "expected whole parameters on every rank, got FSDP: norms and noise would be each shard's own; use DDP"
        )
