"""Data by name, as the command line and the settings of a run say it; an import here makes a name known."""

from __future__ import annotations

from pathlib import Path

from noiserobust.data.cifar import CIFAR10, CIFAR100
from noiserobust.data.dataset import Splits
from noiserobust.data.digits import Digits
from noiserobust.data.download import none_of_files
from noiserobust.data.fashion_mnist import FashionMNIST
from noiserobust.data.folder import Folder
from noiserobust.data.source import DataSource
from noiserobust.data.streamed import ImageNet, StreamedFolder
from noiserobust.data.subset import Subset
from noiserobust.data.sums import Sums
from noiserobust.data.svhn import SVHN
from noiserobust.data.text import Text
from noiserobust.spec.kinds import typed


@typed
def load(
    name: str | DataSource, root: str | Path = "data", image_size: int | None = None, imports: bool = True
) -> Splits:
    """Training and test data: digits, cifar10, cifar100, fashion-mnist, svhn, sums, imagenet, an image folder,
    ``text:FILE``, or your own, ``package.module:Name(...)``.

    ``subset:NAME,per_class=500`` is a fixed part of another's training images. A folder is decoded into memory;
    ``stream:FOLDER`` leaves it on disk, as ``imagenet``, the folder ``imagenet`` under ``root``, does. root: where
    named data are kept; image_size: resizes the images of a folder. ``imports=False`` is for names out of files: no
    module is imported, nothing is downloaded. Raises :class:`UserError` when there is no such data.
    """
    with none_of_files(imports):
        source = DataSource.parse(name, imports)
        where = [] if str(root) == "data" else ["--data-root", str(root)]
        size = [] if image_size is None else ["--image-size", str(image_size)]
        return source.load(root, image_size).loaded_by("--data", str(name), *where, *size)
