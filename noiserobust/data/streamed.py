"""Images that are read from disk while they are used, by worker processes: ImageNet, and folders that do not fit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from noiserobust.data.batches import Batch, check_numbers, cut_out, hole_centres, part_of
from noiserobust.data.dataset import Splits
from noiserobust.data.folder import OfPath, list_folder
from noiserobust.data.images import SEMANTICS, read_image
from noiserobust.data.labelled import Labelled, affine, check_normalization, positions
from noiserobust.data.source import DataSource
from noiserobust.errors import UserError
from noiserobust.rng import Stream

# The channel means and deviations of ImageNet's training images, as the field rounds them.
NORMALIZATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MARGIN = 256 / 224
"""Test images are scaled to this many times the size that is cut out of their middle."""
Item = tuple[int, int | None]
"""A sample's position, and the seed of its augmentation (none in tests)."""


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16)


@dataclass(frozen=True, eq=False)
class Streamed(Labelled):
    """Image files with their labels: the twin of :class:`~noiserobust.data.Dataset` that holds no pixels.

    files: paths; labels: N class numbers (int64, CPU); size: pixels a side that a network sees; workers: processes that
    read and decode (0: only this one). The fingerprint names the files' names and sizes in bytes, the labels and
    ``size``, not the files' content.
    """

    files: tuple[str, ...]
    labels: Tensor
    size: int = 224
    mean: tuple[float, ...] = NORMALIZATION[0]
    std: tuple[float, ...] = NORMALIZATION[1]
    classes: tuple[str, ...] = ()
    name: str = "data"
    workers: int = field(default_factory=_cores)

    def __post_init__(self) -> None:
        if self.size < 1 or self.workers < 0:
            raise UserError(f"expected a size >= 1 and workers >= 0, got {self.size} and {self.workers}")
        check_normalization(self.mean, self.std, self.channels)

    @property
    def channels(self) -> int:
        return 3

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"streamed {self.size} read {SEMANTICS}".encode())
        for file in self.files:
            path = Path(file)
            digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode())
        digest.update(self.labels.numpy().data)
        return digest.hexdigest()[:16]

    def example(self) -> Tensor:
        return self.normalize(self.tested(0)[None])

    def subset(self, indices: Tensor | np.ndarray | Sequence[int]) -> Streamed:
        rows = positions(indices, len(self))
        return replace(self, files=tuple(self.files[row] for row in rows.tolist()), labels=self.labels[rows])

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 B x 3 x H x W as float32 network inputs, on the device of ``pixels``."""
        scale, shift = _affine(tuple(self.mean), tuple(self.std), pixels.device)
        return (pixels * scale).sub_(shift)

    def tested(self, index: int) -> Tensor:
        """uint8 3 x size x size: the middle of the image, whose shorter side is scaled to 256/224 of ``size``."""
        from torchvision.transforms.v2 import functional

        scaled = functional.resize(read_image(self.files[index]), [round(MARGIN * self.size)])
        return functional.center_crop(scaled, [self.size, self.size])

    def trained(self, index: int, seed: int, flip: bool) -> Tensor:
        """uint8 3 x size x size: a random part, scaled (and mirrored with probability 1/2), as ``seed`` has it.

        The part has 8 to 100 % of the image's area and a ratio of sides of 3/4 to 4/3 (Szegedy et al., Going Deeper
        with Convolutions, CVPR 2015; torchvision's RandomResizedCrop with its defaults).
        """
        from torchvision.transforms import v2

        image = read_image(self.files[index])
        part = v2.Compose([v2.RandomResizedCrop(self.size, antialias=True), v2.RandomHorizontalFlip(0.5 * flip)])
        # torchvision draws from the global generator; only the CPU's, which is as before afterwards.
        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            return part(image)
        finally:
            torch.set_rng_state(state)


class StreamedBatches(Sequence[Batch]):
    """The batches of a :class:`Streamed`, epoch after epoch, on ``device``: what :class:`Batches` is to a Dataset.

    With a ``stream`` epoch n is shuffled by ``stream.child("shuffle", n)``, and the image at each of its positions is
    cut and mirrored as a seed from ``stream.child("augment", n)`` says: neither workers nor batch size matter. Without
    one the batches come in order, each image's middle. As a sequence it is epoch 0, read anew at every pass.
    """

    def __init__(
        self,
        dataset: Streamed,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        stream: Stream | None = None,
        flip: bool = False,
        cutout: int = 0,
        drop_last: bool = False,
        channels_last: bool = False,
    ) -> None:
        check_numbers(batch_size, cutout, len(dataset) if drop_last else None)
        self.drop_last = drop_last
        self.dataset, self.batch_size, self.device = dataset, batch_size, torch.device(device)
        self.stream, self.flip, self.cutout = stream, flip, cutout
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        count = len(self.dataset)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # one batch, read here
        chosen = range(len(self))[index]
        if isinstance(chosen, range):
            return [self[one] for one in chosen]
        return next(self._read(0, [chosen], workers=0))

    def epoch(self, n: int, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        """The batches of epoch ``n``; of each, the part of ``rank`` when ``ranks`` processes share them."""
        return self._read(n, range(len(self)), self.dataset.workers, rank, ranks)

    def _read(self, n: int, wanted: Sequence[int], workers: int, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        data, size = self.dataset, self.batch_size
        order, seeds = self._order(n)
        # On the device once: to send them there for every batch would wait each time for all that it has to do.
        places, labels = order.to(self.device), data.labels.to(self.device)
        parts = [part_of(at * size, min((at + 1) * size, len(data)), rank, ranks) for at in wanted]
        holes = None
        if self.stream is not None and self.cutout:
            holes = hole_centres(self.stream, n, len(data), (data.size, data.size), self.device)
        loader = DataLoader(
            _Images(data, self.flip),
            batch_sampler=_Positions(order, seeds, [span for span, _ in parts]),
            num_workers=min(workers, len(wanted)),
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it takes a number from the global one
        )
        for (span, share), (failure, pixels) in zip(parts, loader, strict=True):
            if failure:
                raise UserError(failure)
            rows = places[span]
            inputs = data.normalize(pixels.to(self.device, non_blocking=True)).contiguous(
                memory_format=self.memory_format
            )
            if holes is not None:
                inputs = cut_out(inputs, self.cutout, holes[span])
            yield Batch(inputs, labels[rows], rows, share)

    def _order(self, n: int) -> tuple[Tensor, Tensor | None]:
        """The positions of epoch ``n`` in their order, and a seed for each place in it."""
        count = len(self.dataset)
        if self.stream is None:
            return torch.arange(count), None
        order = torch.randperm(count, generator=self.stream.child("shuffle", n).generator())
        return order, torch.randint(2**62, (count,), generator=self.stream.child("augment", n).generator())


@lru_cache(maxsize=16)
def _affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    return affine(mean, std, 255, 4, device)


class _Images(TorchDataset[tuple[str, Tensor]]):
    """(what went wrong, pixels): a worker's exception would arrive as a traceback."""

    def __init__(self, data: Streamed, flip: bool) -> None:
        self.data, self.flip = data, flip

    def __getitem__(self, item: Item) -> tuple[str, Tensor]:
        index, seed = item
        try:
            return "", self.data.tested(index) if seed is None else self.data.trained(index, seed, self.flip)
        except UserError as error:
            return str(error), torch.empty(0, dtype=torch.uint8)


