"""The point w + e: the loss there, how far it rose, the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from noiserobust.analog.vectors import Vector, clones, inner, norm
from noiserobust.analog.weight_space import Over
from noiserobust.data import Batch
from noiserobust.minima.perturbations import Perturbation
from noiserobust.minima.surface import Surface
from noiserobust.rng import Stream


@dataclass(frozen=True)
class Point:
    """What a measure may want to know of w + e: means over micro-batches, where there are several."""

    loss: float
    """L(w + e)."""
    rise: float
    """L(w + e) - L(w), from one and the same samples."""
    radius: float
    """||e||, over all trainable parameters."""
    gradient_norm: float = float("nan")
    """Norm of the gradient at w + e."""
    cosine: float = float("nan")
    """Cosine between the gradients at w and at w + e."""


def visit(surface: Surface, perturbation: Perturbation, streams: Sequence[Stream], over: Over | None) -> list[Point]:
    """The points of all draws, draw k being named ``streams[k]``; with gradients over ``over``, or without any.

    A forward pass at w, which serves all measures and draws, and one per draw; a backward pass at w where the gradient
    is followed or compared, and one per draw with ``over``.
    """
    # A visit with gradients answers one without.
    for known in dict.fromkeys([over, over or "all", over or "analog"]):
        if (key := (perturbation, tuple(streams), known)) in surface.memo:
            return surface.memo[key]
    parts = surface.parts(perturbation.m)
    sums = [[0.0] * 5 for _ in streams]
    for index, part in enumerate(parts):
        share = surface.units(part) / surface.units()
        if not share:  # nothing in it counts
            continue
        whole = perturbation.m is None
        clean, gradient = clean_point(surface, part, whole, perturbation.follows_gradient or over is not None)
        loss = surface.mean(clean, part)
        for draw, stream in enumerate(streams):
            name = stream if whole else stream.child("part", index)
            values = _at(surface, part, perturbation, name, gradient, loss, over)
            for place, value in enumerate(values):
                sums[draw][place] += share * value
    points = [Point(*values) for values in sums]
    surface.memo[(perturbation, tuple(streams), over)] = points
    return points


def clean_point(surface: Surface, part: Sequence[Batch], whole: bool, gradient: bool) -> tuple[Tensor, Vector]:
    """Losses at w and, where asked, their mean's gradient (not to be changed); remembered for the whole data."""
    known = surface.memo.get("clean") if whole else None
    if known is None or (gradient and not known[1]):
        known = surface.gradient(part) if gradient else (surface.losses(part), [])
        if whole:
            surface.memo["clean"] = known
    return known


def _at(
    surface: Surface,
    part: Sequence[Batch],
    perturbation: Perturbation,
    stream: Stream,
    gradient: Vector,
    clean_loss: float,
    over: Over | None,
) -> tuple[float, float, float, float, float]:
    """The fields of a :class:`Point`, of one part of the data."""
    nan = float("nan")
    if perturbation.is_identity_on(surface):  # w itself: no further pass
        if over is None:
            return clean_loss, 0.0, 0.0, nan, nan
        return clean_loss, 0.0, 0.0, norm(surface.only(gradient, over)).item(), 1.0
    clean = [parameter.detach().clone() for parameter in surface.parameters]
    with perturbation.moved(surface, clones(gradient) if perturbation.follows_gradient else [], stream):
        radius = norm([p.detach() - c for p, c in zip(surface.parameters, clean, strict=True)]).item()
        if over is None:
            loss = surface.loss(part)
            return loss, loss - clean_loss, radius, nan, nan
        losses, there = surface.gradient(part)
    here, there = surface.only(gradient, over), surface.only(there, over)
    loss, length = surface.mean(losses, part), norm(there)
    return loss, loss - clean_loss, radius, length.item(), (inner(here, there) / (norm(here) * length)).item()
