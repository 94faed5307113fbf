"""Networks inside wrappers, and parameters' names without their marks."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        if isinstance(model, (DistributedDataParallel, DataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def canonical(name: str) -> str:
    """A parameter's name without the marks that torch.compile leaves on submodules."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
