"""Filters: the weights of one output channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from noiserobust.analog.weights import AnalogWeight
from noiserobust.minima.vectors import Gradients
from noiserobust.rng import Stream


def filter_norms(rows: Tensor) -> Tensor:
    """The norm of every filter, (outputs, 1, ...); of the whole tensor when it has one dimension or none."""
    if rows.dim() < 2:
        return torch.linalg.vector_norm(rows)
    return torch.linalg.vector_norm(rows, dim=tuple(range(1, rows.dim())), keepdim=True)


@torch.no_grad()
def filter_noise(
    parameters: Sequence[Tensor], names: Sequence[str], analog: Sequence[AnalogWeight], gamma: float, stream: Stream
) -> Gradients:
    """e for every parameter: standard normal times gamma times the norm of its filter (output channel).

    Source: Li et al., "Revisiting Random Weight Perturbation for Efficiently Improving Generalization", section 3.2.
    """
    known = {id(weight.parameter): weight for weight in analog}
    noise: Gradients = []
    for index, (parameter, name) in enumerate(zip(parameters, names, strict=True)):
        weight = known.get(id(parameter))
        rows = parameter if weight is None else weight.as_rows(parameter)
        # float32 whatever the weights are, so that a network in bfloat16 sees the draw that it sees in float32.
        field = stream.child(name or index).normal(rows.shape, device=rows.device)
        field = field.to(torch.promote_types(field.dtype, rows.dtype)) * (gamma * filter_norms(rows))
        noise.append((field if weight is None else weight.from_rows(field)).to(parameter.dtype))
    return noise
