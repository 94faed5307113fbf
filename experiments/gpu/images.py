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
from torch import Tensor

from noiserobust.data import Dataset, DataSource, Splits
from noiserobust.data.dataset import channel_statistics
from noiserobust.rng import Stream

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
END = b"\xff\xd9"


@dataclass(frozen=True)
class Decoded(DataSource):
    """``per_class`` training images of each class and all test images of a folder that :func:`decode` wrote.

    The same images as ``subset:cifar10,per_class=...`` of the same data: class k's images in the order of the
    permutation that ``Stream(0, "subset", k)`` draws, the first ``per_class`` of it, class after class.
    """

    example: ClassVar[str] = "experiments.gpu.images:Decoded(folder,per_class=500)"

    folder: str
    per_class: int

    def read(self, root: str | Path, image_size: int | None) -> Splits:
        parts = [
            np.load(Path(self.folder) / f"{name}.npy") for name in ("train", "train_labels", "test", "test_labels")
        ]
        train, labels, test, test_labels = map(torch.from_numpy, parts)
        mean, std = channel_statistics(train)
        kept = torch.cat([first(labels, number, self.per_class) for number in range(len(CLASSES))])
        given = (mean, std, CLASSES, "cifar10")
        size = min(train.shape[2:]) // 8
        return Splits(
            Dataset(train[kept], labels[kept], *given), Dataset(test, test_labels, *given), crop=size, flip=True
        )


def first(labels: Tensor, number: int, count: int) -> Tensor:
    """The positions of the first ``count`` images of class ``number``, ascending."""
    places = (labels == number).nonzero().flatten()
    order = torch.randperm(len(places), generator=Stream(0, "subset", number).generator())
    return places[order[:count]].sort().values


def decode(file: str, folder: Path) -> None:
    """Write the pixels and labels of ``file`` into ``folder``, where they are not there; without a file random ones,
    32 training and 8 test images of 8 x 8 pixels in each class, for rehearsals."""
    if (folder / "done").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    random, arrays = np.random.default_rng(0), np.load(file) if file else {}
    for split, count in (("train", 32), ("test", 8)):
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
