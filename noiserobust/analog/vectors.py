"""Arithmetic on vectors in weight space (a gradient, a step): one tensor per parameter, ``None`` for zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.sharded import whole

Vector = list[Tensor | None]


def precise(vector: Vector) -> Vector:
    """``vector`` with what is in float16 in float32: squares, norms and products of float16 overflow or vanish."""
    return [v if v is None or v.dtype != torch.float16 else v.float() for v in vector]


def norm(vector: Vector) -> Tensor:
    """The 2-norm over all tensors, 0-dimensional; of float16 in float32."""
    # A norm of norms: squares of loss-scaled elements over all tensors could overflow where no single norm does.
    given = [v for v in precise(vector) if v is not None]
    if not given:
        return torch.zeros(())
    norms = torch._foreach_norm(given)
    return torch.linalg.vector_norm(torch.stack([whole(one) for one in norms]))


def divisor(vector: Vector) -> Tensor:
    """The 2-norm plus 1e-12, to divide by."""
    return norm(vector) + 1e-12


def inner(vector: Vector, other: Vector) -> Tensor:
    """The inner product over all tensors, 0-dimensional; of float16 in float32."""
    pairs = zip(precise(vector), precise(other), strict=True)
    products = [whole(torch.sum(v * o)) for v, o in pairs if v is not None and o is not None]
    return torch.stack(products).sum() if products else torch.zeros(())


def only(vector: Vector, chosen: Sequence[bool]) -> Vector:
    """``vector`` without the tensors that are not ``chosen``."""
    return [v if mark else None for v, mark in zip(vector, chosen, strict=True)]


def clones(vector: Vector) -> Vector:
    """A copy of ``vector``."""
    return [None if v is None else v.clone() for v in vector]


@torch.no_grad()
def scale(vector: Vector, factor: float | Tensor) -> Vector:
    """``vector`` times ``factor``, in its own memory."""
    plain = [v for v in vector if v is not None and v.dtype != torch.float16]
    if plain:
        torch._foreach_mul_(plain, factor)
    for v in vector:
        if v is not None and v.dtype == torch.float16:
            v.copy_(v.float().mul_(factor))  # a factor in float16 might overflow or vanish where the product does not
    return vector


def clip(vector: Vector, limit: float) -> Vector:
    """``vector``, in its own memory, times ``limit / (||v|| + 1e-6)`` where that is below 1."""
    if all(v is None for v in vector):
        return vector
    return scale(vector, (limit / (norm(vector) + 1e-6)).clamp(max=1.0))


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
