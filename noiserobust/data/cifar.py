"""CIFAR-10 and CIFAR-100, downloaded by torchvision when they are not on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from noiserobust.data.dataset import Dataset, Splits
from noiserobust.data.download import fetched

# The channel means and deviations of the 50,000 training images, as the field rounds them.
NORMALIZATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def load_cifar(name: str, root: str | Path = "data") -> Splits:
    """``name``, "cifar10" or "cifar100", kept under ``root``: 50,000 training and 10,000 test images, 32 x 32.

    Raises :class:`UserError` when it is not on disk and cannot be downloaded.
    """
    return Splits(_part(name, root, train=True), _part(name, root, train=False), crop=4, flip=True)


def _part(name: str, root: str | Path, train: bool) -> Dataset:
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    found = fetched(
        lambda: source(str(root), train=train, download=True),
        name,
        root,
        lambda: f"put {source.filename} from {source.url} there",
    )
    images = torch.from_numpy(np.ascontiguousarray(found.data.transpose(0, 3, 1, 2)))
    return Dataset(images, torch.tensor(found.targets), *NORMALIZATION[name], tuple(found.classes), name)
