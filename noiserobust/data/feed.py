"""Batches of whatever data there are: the one place that knows both kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from noiserobust.data.batches import Batch, Batches
from noiserobust.data.dataset import Dataset
from noiserobust.data.labelled import Labelled
from noiserobust.data.samples import SampleBatches, Samples
from noiserobust.data.streamed import Streamed, StreamedBatches
from noiserobust.errors import UserError
from noiserobust.rng import Stream

KEPT = 4 << 30
"""Bytes of decoded float32 test images that are kept rather than read again at every pass."""


def training_batches(
    data: Labelled,
    batch_size: int,
    *,
    device: torch.device,
    stream: Stream,
    crop: int = 0,
    flip: bool = False,
    cutout: int = 0,
    drop_last: bool = False,
    channels_last: bool = False,
) -> Batches | StreamedBatches | SampleBatches:
    """Shuffled, augmented batches of ``data`` on ``device``: in memory, or streamed."""
    if isinstance(data, Dataset):
        data = data.to(device)
        options: Any = {"flip": flip, "cutout": cutout, "drop_last": drop_last, "channels_last": channels_last}
        return Batches(data, batch_size, stream=stream, crop=crop, **options)
    if isinstance(data, Samples):
        if crop or flip or cutout:
            raise UserError(
                "expected crop=0, flip=False and cutout=0 with labels that are no class numbers, got augmentation that "
                "would not move them along"
            )
        return SampleBatches(
            data, batch_size, device=device, stream=stream, drop_last=drop_last, channels_last=channels_last
        )
    if crop:
        raise UserError(f"expected crop=0 with streamed images, got {crop}: they are cropped at random sizes anyway")
    return StreamedBatches(
        _streamed(data),
        batch_size,
        device=device,
        stream=stream,
        flip=flip,
        cutout=cutout,
        drop_last=drop_last,
        channels_last=channels_last,
    )


def held_batches(
    data: Labelled, batch_size: int, *, device: torch.device, channels_last: bool = False
) -> Sequence[Batch]:
    """All of ``data`` in order, on ``device``: made once, or read at every pass where they would not fit."""
    if isinstance(data, Dataset):
        return list(Batches(data.to(device), batch_size, channels_last=channels_last).epoch(0))
    if isinstance(data, Samples):
        return data.batches(batch_size, device, channels_last)
    data = _streamed(data)
    batches = StreamedBatches(data, batch_size, device=device, channels_last=channels_last)
    return list(batches) if 4 * 3 * data.size**2 * len(data) <= KEPT else batches


def _streamed(data: Labelled) -> Streamed:
    if not isinstance(data, Streamed):
        raise TypeError(f"expected a Dataset or Streamed, got {type(data).__name__}")
    return data
