"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017), downloaded by torchvision when it is not on disk."""

from __future__ import annotations

from pathlib import Path

from noiserobust.data.dataset import Dataset, Splits
from noiserobust.data.download import fetched

# Mean and deviation of the 60,000 training images, as the field rounds them.
NORMALIZATION = ((0.2860,), (0.3530,))


def load_fashion_mnist(root: str | Path = "data") -> Splits:
    """60,000 training and 10,000 test images, 1 x 28 x 28, of ten kinds of clothing, kept under ``root``."""
    return Splits(_part(root, train=True), _part(root, train=False), crop=2, flip=True)


def _part(root: str | Path, train: bool) -> Dataset:
    from torchvision.datasets import FashionMNIST

    folder = Path(root) / "FashionMNIST" / "raw"
    names = ", ".join(name for name, _ in FashionMNIST.resources)
    found = fetched(
        lambda: FashionMNIST(str(root), train=train, download=True),
        "fashion-mnist",
        folder,
        lambda: f"put {names} from {FashionMNIST.mirrors[0]} there",
    )
    return Dataset(found.data.unsqueeze(1), found.targets, *NORMALIZATION, tuple(found.classes), "fashion-mnist")
