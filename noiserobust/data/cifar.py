"""CIFAR-10 and CIFAR-100, downloaded by torchvision when they are not on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from noiserobust.data.dataset import Dataset, Splits
from noiserobust.data.download import fetched
from noiserobust.data.source import DataSource

# The channel means and deviations of the 50,000 training images, as the field rounds them.
NORMALIZATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
"""What torchvision unpacks into."""


class _CIFAR(DataSource):
    in_root: ClassVar[bool] = True

    def read(self, root: str | Path, image_size: int | None) -> Splits:
        return Splits(_part(self.name, root, train=True), _part(self.name, root, train=False), crop=4, flip=True)

    def lies_in(self, root: str | Path) -> bool:
        return (Path(root) / FOLDERS[self.name]).is_dir()


@dataclass(frozen=True)
class CIFAR10(_CIFAR, name="cifar10"):
    """CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 pixels, in 10 classes; downloaded if need be."""

    example: ClassVar[str] = "cifar10"


@dataclass(frozen=True)
class CIFAR100(_CIFAR, name="cifar100"):
    """CIFAR-100: 50,000 training and 10,000 test images of 32 x 32 pixels, in 100 classes; downloaded if need be."""

    example: ClassVar[str] = "cifar100"


def _part(name: str, root: str | Path, train: bool) -> Dataset:
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    archive = fetched(
        lambda download: source(str(root), train=train, download=download),
        name,
        root,
        lambda: f"put {source.filename} from {source.url} there",
    )
    images = torch.from_numpy(np.ascontiguousarray(archive.data.transpose(0, 3, 1, 2)))
    return Dataset(images, torch.tensor(archive.targets), *NORMALIZATION[name], tuple(archive.classes), name)
