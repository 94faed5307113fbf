"""Gradients of all parameters, seen as one vector (``None`` counts as 0)."""

from __future__ import annotations

import torch
from torch import Tensor

Gradients = list[Tensor | None]
TINY = 1e-12


def norm(gradients: Gradients) -> Tensor:
    """The 2-norm over all tensors, 0-dimensional."""
    # A norm of norms: squares of loss-scaled elements over all tensors could overflow where no single norm does.
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm([g for g in gradients if g is not None])))


def clones(gradients: Gradients) -> Gradients:
    """Copies of ``gradients``."""
    return [None if gradient is None else gradient.clone() for gradient in gradients]


@torch.no_grad()
def scale(gradients: Gradients, factor: float | Tensor) -> Gradients:
    """``gradients`` times ``factor``, in their own memory."""
    torch._foreach_mul_([gradient for gradient in gradients if gradient is not None], factor)
    return gradients


@torch.no_grad()
def add(gradients: Gradients, others: Gradients, factor: float | Tensor = 1.0) -> Gradients:
    """``gradients + factor * others``, in the memory of ``gradients`` where there is any."""
    result: Gradients = []
    for gradient, other in zip(gradients, others, strict=True):
        if other is None:
            result.append(gradient)
        elif gradient is None:
            result.append(other * factor)
        else:
            result.append(
                gradient.add_(other * factor) if isinstance(factor, Tensor) else gradient.add_(other, alpha=factor)
            )
    return result


@torch.no_grad()
def along(gradients: Gradients, axis: Gradients) -> Tensor:
    """The c of the projection ``c * axis`` of ``gradients`` on ``axis``: <gradients, axis> / ||axis||^2."""
    length = norm(axis) + TINY
    products = [torch.sum(g * a) for g, a in zip(gradients, axis, strict=True) if g is not None and a is not None]
    return torch.stack(products).sum() / length / length
