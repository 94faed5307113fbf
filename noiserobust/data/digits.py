"""scikit-learn's embedded handwritten digits: 1,797 images of 8 x 8 pixels, no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from noiserobust.data.dataset import Dataset, Splits, channel_statistics
from noiserobust.data.source import DataSource
from noiserobust.rng import Stream

TEST_IMAGES = 500


@dataclass(frozen=True)
class Digits(DataSource, name="digits"):
    """scikit-learn's handwritten digits: 1,297 training and 500 test images of 8 x 8 pixels, float 0..1, without a
    download. The split is stratified and always the same."""

    example: ClassVar[str] = "digits"

    def read(self, root: str | Path, image_size: int | None) -> Splits:
        from sklearn import datasets

        digits = datasets.load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
        classes = tuple(str(digit) for digit in range(10))
        everything = Dataset(images, torch.from_numpy(digits.target), classes=classes, name="digits")
        train, test = everything.split(TEST_IMAGES / len(everything), Stream(0, "digits", "split"))
        mean, std = channel_statistics(train.images)
        return Splits(train.with_normalization(mean, std), test.with_normalization(mean, std), crop=1, flip=False)
