"""A layer that computes with another weight in its forward passes alone, as the shards of FSDP need it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def weight_in_forward(module: nn.Module, attribute: str, value: Tensor) -> Iterator[None]:
    """Inside, every forward pass of ``module`` has exactly ``value`` as ``attribute``, with the gradient of its own.

    FSDP puts the whole weight into the module just before a forward pass and takes it away after it, so that what lay
    there before would be lost.
    """
    held: list[Any] = []

    def begin(module: nn.Module, args: Any) -> None:
        own = module._parameters[attribute]
        assert own is not None
        moved = value.to(own.dtype) + (own - own.detach())
        held.append((own, moved))
        module._parameters[attribute] = moved  # type: ignore[assignment]

    def end(module: nn.Module, args: Any, output: Any) -> None:
        own, moved = held.pop()
        if module._parameters[attribute] is moved:  # else FSDP has taken the whole weight away
            module._parameters[attribute] = own

    handles = (module.register_forward_pre_hook(begin), module.register_forward_hook(end, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
