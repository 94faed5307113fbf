"""Image folders: ``FOLDER/train/<class>/*.jpg`` and ``FOLDER/test/`` (or ``val/``), decoded once into memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from noiserobust.data.dataset import Dataset, Splits, channel_statistics
from noiserobust.data.images import read_image
from noiserobust.data.source import DataSource
from noiserobust.errors import UserError

# Threads speed up the decoding of large images (400 x 400: to a third of the time with four) and slow down that of
# small ones (32 x 32: by half), whose decoding is mostly Python.
THREADED_PIXELS = 256 * 256
CHUNK = 500


@dataclass(frozen=True)
class OfPath(DataSource):
    """Data that lie in a folder of one's own."""

    resizes: ClassVar[bool] = True
    of_path: ClassVar[bool] = True

    folder: str

    def load(self, root: str | Path = "data", image_size: int | None = None) -> Splits:
        if not os.path.isdir(self.folder):
            raise UserError(f"expected {self.offered()}, got '{self}'")
        return super().load(root, image_size)

    def lies_in(self, root: str | Path) -> bool:
        return os.path.isdir(self.folder)


@dataclass(frozen=True)
class Folder(OfPath, name="folder"):
    """An image folder, decoded into memory: FOLDER/train/<class>/*, FOLDER/test/<class>/* (or val).

    Images are uint8 N x 3 x H x W, normalised by the training images' own statistics. image_size: scale the shorter
    side to so many pixels and cut out the middle square; without it all images must have one size. Raises
    :class:`UserError` for a folder that is not laid out as this module says.
    """

    example: ClassVar[str] = "folder:path/to/images"

    def read(self, root: str | Path, image_size: int | None) -> Splits:
        folder = Path(self.folder)
        if image_size is not None and image_size < 1:
            raise UserError(f"expected an image size of 1 pixel or more, got {image_size}")
        files, classes = list_folder(folder)
        images = _decode([path for part in files for path, _ in part], image_size, f"reading {folder}")
        mean, std = channel_statistics(images[: len(files[0])])
        train, test = (
            Dataset(pixels, torch.tensor([label for _, label in part]), mean, std, classes, folder.resolve().name)
            for pixels, part in zip(images.split([len(part) for part in files]), files, strict=True)
        )
        return Splits(train, test, crop=min(images.shape[2:]) // 8, flip=True)


def list_folder(folder: Path) -> tuple[list[list[tuple[str, int]]], tuple[str, ...]]:
    """(path, class number) of all training and all test images, and the class names."""
    parts = [folder / "train", next((folder / p for p in ("test", "val") if (folder / p).is_dir()), folder / "test")]
    classes = [_classes(part) for part in parts]
    if classes[0] != classes[1]:
        odd = ", ".join(sorted(set(classes[0]) ^ set(classes[1])))
        raise UserError(f"expected the same classes in {parts[0]} and {parts[1]}, got {odd} in only one of them")
    return [_files(part, classes[0]) for part in parts], classes[0]


def _classes(part: Path) -> tuple[str, ...]:
    names = part.is_dir() and sorted(c.name for c in part.iterdir() if c.is_dir() and not c.name.startswith("."))
    if not names:
        raise UserError(f"expected a folder for each class in {part}, got none: put images in {part}/<class>/")
    return tuple(names)


def _files(part: Path, classes: tuple[str, ...]) -> list[tuple[str, int]]:
    """(path, class number) of every image in ``part``, sorted by class and then by name."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    files = [
        (path, number)
        for number, name in enumerate(classes)
        for path in _walk(part / name)
        if path.lower().endswith(IMG_EXTENSIONS)
    ]
    empty = set(range(len(classes))) - {label for _, label in files}
    if empty:
        kinds = ", ".join(IMG_EXTENSIONS)
        raise UserError(f"expected images ({kinds}) in {part / classes[min(empty)]}, got none: add some or remove it")
    return files


def _walk(folder: Path) -> Iterator[str]:
    """All files inside, in the order of ``os.walk``, each folder's by name; links are followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    found = []
    for place, inside, files in os.walk(folder, followlinks=True):
        about = os.stat(place)
        if (about.st_dev, about.st_ino) in seen:  # a link to a folder around it would never end
            inside.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        found.append((place, files))
    for place, files in sorted(found):
        yield from (os.path.join(place, file) for file in sorted(files))


def _decode(paths: list[str], size: int | None, title: str) -> Tensor:
    """All images in one tensor, N x 3 x H x W."""
    from noiserobust.bars import Bar

    first = read_image(paths[0], size)
    images = torch.empty((len(paths), *first.shape), dtype=torch.uint8)
    large = read_image(paths[0], None)[0].numel() >= THREADED_PIXELS
    # disable=None: no bar where stderr is a file.
    with ThreadPoolExecutor() as pool, Bar(desc=title, total=len(paths), leave=False, disable=None) as bar:
        # In chunks, so that an error or Ctrl-C waits for few images and few wait for the loop.
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            sizes = [size] * len(chunk)
            decoded = pool.map(read_image, chunk, sizes) if large else map(read_image, chunk, sizes)
            for index, (path, image) in enumerate(zip(chunk, decoded, strict=True), start):
                if image.shape != first.shape:
                    raise UserError(
                        f"expected images of one size, got {_size(first)} ({paths[0]}) and {_size(image)} ({path}): "
                        "pass image_size=... to resize them"
                    )
                images[index] = image
            bar.update(len(chunk))
    return images


def _size(image: Tensor) -> str:
    return f"{image.shape[1]} x {image.shape[2]}"
