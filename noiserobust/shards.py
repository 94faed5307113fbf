"""Weights that are sharded over processes (torch's DTensor): each makes only its own part of the noise."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.rng import BLOCK


def is_sharded(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a DTensor."""
    # Looked up, not imported: where there is a DTensor its module is loaded, and elsewhere it would cost time.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` that lies in this process, in its own memory; all of one that is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def field_like(draw: Callable[..., Tensor], like: Tensor) -> Tensor:
    """``draw(like.shape)``, a random field of a :class:`~noiserobust.rng.Stream`, placed as ``like`` is.

    ``draw`` is a stream's ``normal``, ``uniform`` or ``laplace``. Of a DTensor every process makes its own part, equal
    to that slice of the whole bit for bit: under ``Shard(0)`` its own rows and nothing else; under another dimension
    whole rows, a block at a time, of which it keeps its part, so that every process draws as much as one alone would.
    """
    if not is_sharded(like):
        return draw(like.shape, device=like.device)
    from torch.distributed.tensor import DTensor

    (first, last), *others = _bounds(like)
    device, columns = like.device, tuple(slice(*bounds) for bounds in others)
    if others == [(0, size) for size in like.shape[1:]]:
        part = draw(like.shape, rows=(first, last), device=device)
    else:
        part = torch.empty(local(like).shape, dtype=torch.float32, device=device)
        step = max(1, BLOCK // max(1, math.prod(like.shape[1:])))
        # In the blocks of the stream, so that none is drawn twice.
        edges = [first, *range(first // step * step + step, last, step), last]
        for start, stop in zip(edges, edges[1:], strict=False):
            block = draw(like.shape, rows=(start, stop), device=device)
            part[start - first : stop - first] = block[(slice(None), *columns)]
    whole = torch.empty(like.shape, device="meta")
    return DTensor.from_local(
        part,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),  # type: ignore[attr-defined]
    )


def _bounds(tensor: Tensor) -> list[tuple[int, int]]:
    """(start, stop) of this process's part in every dimension: cut as ``torch.chunk`` cuts, one mesh axis at a time."""
    from torch.distributed.tensor import Replicate, Shard

    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    bounds = [(0, size) for size in tensor.shape]
    for axis, placement in enumerate(placements):
        if type(placement) is Replicate:
            continue
        if type(placement) is not Shard:
            raise UserError(f"expected a weight placed by Shard or Replicate, got {placement}; redistribute it first")
        start, stop = bounds[placement.dim]
        size = -(-(stop - start) // mesh.size(axis))
        at = min(start + size * mesh.get_local_rank(axis), stop)
        bounds[placement.dim] = (at, min(at + size, stop))
    return bounds
