"""Arithmetic on vectors in weight space (a gradient, a step): one tensor per parameter, ``None`` for zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from noiserobust.errors import UserError

Vector = list[Tensor | None]


def norm(vector: Vector) -> Tensor:
    """The 2-norm over all tensors, 0-dimensional."""
    # A norm of norms: squares of loss-scaled elements over all tensors could overflow where no single norm does.
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm([v for v in vector if v is not None])))


def divisor(vector: Vector) -> Tensor:
    """The 2-norm plus 1e-12, to divide by; never 0, in float16 either, where 1e-12 is 0."""
    length = norm(vector)
    return (length + 1e-12).clamp_(min=torch.finfo(length.dtype).tiny)


def inner(vector: Vector, other: Vector) -> Tensor:
    """The inner product over all tensors, 0-dimensional."""
    pairs = zip(vector, other, strict=True)
    return torch.stack([torch.sum(v * o) for v, o in pairs if v is not None and o is not None]).sum()


def only(vector: Vector, chosen: Sequence[bool]) -> Vector:
    """``vector`` without the tensors that are not ``chosen``."""
    return [v if mark else None for v, mark in zip(vector, chosen, strict=True)]


def clones(vector: Vector) -> Vector:
    """A copy of ``vector``."""
    return [None if v is None else v.clone() for v in vector]


@torch.no_grad()
def scale(vector: Vector, factor: float | Tensor) -> Vector:
    """``vector`` times ``factor``, in its own memory."""
    torch._foreach_mul_([v for v in vector if v is not None], factor)
    return vector


@torch.no_grad()
def scale_to(vector: Vector, length: float) -> Vector:
    """``length v / (||v|| + 1e-12)``, in the vector's own memory. It does not depend on the vector's scale."""
    if all(v is None for v in vector):
        raise UserError("expected a gradient to follow, got none: the loss reaches no parameter that is to be moved")
    return scale(vector, length / divisor(vector))


@torch.no_grad()
def add(vector: Vector, other: Vector, factor: float | Tensor = 1.0) -> Vector:
    """``vector + factor * other``, in the memory of ``vector`` where there is any."""
    result: Vector = []
    for v, o in zip(vector, other, strict=True):
        if o is None:
            result.append(v)
        elif v is None:
            result.append(o * factor)
        else:
            result.append(v.add_(o * factor) if isinstance(factor, Tensor) else v.add_(o, alpha=factor))
    return result


@torch.no_grad()
def along(vector: Vector, axis: Vector) -> Tensor:
    """The c of the projection ``c * axis`` of ``vector`` on ``axis``: <vector, axis> / ||axis||^2."""
    length = divisor(axis)
    return inner(vector, axis) / length / length


@torch.no_grad()
def multiply(vector: Vector, factors: Vector) -> Vector:
    """``vector`` times ``factors``, element by element, in its own memory; ``None`` multiplies by 1."""
    for v, factor in zip(vector, factors, strict=True):
        if v is not None and factor is not None:
            v.mul_(factor)
    return vector
