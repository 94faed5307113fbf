"""Noise added to weights where they lie: what a training step does for each of its draws, without a field in memory."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from noiserobust.noise.base import NoiseModel
from noiserobust.rng import GRAIN, Stream, blocks, keeps_fields, pieces, side_by_side


def adds_in_place(noise: NoiseModel, weight: Tensor) -> bool:
    """Whether :func:`add_in_place` takes them: a noise with a ``row_std``, a whole float32 matrix or kernel."""
    # Threads that fill know nothing of subclasses' (DTensor's) and inference mode's rules for the caller's thread.
    plain = type(weight) is Tensor and weight.dtype == torch.float32 and not weight.is_inference()
    return noise.row_std is not None and plain and weight.dim() > 1


ALONE = 1 << 20
"""Weights up to which one core fills them all: to wake the others takes as long as they would save."""


@torch.no_grad()
def add_in_place(noise: NoiseModel, weights: Sequence[tuple[Tensor, Stream]]) -> None:
    """Every weight (outputs, inputs...) becomes ``noise.sample(weight, its stream)``, bit for bit.

    On the CPU the blocks of all weights are shared out over the cores, large ones first. A core fills a piece with
    normals, scales it and adds it while all of it is in its cache: no field lies in memory.
    """
    if (of_weight := noise.row_std) is None:
        raise ValueError(f"expected a noise that can be added in place, got {noise}")
    work: list[tuple[int, Callable[[], None]]] = []
    for weight, stream in weights:
        std, named = of_weight(weight), stream.child("program")
        if weight.device.type != "cpu":
            weight.add_(named.normal(weight.shape, device=weight.device) * std)
            continue
        field = named.normal(weight.shape) if keeps_fields() else None
        std = std.expand(len(weight), *std.shape[1:])
        for index, start, stop in blocks(len(weight), math.prod(weight.shape[1:])):
            rows = slice(start, stop)
            made = named.generator(block=index) if field is None else field[rows]
            work.append((weight[rows].numel(), partial(_add_block, weight[rows], std[rows], made)))
    work.sort(key=lambda part: -part[0])
    if sum(size for size, _ in work) <= ALONE:
        for _, part in work:
            part()
    else:
        side_by_side([part for _, part in work], torch.device("cpu"))


def _add_block(block: Tensor, std: Tensor, normals: torch.Generator | Tensor) -> None:
    """Add std times normals to a block: numbers that are there, or those of its generator."""
    rows = pieces(len(block), math.prod(block.shape[1:]))
    parts = zip(block.split(rows), std.split(rows), strict=True)
    if isinstance(normals, Tensor):
        for (piece, own), field in zip(parts, normals.split(rows), strict=True):
            piece.add_(field * own)
        return
    for piece, own in parts:
        piece.add_(_scratch(piece.shape).normal_(generator=normals).mul_(own))


_own = threading.local()


def _scratch(shape: torch.Size) -> Tensor:
    """Memory for one piece, this thread's own and kept: fresh memory costs the system more than filling it."""
    if shape.numel() > GRAIN:
        return torch.empty(shape)
    if not hasattr(_own, "scratch"):
        with torch.inference_mode(False):  # else it could never be written to outside
            _own.scratch = torch.empty(GRAIN)
    return _own.scratch[: shape.numel()].view(shape)
