"""Data made ready for forward passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from noiserobust.data import Batch, Labelled, held_batches, nests

FORWARD_BATCH = {"cpu": 50}
OTHER_FORWARD_BATCH = 500
"""Images per forward pass, by device."""
FORWARD_TOKENS = {"cpu": 4_096}
OTHER_FORWARD_TOKENS = 16_384
"""Tokens per forward pass: each may have as many logits as a vocabulary has words."""


def prepare(
    data: Labelled, device: torch.device, batch_size: int | None = None, channels_last: bool = False
) -> Sequence[Batch]:
    """All of ``data``, normalised and moved once, in order, so that every draw reads the same tensors.

    ``batch_size`` is by default what suits forward passes on ``device``. Streamed data that would not fit are read
    again at every pass.
    """
    size = _usual(data, device.type) if batch_size is None else batch_size
    return held_batches(data, size, device=device, channels_last=channels_last)


def _usual(data: Labelled, device: str) -> int:
    """Samples per forward pass where none were asked for."""
    size = FORWARD_BATCH.get(device, OTHER_FORWARD_BATCH)
    lengths = [head.shape[1] for part in getattr(data, "parts", ()) if _are_tokens(head := nests.first(part.inputs))]
    return max(1, min(size, FORWARD_TOKENS.get(device, OTHER_FORWARD_TOKENS) // max(lengths))) if lengths else size


def _are_tokens(inputs: Tensor) -> bool:
    return inputs.dim() == 2 and not inputs.is_floating_point()


def pick(batches: Sequence[Batch], positions: np.ndarray, size: int | None = None) -> list[Batch]:
    """The images at ``positions`` of the whole, in that order, as batches of ``size`` at most: of those they come
    from."""
    starts = np.cumsum([0, *map(len, batches)])
    home = np.searchsorted(starts, positions, side="right") - 1
    read = {i: batches[i] for i in np.unique(home).tolist()}  # each once, and in order: they may be streamed
    places = (positions - starts[home]).tolist()

    def taken(tensors: list[Tensor]) -> Tensor:
        # Slices, which keep the memory format and copy nothing; joining them copies once.
        return torch.cat([values[place : place + 1] for values, place in zip(tensors, places, strict=True)])

    joined, size = Batch.join([read[i] for i in home.tolist()], taken), size or len(batches[0])
    return [joined[slice(start, start + size)] for start in range(0, len(joined), size)]
