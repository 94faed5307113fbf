"""The loss along random directions whose filters are as long as the network's."""

from __future__ import annotations

import torch
from torch import Tensor

from noiserobust.analog.filters import filter_norms
from noiserobust.analog.vectors import Vector
from noiserobust.analog.weight_space import Over, WeightSpace
from noiserobust.analog.weights import by_parameter
from noiserobust.errors import UserError
from noiserobust.minima.surface import Surface
from noiserobust.rng import Stream


@torch.no_grad()
def direction(weights: WeightSpace, stream: Stream, over: Over = "all") -> Vector:
    r"""A filter-normalised random direction: :math:`d_k \leftarrow d_k\, \lVert w_k \rVert_2 / \lVert d_k \rVert_2`.

    d is standard normal, k counts filters (output channels); parameters of a single dimension, biases and norms, do not
    move. ``over`` leaves only the ``analog`` weights moving.
    Source: Li et al., "Visualizing the Loss Landscape of Neural Nets", section 4.
    """
    analog = by_parameter(weights.analog)
    step: Vector = []
    for parameter, name, moves in zip(weights.parameters, weights.names, weights.chosen(over), strict=True):
        if not moves or parameter.dim() < 2:
            step.append(None)
            continue
        weight = analog.get(id(parameter))
        rows = parameter if weight is None else weight.as_rows(parameter)
        field = _normalised(stream.child(name).normal(rows.shape, device=rows.device), rows).to(parameter.dtype)
        step.append(field if weight is None else weight.from_rows(field))
    if all(part is None for part in step):
        raise UserError("expected a weight of two or more dimensions to move, got none; a landscape needs filters")
    return step


def height(surface: Surface, first: Vector, second: Vector, x: float, y: float) -> float:
    """L(w + x d1 + y d2); at (0, 0) it is L(w), bit for bit. One forward pass."""
    for dtype in {part.dtype for part in (*first, *second) if part is not None}:
        if max(abs(x), abs(y)) > torch.finfo(dtype).max:
            raise UserError(f"expected a half width that weights of {dtype} can move by, got {max(abs(x), abs(y)):g}")
    with surface.restored():
        surface.add(first, x)
        surface.add(second, y)
        return surface.loss()


def coordinates(half_width: float, points: int) -> list[float]:
    """``points`` equal steps from -half_width to half_width, the middle one being exactly 0."""
    if points < 3 or points % 2 == 0:
        raise UserError(f"expected an odd number of points >= 3 a side, the middle being the network, got {points}")
    if not 0 < half_width < float("inf"):
        raise UserError(f"expected a finite half width > 0, got {half_width}; 1 is as long as the filters themselves")
    return [half_width * (2 * index - (points - 1)) / (points - 1) for index in range(points)]


def _normalised(field: Tensor, rows: Tensor) -> Tensor:
    norms = filter_norms(field)
    return field * (filter_norms(rows) / torch.where(norms > 0, norms, 1))
