"""SVHN, cropped digits (Netzer et al., 2011), downloaded by torchvision when they are not on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from noiserobust.data.dataset import Dataset, Splits
from noiserobust.data.download import fetched
from noiserobust.data.source import DataSource

# The channel means and deviations of the 73,257 training images, as the field rounds them.
NORMALIZATION = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))


@dataclass(frozen=True)
class SVHN(DataSource, name="svhn"):
    """House numbers, cropped to single digits: 73,257 training and 26,032 test images of 32 x 32 pixels (without the
    ``extra`` part); downloaded if need be."""

    in_root: ClassVar[bool] = True
    example: ClassVar[str] = "svhn"

    def read(self, root: str | Path, image_size: int | None) -> Splits:
        return Splits(_part(root, "train"), _part(root, "test"), crop=4, flip=False)


def _part(root: str | Path, part: str) -> Dataset:
    from torchvision import datasets

    url, file, _ = datasets.SVHN.split_list[part]
    archive = fetched(
        lambda download: datasets.SVHN(str(root), split=part, download=download),
        f"svhn ({part})",
        root,
        lambda: f"put {file} from {url} there",
    )
    classes = tuple(str(digit) for digit in range(10))
    return Dataset(torch.from_numpy(archive.data), torch.from_numpy(archive.labels), *NORMALIZATION, classes, "svhn")
