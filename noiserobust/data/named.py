"""Data by name, as the command line and the settings of a run say it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from noiserobust.data.cifar import load_cifar
from noiserobust.data.dataset import Splits
from noiserobust.data.digits import load_digits
from noiserobust.data.fashion_mnist import load_fashion_mnist
from noiserobust.data.folder import load_folder
from noiserobust.data.streamed import load_imagenet, load_streamed
from noiserobust.data.sums import load_sums
from noiserobust.data.svhn import load_svhn
from noiserobust.errors import UserError

NAMED: dict[str, Callable[[str | Path], Splits]] = {
    "digits": lambda root: load_digits(),
    "cifar10": lambda root: load_cifar("cifar10", root),
    "cifar100": lambda root: load_cifar("cifar100", root),
    "fashion-mnist": load_fashion_mnist,
    "svhn": load_svhn,
    "sums": lambda root: load_sums(),
}
STREAM = "stream:"


def load(name: str, root: str | Path = "data", image_size: int | None = None) -> Splits:
    """Training and test data: digits, cifar10, cifar100, fashion-mnist, svhn, sums, imagenet, or an image folder.

    A folder is decoded into memory; ``stream:FOLDER`` leaves it on disk, as ``imagenet``, the folder ``imagenet`` under
    ``root``, does. root: where named data are kept; image_size: resizes the images of a folder. A folder that is called
    like a known name is reached by ``./name``. Raises :class:`UserError` when there is no such data.
    """
    if name in NAMED:
        if image_size is not None:
            raise UserError(f"expected image_size only with an image folder, got {image_size} for {name}: leave it out")
        return NAMED[name](root)
    if name == "imagenet":
        return load_imagenet(root, image_size)
    folder = name.removeprefix(STREAM)
    if not Path(folder).is_dir():
        known = ", ".join([*NAMED, "imagenet"])
        raise UserError(f"expected {known} or the path of an image folder, got '{name}'")
    return load_folder(folder, image_size) if folder == name else load_streamed(folder, image_size)
