"""Data made ready for forward passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from noiserobust.data import Batch, Labelled, held_batches, nests

FORWARD_BATCH = {"cpu": 50}
OTHER_FORWARD_BATCH = 500
"""Images per forward pass, by device."""


def prepare(
    data: Labelled, device: torch.device, batch_size: int | None = None, channels_last: bool = False
) -> Sequence[Batch]:
    """All of ``data``, normalised and moved once, in order, so that every draw reads the same tensors.

    ``batch_size`` is by default what suits forward passes on ``device``. Streamed data that would not fit are read
    again at every pass.
    """
    size = FORWARD_BATCH.get(device.type, OTHER_FORWARD_BATCH) if batch_size is None else batch_size
    return held_batches(data, size, device=device, channels_last=channels_last)


def pick(batches: Sequence[Batch], positions: np.ndarray) -> list[Batch]:
    """The images at ``positions`` of the whole, in that order, as batches no larger than those they come from."""
    order = np.argsort(positions, kind="stable")
    starts = np.cumsum([0, *map(len, batches)])
    home = np.searchsorted(starts, positions[order], side="right") - 1
    place = positions[order] - starts[home]
    size, device = len(batches[0]), nests.first(batches[0].inputs).device
    parts = [batches[i][torch.from_numpy(place[home == i]).to(device)] for i in np.unique(home)]
    joined = Batch.join(parts)[torch.from_numpy(np.argsort(order)).to(device)]
    return [joined[slice(start, start + size)] for start in range(0, len(joined), size)]
