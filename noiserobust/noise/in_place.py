"""Gaussian and Laplace noise added to weights in place, as a training step does for each of its draws."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from noiserobust.noise.base import NoiseModel
from noiserobust.rng import BLOCK, FILLS, Fill, Stream, blocks, pieces, side_by_side


def adds_in_place(noise: NoiseModel, weight: Tensor) -> bool:
    """Whether :func:`add_in_place` takes them: a noise with a ``row_std``, a whole float32 matrix or kernel."""
    # Threads that fill know nothing of subclasses' (DTensor's) and inference mode's rules for the caller's thread.
    plain = type(weight) is Tensor and weight.dtype == torch.float32 and not weight.is_inference()
    return noise.row_std is not None and plain and weight.dim() > 1 and weight.numel() > 0


@torch.no_grad()
def add_in_place(noise: NoiseModel, weights: Sequence[tuple[Tensor, Stream]]) -> None:
    """Every weight (outputs, inputs...) becomes ``noise.sample(weight, its stream)``, bit for bit.

    On the CPU the blocks of all weights are shared out over the cores, large ones first. A core fills a piece with
    random numbers, scales it and adds it while all of it is in its cache: no field lies in memory.
    """
    if (row_std := noise.row_std) is None:
        raise ValueError(f"expected a noise that can be added in place, got {noise}")
    # One kind of work after the other: by turns, weight by weight, each takes twice as long.
    stds = [row_std(weight) for weight, _ in weights]
    parts: list[tuple[Tensor, Tensor, torch.Generator]] = []
    for (weight, stream), std in zip(weights, stds, strict=True):
        field = stream.child("program")
        if weight.device.type != "cpu":
            weight.add_(getattr(field, noise.unit)(weight.shape, device=weight.device) * std)
            continue
        for index, start, stop in blocks(len(weight), weight[0].numel()):
            rows = std if len(std) == 1 else std[start:stop]
            parts.append((weight[start:stop], rows, field.generator(block=index)))
    parts.sort(key=lambda part: -part[0].numel())
    work = [partial(_add_to_block, FILLS[noise.unit], *part) for part in parts]
    if sum(block.numel() for block, _, _ in parts) > BLOCK:
        side_by_side(work, torch.device("cpu"))
        return
    for fill in work:  # to wake other cores for this few takes as long as they would save
        fill()


def _add_to_block(fill: Fill, block: Tensor, std: Tensor, generator: torch.Generator) -> None:
    """Add std times the generator's field to a block, piece by piece, all in the same memory."""
    rows = pieces(len(block), block[0].numel())
    memory = torch.empty(max(rows), *block.shape[1:], dtype=torch.float32)
    if len(rows) == 1:
        fill(memory, generator)
        block.add_(memory.mul_(std))
        return
    std = std.expand(len(block), *std.shape[1:])
    for piece, its_std in zip(block.split(rows), std.split(rows), strict=True):
        field = memory[: len(piece)]
        fill(field, generator)
        piece.add_(field.mul_(its_std))
