"""Data: what a network is trained and tested on.

``load`` finds data by name, ``as_dataset`` takes what people have, ``Batches`` feeds it to a network;
``Streamed`` and ``StreamedBatches`` are their twins for images that stay on disk.
"""

from __future__ import annotations

from noiserobust.data.batches import Batch, Batches
from noiserobust.data.collected import as_dataset
from noiserobust.data.content import Content
from noiserobust.data.dataset import Dataset, Splits
from noiserobust.data.feed import held_batches, training_batches
from noiserobust.data.labelled import Labelled
from noiserobust.data.named import load
from noiserobust.data.samples import Samples
from noiserobust.data.source import DataSource
from noiserobust.data.streamed import Streamed, StreamedBatches

__all__ = [
    "Batch",
    "Batches",
    "Content",
    "DataSource",
    "Dataset",
    "Labelled",
    "Samples",
    "Splits",
    "Streamed",
    "StreamedBatches",
    "as_dataset",
    "held_batches",
    "load",
    "training_batches",
]
