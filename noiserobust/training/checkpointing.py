"""Gradient checkpointing: blocks keep what they were given and compute what is inside them again when it is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from noiserobust.analog.layer_converters import repeated
from noiserobust.errors import UserError
from noiserobust.models.wrappers import unwrap

ROWS = (nn.Sequential, nn.ModuleList)
"""What holds a network's blocks."""


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, passes of ``model`` with a gradient keep the inputs of its blocks and nothing of what is inside them.

    The backward pass computes each block once more, as it was: dropout draws the same masks, buffers (statistics of
    batch norm, counters, vectors of spectral norm) are those that the first pass found and change once, converters have
    the same output noise. So gradients and everything that is learnt are the same, bit for bit on a CPU. (Networks of
    transformers that fill a cache, ``config.use_cache``, do not inside: they are the same to rounding.)

    Blocks are the modules in a network's ``ModuleList`` or ``Sequential`` that have parts themselves, innermost first;
    a ``Sequential`` of single layers is cut into about as many pieces as each has layers.

    Cost: one more forward pass of the blocks. Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost"
    (arXiv 1604.06174). Raises :class:`~noiserobust.UserError` for a network without such blocks.
    """
    network = unwrap(model)
    found = list(blocks(network))
    if not found:
        raise UserError(
            f"expected blocks in a ModuleList or Sequential to checkpoint, got none in {type(network).__name__}; leave "
            "checkpointing out"
        )
    configs: list[Any] = [getattr(module, "config", None) for module in network.modules()]
    caches = [config for config in configs if getattr(config, "use_cache", False) is True]
    before = [(module, vars(module).get("forward")) for module in found]
    try:
        for config in caches:
            config.use_cache = False  # a block that fills a cache may not run twice
        for module in found:
            module.forward = _Checkpointed(module, vars(module).get("forward"))
        yield model
    finally:
        for config in caches:
            config.use_cache = True
        for module, forward in before:
            if forward is None:
                vars(module).pop("forward", None)
            else:
                module.forward = forward


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network, in order: those that lie in rows, or the rows themselves where these hold layers."""
    if isinstance(module, ROWS):
        composite = [child for child in module.children() if _has_parts(child)]
        if not composite:
            if type(module) is nn.Sequential and len(module) > 3 and any(True for _ in module.parameters()):
                yield module
            return
        for child in composite:
            inner = list(blocks(child))
            # A block may have small rows of its own (a shortcut); what holds rows of blocks is no block.
            rows = inner and (isinstance(child, ROWS) or any(not isinstance(one, ROWS) for one in inner))
            yield from inner if rows else [child]
        return
    for child in module.children():
        yield from blocks(child)


def _has_parts(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and any(True for _ in module.parameters())


class _Checkpointed:
    """The forward method of a block. A copy of the block has one of its own, since it holds the block."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any] | None) -> None:
        self.module, self.forward = module, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = self.forward or type(self.module).forward.__get__(self.module)
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if type(self.module) is not nn.Sequential or self.forward is not None:
            return self._again(forward, self.module, args, kwargs)
        (x,), layers = args, list(self.module)
        length = math.ceil(math.sqrt(len(layers)))
        for start in range(0, len(layers), length):
            piece = layers[start : start + length]
            x = self._again(_through(piece), nn.ModuleList(piece), (x,), kwargs)
        return x

    def _again(self, forward: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        return checkpoint(
            forward, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _as_found(module)), **kwargs
        )


def _through(layers: Sequence[nn.Module]) -> Callable[[Any], Any]:
    def forward(x: Any) -> Any:
        for layer in layers:
            x = layer(x)
        return x

    return forward


def _as_found(module: nn.Module) -> AbstractContextManager[None]:
    """What makes a later pass inside that of now: buffers, and noise and ranges of converters."""
    held = [
        (part, {name: None if buffer is None else buffer.clone() for name, buffer in part._buffers.items()})
        for part in module.modules()
        if part._buffers
    ]
    converters = [repeated(part) for part in module.modules()]

    @contextmanager
    def again() -> Iterator[None]:
        now = [(part, dict(part._buffers)) for part, _ in held]
        with ExitStack() as stack:
            for one in converters:
                stack.enter_context(one())
            try:
                for part, buffers in held:
                    part._buffers.update(buffers)
                yield
            finally:
                for part, buffers in now:
                    part._buffers.update(buffers)

    return again()
