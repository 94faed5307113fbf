"""Weights that are sharded over processes (torch's DTensor): each makes only its own part of the noise."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from noiserobust.errors import UserError
from noiserobust.rng import BLOCK

T = TypeVar("T")


def is_sharded(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a DTensor."""
    return _is(tensor, "torch.distributed.tensor", "DTensor")


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` that lies in this process, in its own memory; all of one that is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """``tensor`` put together from all processes, in each of them."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def class_of(module: nn.Module) -> type[nn.Module]:
    """The class of ``module`` before FSDP's ``fully_shard`` made one of its own of it."""
    kind = type(module)
    return kind.__bases__[1] if _is(module, "torch.distributed.fsdp", "FSDPModule") else kind


def mesh_of(model: nn.Module) -> Any:
    """The mesh of processes over which weights of ``model`` are sharded; ``None`` where they are whole."""
    forget_gathered(model)  # after a forward pass FSDP leaves whole weights in it
    return next((p.device_mesh for p in model.parameters() if is_sharded(p)), None)  # type: ignore[attr-defined]


def of_first(value: T, mesh: Any) -> T:
    """``value`` of the first process of ``mesh``, in all of its processes."""
    values = [value]
    for axis in range(mesh.ndim):
        group = mesh.get_group(axis)
        dist.broadcast_object_list(values, dist.get_global_rank(group, 0), group)
    return values[0]


def forget_gathered(model: nn.Module) -> None:
    """Let FSDP gather its shards anew: whole weights kept from a forward pass would outlive their change."""
    if not (dist.is_available() and dist.is_initialized()):  # asked at every draw: to look at all modules takes longer
        return
    for module in model.modules():
        if _is(module, "torch.distributed.fsdp", "FSDPModule"):
            module.reshard()  # type: ignore[operator]


def max_abs(tensor: Any, dims: tuple[int, ...]) -> Tensor:
    """max |w| over ``dims`` of a DTensor, kept as dimensions of size 1; processes that hold none of it count as 0."""
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    part = local(tensor)
    if part.numel():
        largest = torch.linalg.vector_norm(part, torch.inf, dim=dims, keepdim=True)
    else:
        largest = part.new_zeros([1 if dim in dims else size for dim, size in enumerate(part.shape)])
    across = [isinstance(placement, Shard) and placement.dim in dims for placement in tensor.placements]
    partial = [Partial("max") if over else placement for over, placement in zip(across, tensor.placements, strict=True)]
    shape = torch.Size(1 if dim in dims else size for dim, size in enumerate(tensor.shape))
    stride = torch.empty(shape, device="meta").stride()
    held = DTensor.from_local(largest, tensor.device_mesh, partial, run_check=False, shape=shape, stride=stride)
    return held.redistribute(placements=[Replicate() if isinstance(one, Partial) else one for one in partial])


def field_like(draw: Callable[..., Tensor], like: Any) -> Tensor:
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
        bounds = [first, *range(first // step * step + step, last, step), last]
        for start, stop in pairwise(bounds):
            block = draw(like.shape, rows=(start, stop), device=device)
            part[start - first : stop - first] = block[(slice(None), *columns)]
    stride = torch.empty(like.shape, device="meta").stride()
    return DTensor.from_local(part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=stride)


def _is(value: object, module: str, name: str) -> bool:
    # Looked up, not imported: where there is such a value its module is loaded, and elsewhere it would cost time.
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))


def _bounds(tensor: Any) -> list[tuple[int, int]]:
    """(start, stop) of this process's part in every dimension: cut as ``torch.chunk`` cuts, one mesh axis at a time."""
    from torch.distributed.tensor import Replicate, Shard

    mesh, placements = tensor.device_mesh, tensor.placements
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
