"""SVHN, cropped digits (Netzer et al., 2011), downloaded by torchvision when they are not on disk."""

from __future__ import annotations

from pathlib import Path

import torch

from noiserobust.data.dataset import Dataset, Splits
from noiserobust.data.download import fetched

# The channel means and deviations of the 73,257 training images, as the field rounds them.
NORMALIZATION = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))


def load_svhn(root: str | Path = "data") -> Splits:
    """73,257 training and 26,032 test images, 3 x 32 x 32, kept under ``root`` (without the ``extra`` part)."""
    return Splits(_part(root, "train"), _part(root, "test"), crop=4, flip=False)


def _part(root: str | Path, part: str) -> Dataset:
    from torchvision.datasets import SVHN

    url, file, _ = SVHN.split_list[part]
    found = fetched(
        lambda: SVHN(str(root), split=part, download=True),
        f"svhn ({part})",
        root,
        lambda: f"put {file} from {url} there",
    )
    classes = tuple(str(digit) for digit in range(10))
    return Dataset(torch.from_numpy(found.data), torch.from_numpy(found.labels), *NORMALIZATION, classes, "svhn")