class _Positions:
    """The items of each batch, made when its turn comes."""

    def __init__(self, order: Tensor, seeds: Tensor | None, spans: Sequence[slice]) -> None:
        self.order, self.seeds, self.spans = order, seeds, spans

    def __len__(self) -> int:
        return len(self.spans)

    def __iter__(self) -> Iterator[list[Item]]:
        for span in self.spans:
            rows = self.order[span].tolist()
            yield list(zip(rows, [None] * len(rows) if self.seeds is None else self.seeds[span].tolist(), strict=True))


def _collate(items: list[tuple[str, Tensor]]) -> tuple[str, Tensor]:
    failure = next((failure for failure, _ in items if failure), "")
    return failure, torch.empty(0) if failure else default_collate([pixels for _, pixels in items])


@dataclass(frozen=True)
class StreamedFolder(OfPath, name="stream"):
    """An image folder that stays on disk and is read while it is used, for data larger than memory.

    Its images are in ``train/<class>/`` and ``test/<class>/`` or ``val/<class>/``. image_size: pixels a side (224), cut
    at random for training and from the middle for tests. Normalised by ImageNet's statistics, since this folder's own
    would take a pass over all of it.
    """

    example: ClassVar[str] = "stream:path/to/images"

    def read(self, root: str | Path, image_size: int | None) -> Splits:
        return _streamed(Path(self.folder), image_size)


@dataclass(frozen=True)
class ImageNet(DataSource, name="imagenet"):
    """ImageNet-1k (ILSVRC2012), laid out as an image folder in ``imagenet`` where named data are kept."""

    resizes: ClassVar[bool] = True
    in_root: ClassVar[bool] = True
    example: ClassVar[str] = "imagenet"

    def read(self, root: str | Path, image_size: int | None) -> Splits:
        folder = Path(root) / "imagenet"
        if not folder.is_dir():
            raise UserError(
                f"expected ImageNet in {folder}, got none: its owners (image-net.org) give it to registered users only;"
                " put the images of ILSVRC2012 into train/<class>/ and val/<class>/ there"
            )
        return _streamed(folder, image_size)


def _streamed(folder: Path, image_size: int | None) -> Splits:
    parts, classes = list_folder(folder)
    train, test = (
        Streamed(
            tuple(path for path, _ in part),
            torch.tensor([label for _, label in part]),
            224 if image_size is None else image_size,
            classes=classes,
            name=folder.resolve().name,
        )
        for part in parts
    )
    return Splits(train, test, crop=0, flip=True)
