"""Gradients of all parameters, seen as one vector (``None`` counts as 0)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from noiserobust.errors import UserError

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
    return inner(gradients, axis) / length / length


@torch.no_grad()
def ascent(gradients: Gradients, rho: float) -> Gradients:
    """``rho g / (||g|| + 1e-12)``, made in the gradients' own memory.

    It does not depend on the loss scale, so scaled gradients serve as they are.
    """
    if all(gradient is None for gradient in gradients):
        raise UserError("sam: expected a trainable parameter to perturb, found none; use perturb=all or unfreeze some")
    return scale(gradients, rho / (norm(gradients) + TINY))


@torch.no_grad()
def adaptive_ascent(
    gradients: Gradients, parameters: Sequence[Tensor], names: Sequence[str], rho: float, eta: float
) -> Gradients:
    """``rho T^2 g / (||T g|| + 1e-12)`` in the gradients' own memory; T is ``|w| + eta`` on weights, 1 on biases.

    Source: Kwon et al., "ASAM: Adaptive Sharpness-Aware Minimization", Eq. 8.
    """
    scales = [
        None if gradient is None or "bias" in name.rpartition(".")[2] else parameter.abs().add_(eta)
        for gradient, parameter, name in zip(gradients, parameters, names, strict=True)
    ]
    _times(gradients, scales)
    length = norm(gradients)
    _times(gradients, scales)
    return scale(gradients, rho / (length + TINY))


def inner(gradients: Gradients, others: Gradients) -> Tensor:
    """The inner product over all tensors, 0-dimensional."""
    pairs = zip(gradients, others, strict=True)
    return torch.stack([torch.sum(g * o) for g, o in pairs if g is not None and o is not None]).sum()


def _times(gradients: Gradients, scales: Gradients) -> None:
    for gradient, factor in zip(gradients, scales, strict=True):
        if gradient is not None and factor is not None:
            gradient.mul_(factor)
