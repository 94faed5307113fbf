"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017), downloaded by torchvision when it is not on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from noiserobust.data.dataset import Dataset, Splits
from noiserobust.data.download import fetched
from noiserobust.data.source import DataSource

# Mean and deviation of the 60,000 training images, as the field rounds them.
NORMALIZATION = ((0.2860,), (0.3530,))


@dataclass(frozen=True)
class FashionMNIST(DataSource, name="fashion-mnist"):
    """Ten kinds of clothing: 60,000 training and 10,000 test images of 28 x 28 grey pixels; downloaded if need be."""

    in_root: ClassVar[bool] = True
    example: ClassVar[str] = "fashion-mnist"

    def read(self, root: str | Path, image_size: int | None) -> Splits:
        return Splits(_part(root, train=True), _part(root, train=False), crop=2, flip=True)


def _part(root: str | Path, train: bool) -> Dataset:
    from torchvision import datasets

    source = datasets.FashionMNIST
    folder = Path(root) / "FashionMNIST" / "raw"
    names = ", ".join(name for name, _ in source.resources)
    archive = fetched(
        lambda download: source(str(root), train=train, download=download),
        "fashion-mnist",
        folder,
        lambda: f"put {names} from {source.mirrors[0]} there",
    )
    return Dataset(archive.data.unsqueeze(1), archive.targets, *NORMALIZATION, tuple(archive.classes), "fashion-mnist")
