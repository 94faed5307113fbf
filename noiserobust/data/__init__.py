"""Data: what a network is trained and tested on.

``load`` finds data by name, ``as_dataset`` takes data that is already in memory, ``Batches`` feeds it to a network.
"""

from __future__ import annotations

from pathlib import Path

from noiserobust.data.batches import Batch, Batches
from noiserobust.data.cifar import load_cifar
from noiserobust.data.dataset import Dataset, Splits, as_dataset
from noiserobust.data.digits import load_digits
from noiserobust.data.folder import load_folder
from noiserobust.errors import UserError

__all__ = ["Batch", "Batches", "Dataset", "Splits", "as_dataset", "load"]


def load(name: str, root: str | Path = "data", image_size: int | None = None) -> Splits:
    """Training and test data of a name, "digits", "cifar10" or "cifar100", or of an image folder's path.

    root: where CIFAR is kept; image_size: resizes the images of a folder. A folder that is called like a known
    name is reached by ``./name``. Raises :class:`UserError` when there is no such data.
    """
    known = name in ("digits", "cifar10", "cifar100")
    if known and image_size is not None:
        raise UserError(f"expected image_size only with an image folder, got {image_size} for {name}: leave it out")
    if known:
        return load_digits() if name == "digits" else load_cifar(name, root)
    if not Path(name).is_dir():
        raise UserError(f"expected digits, cifar10, cifar100 or the path of an image folder, got '{name}'")
    return load_folder(name, image_size)
