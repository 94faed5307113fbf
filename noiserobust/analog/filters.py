"""Filters: the weights of one output channel."""

from __future__ import annotations

import torch
from torch import Tensor

from noiserobust.analog.vectors import Vector
from noiserobust.analog.weight_space import WeightSpace
from noiserobust.analog.weights import by_parameter
from noiserobust.rng import Stream


def filter_norms(rows: Tensor) -> Tensor:
    """The norm of every filter of a weight (outputs, inputs...): (outputs, 1, ...); a vector is one filter."""
    rows = rows.float() if rows.dtype == torch.float16 else rows
    if rows.dim() < 2:
        return torch.linalg.vector_norm(rows)
    return torch.linalg.vector_norm(rows, dim=tuple(range(1, rows.dim())), keepdim=True)


@torch.no_grad()
def filter_noise(
    weights: WeightSpace, gamma: float, stream: Stream, history: Vector | None = None, eta: float = 1.0
) -> Vector:
    r"""Noise of every parameter: :math:`e_k \sim N(0, (\gamma \lVert w_k \rVert_2)^2)` for every filter k.

    The draw of a parameter is named by ``stream`` and its name. With a ``history`` of squared gradients h the standard
    deviation is divided by :math:`\sqrt{1 + \eta \sum_k h}`, the sum being over the filter, or an element's own h in a
    parameter of a single dimension.
    Source: Li et al., "Efficient Generalization Improvement Guided by Random Weight Perturbation" (arXiv 2211.11489),
    section 3.2.
    """
    analog = by_parameter(weights.analog)
    places = [analog.get(id(parameter)) for parameter in weights.parameters]
    every = [p if weight is None else weight.as_rows(p) for p, weight in zip(weights.parameters, places, strict=True)]
    # One kind of work after the other, which takes less than by turns. Fields are float32 whatever the weights are, so
    # that a network in bfloat16 sees the draw that it sees in float32.
    named = zip(every, weights.names, strict=True)
    fields = [stream.child(name or i).normal(rows.shape, device=rows.device) for i, (rows, name) in enumerate(named)]
    stds = [gamma * filter_norms(rows) for rows in every]
    noise: Vector = []
    for index, (parameter, weight) in enumerate(zip(weights.parameters, places, strict=True)):
        field = fields[index].to(torch.promote_types(torch.float32, every[index].dtype)) * stds[index]
        if history is not None and (past := history[index]) is not None:
            past = past if weight is None else weight.as_rows(past)
            total = past.sum(tuple(range(1, past.dim())), keepdim=True) if past.dim() > 1 else past
            field = field / (1 + eta * total).sqrt()
        noise.append((field if weight is None else weight.from_rows(field)).to(parameter.dtype))
    return noise
