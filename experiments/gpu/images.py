"""CIFAR-10's images out of one small file: JPEGs end to end, decoded once for all processes.

The file (npz) has, for ``train`` and ``test``: ``<split>_bytes``, the JPEGs without their first bytes and without the
two last, end to end; ``<split>_offsets``, N + 1 positions; ``<split>_labels``. ``header`` are those first bytes, the
same for all. Accuracies lie slightly below those on the original pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from noiserobust.data import Dataset, DataSource, Splits
from noiserobust.data.dataset import channel_statistics

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SPLITS = ("train", "test")
END = b"\xff\xd9"


@dataclass(frozen=True)
class Decoded(DataSource):
    """The images of a folder that :func:`decode` wrote, with the names and the augmentation of CIFAR-10."""

    example: ClassVar[str] = "experiments.gpu.images:Decoded(folder)"

    folder: str

    def read(self, root: str | Path, image_size: int | None) -> Splits:
        parts = [[np.load(Path(self.folder) / f"{split}{what}.npy") for what in ("", "_labels")] for split in SPLITS]
        tensors = [[torch.from_numpy(array) for array in part] for part in parts]
        mean, std = channel_statistics(tensors[0][0])
        train, test = (Dataset(images, labels, mean, std, CLASSES, "cifar10") for images, labels in tensors)
        return Splits(train, test, crop=train.images.shape[2] // 8, flip=True)

    def lies_in(self, root: str | Path) -> bool:
        return (Path(self.folder) / "done").is_file()


def decode(file: str, folder: Path) -> None:
    """Write the pixels and labels of ``file`` into ``folder``, where they are not there; without a file random ones,
    32 training and 8 test images of 8 x 8 pixels in each class, for rehearsals."""
    if (folder / "done").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    random, arrays = np.random.default_rng(0), np.load(file) if file else {}
    for split, count in zip(SPLITS, (32, 8), strict=True):
        if file:
            images, labels = _pixels(arrays, split), arrays[f"{split}_labels"].astype(np.int64)
        else:
            images = random.integers(0, 256, (10 * count, 3, 8, 8), dtype=np.uint8)
            labels = np.repeat(np.arange(10), count)
        np.save(folder / f"{split}.npy", images)
        np.save(folder / f"{split}_labels.npy", labels)
    (folder / "done").touch()


def _pixels(arrays: np.lib.npyio.NpzFile, split: str) -> np.ndarray:
    """uint8 N x 3 x H x W."""
    from torchvision.io import decode_jpeg

    header, data, offsets = arrays["header"].tobytes(), arrays[f"{split}_bytes"].tobytes(), arrays[f"{split}_offsets"]
    files = [header + data[start:stop] + END for start, stop in pairwise(offsets)]
    decoded = (decode_jpeg(torch.frombuffer(bytearray(one), dtype=torch.uint8)) for one in files)
    return torch.stack(list(decoded)).numpy()
