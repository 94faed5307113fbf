"""The scale of the noise: the largest absolute weight among those that share a column, a layer or a crossbar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.sharded import is_sharded, max_abs

Reference = Literal["filter", "layer", "tile", "tile-column"]
LARGEST = 512
"""Rows and columns of a crossbar where nothing else is said."""


def reference_scale(weight: Tensor, reference: Reference = "filter", rows: int = 512, columns: int = 512) -> Tensor:
    """The largest absolute weight, max |w|, of each weight's group, in a shape that broadcasts against ``weight``.

    ``weight`` has shape (outputs, inputs...). On the chip its inputs, flattened in logical order, are the rows of a
    crossbar and its outputs the columns.

    - ``"filter"``: one output channel; result (outputs, 1, ...).
    - ``"layer"``: the whole tensor, as aihwkit's additive modifier has it; result (1, 1, ...).
    - ``"tile"``: one crossbar of at most ``rows`` x ``columns``; result of the weight's own shape.
    - ``"tile-column"``: one output column of one crossbar; result of the weight's own shape.

    Tiles are cut evenly, as aihwkit cuts them: 576 inputs on 512 rows become 288 + 288. The result is float32 (float64
    for float64 weights) and a constant for autograd.
    """
    clean = weight.detach()
    clean = clean.to(torch.promote_types(clean.dtype, torch.float32))
    inputs = tuple(range(1, clean.dim()))
    if is_sharded(clean):
        return max_abs(clean, inputs if reference == "filter" and inputs else tuple(range(clean.dim())))
    if reference == "layer" or (reference == "filter" and not inputs):
        # A vector has no column of its own: it is one group.
        return _largest(clean, tuple(range(clean.dim()))).reshape([1] * clean.dim())
    if reference == "filter":
        return _largest(clean, inputs)
    if reference == "tile":
        return over_tiles(clean, rows, columns, lambda tile: tile.abs().amax())
    return over_tiles(clean, rows, columns, lambda tile: tile.abs().amax(1, keepdim=True))


def _largest(weight: Tensor, dims: tuple[int, ...]) -> Tensor:
    """max |w| over ``dims``, kept as dimensions of size 1."""
    # vector_norm(inf) gives the same and takes 15 times as long on the CPU; weight.abs() would be a copy.
    return torch.maximum(weight.amax(dims, keepdim=True), -weight.amin(dims, keepdim=True)).abs()


def over_tiles(weight: Tensor, rows: int, columns: int, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """``reduce`` of each crossbar's (outputs, inputs) part of ``weight``, spread over that part; of weight's shape."""
    crossbars = weight.flatten(1) if weight.dim() > 1 else weight.reshape(1, -1)
    spread = torch.empty_like(crossbars, memory_format=torch.contiguous_format)
    for inputs_of_tile in even_split(crossbars.shape[1], rows):
        for outputs_of_tile in even_split(crossbars.shape[0], columns):
            spread[outputs_of_tile, inputs_of_tile] = reduce(crossbars[outputs_of_tile, inputs_of_tile])
    return spread.reshape(weight.shape)


def check_reference(name: str, reference: str, rows: int, columns: int) -> None:
    """Refuse a reference group that there is none of, and crossbars without rows or columns."""
    if rows < 1 or columns < 1:
        raise UserError(f"{name}: expected a crossbar of at least 1 x 1, got rows={rows}, columns={columns}")
    if not reference.startswith("tile") and (rows, columns) != (LARGEST, LARGEST):
        raise UserError(
            f"{name}: expected reference tile or tile-column beside rows and columns, got reference {reference}, which "
            "knows no crossbars"
        )


def even_split(size: int, largest: int) -> Iterator[slice]:
    """Slices that cut ``size`` into the fewest parts of at most ``largest``, as equal as can be, larger ones first."""
    parts = -(-size // largest)
    base, extra = divmod(size, parts) if parts else (0, 0)
    start = 0
    for index in range(parts):
        stop = start + base + (index < extra)
        yield slice(start, stop)
        start = stop
