"""Nests: a tensor, or tensors in tuples, lists and dictionaries, as networks take and give them.

What else is inside (None, a flag) stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from noiserobust.errors import UserError


def tensors(nest: Any) -> Iterator[Tensor]:
    """Its tensors in order."""
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, Mapping):
        for value in nest.values():
            yield from tensors(value)
    elif isinstance(nest, (tuple, list)):
        for value in nest:
            yield from tensors(value)


def mapped(nest: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nest with every tensor changed."""
    if isinstance(nest, Tensor):
        return change(nest)
    if isinstance(nest, Mapping):
        return {key: mapped(value, change) for key, value in nest.items()}
    if isinstance(nest, (tuple, list)):
        changed = (mapped(value, change) for value in nest)
        return tuple(changed) if isinstance(nest, tuple) else list(changed)
    return nest


def copied_to(device: torch.device, nest: Any) -> Any:
    """A copy of the nest on ``device``."""
    return mapped(nest, lambda tensor: tensor.to(device, copy=True))


def first(nest: Any) -> Tensor:
    """The first tensor; :class:`UserError` where there is none."""
    for tensor in tensors(nest):
        return tensor
    raise UserError(f"expected a tensor, or tensors in a tuple or dictionary, got {type(nest).__name__}")


def size(nest: Any) -> int:
    """How many samples: the first dimension, which all tensors share; :class:`UserError` where they do not."""
    sizes = {len(tensor) if tensor.dim() else 0 for tensor in tensors(nest)}
    if len(sizes) != 1:
        raise UserError(f"expected tensors with one first dimension, the samples, got {sorted(sizes) or 'no tensor'}")
    return sizes.pop()


def joined(nests: Sequence[Any], join: Callable[[list[Tensor]], Tensor] = torch.cat) -> Any:
    """The samples of all ``nests``, which are of one kind, in order; ``torch.stack`` makes one of single samples."""
    head = nests[0]
    if isinstance(head, Tensor):
        return join(list(nests))
    if isinstance(head, Mapping):
        return {key: joined([nest[key] for nest in nests], join) for key in head}
    if isinstance(head, (tuple, list)):
        parts = [joined(list(parts), join) for parts in zip(*nests, strict=True)]
        return tuple(parts) if isinstance(head, tuple) else parts
    return head
