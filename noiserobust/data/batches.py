"""Shuffled, augmented, normalised batches, made where the data lie: no worker processes, no copies to the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from noiserobust.data import nests
from noiserobust.data.dataset import Dataset
from noiserobust.errors import UserError
from noiserobust.rng import Stream


@dataclass(frozen=True, eq=False)
class Batch:
    """inputs: what a network takes, such as B x C x H x W float32, normalised; labels: B x ...; indices: B positions
    in the dataset.

    Inputs may be several, as a tuple (``model(*inputs)``) or a dictionary (``model(**inputs)``), labels a dictionary
    of tensors (None where a task makes them of the inputs): the first dimension of every tensor is the sample.

    ``indices`` may be left out in a loop of one's own; only rules that remember single samples need them.

    ``share``: what the mean over this part of a batch weighs beside the other ranks' when ranks take the mean of their
    gradients: its samples times the ranks, over the samples of all. Unequal parts then give the exact gradient.
    """

    inputs: Any
    labels: Any
    indices: Tensor | None = None
    share: float = 1.0

    def __len__(self) -> int:
        if isinstance(self.labels, Tensor):
            return len(self.labels)
        return nests.size(self.inputs if self.labels is None else self.labels)

    def __getitem__(self, rows: slice | Tensor) -> Batch:
        inputs, labels, indices = nests.mapped((self.inputs, self.labels, self.indices), lambda values: values[rows])
        return replace(self, inputs=inputs, labels=labels, indices=indices)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``."""
        inputs, labels, indices = nests.mapped(
            (self.inputs, self.labels, self.indices), lambda values: values.to(device)
        )
        return replace(self, inputs=inputs, labels=labels, indices=indices)

    @staticmethod
    def join(parts: Sequence[Batch], cat: Callable[[list[Tensor]], Tensor] = torch.cat) -> Batch:
        """The samples of all ``parts``, in order, or what ``cat`` takes of their tensors."""
        indices = [part.indices for part in parts if part.indices is not None]
        try:
            inputs, labels = (
                nests.joined([getattr(part, name) for part in parts], cat) for name in ("inputs", "labels")
            )
        except RuntimeError:
            shapes = sorted({tuple(nests.first(part.inputs).shape[1:]) for part in parts})
            raise UserError(f"expected batches of one shape to join, got {shapes}: pad samples to one length") from None
        return Batch(inputs, labels, cat(indices) if len(indices) == len(parts) else None, parts[0].share)

    def split(self, parts: int) -> list[Batch]:
        """At most ``parts`` micro-batches, none empty, sizes at most one apart: weigh their means by ``len``."""
        if parts < 1:
            raise UserError(f"expected 1 micro-batch or more, got {parts}")
        parts = min(parts, len(self))
        bounds = [len(self) * part // parts for part in range(parts + 1)]
        return [self[start:stop] for start, stop in pairwise(bounds)]


class Batches:
    """The batches of ``dataset``, epoch after epoch, on its device.

    With a ``stream``, epoch n is shuffled by ``stream.child("shuffle", n)`` and augmented by
    ``stream.child("augment", n)``: images are zero-padded by ``crop`` pixels and cropped back at a random place, and
    with ``flip`` mirrored with probability 1/2, each image on its own; ``cutout`` blanks a square of so many pixels
    (:func:`cut_out`). What happens to the image at a position of an epoch depends on nothing else: not on the batch
    size, the device or the epochs before, so a resumed run sees the same. Without a stream the batches come in order
    and are not augmented.

    ``channels_last`` gives 4-d inputs that memory format, and leaves others alone.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        stream: Stream | None = None,
        crop: int = 0,
        flip: bool = False,
        cutout: int = 0,
        drop_last: bool = False,
        channels_last: bool = False,
    ) -> None:
        check_numbers(batch_size, cutout, len(dataset) if drop_last else None)
        if crop < 0:
            raise UserError(f"expected a crop padding of 0 pixels or more, got {crop}")
        if (crop or flip or cutout) and dataset.images.dim() != 4:
            shape = tuple(dataset.images.shape)
            raise UserError(
                f"expected images N x C x H x W to crop, flip or cut out, got shape {shape}: use crop=0, flip=False"
            )
        if crop and crop > max(dataset.images.shape[2:]):
            raise UserError(f"expected a crop padding within images of {tuple(dataset.images.shape[2:])}, got {crop}")
        self.dataset, self.batch_size, self.stream = dataset, batch_size, stream
        self.crop, self.flip, self.cutout = crop, flip, cutout
        self.drop_last = drop_last
        four = dataset.images.dim() == 4
        self.memory_format = torch.channels_last if channels_last and four else torch.contiguous_format

    def __len__(self) -> int:
        n = len(self.dataset) / self.batch_size
        return math.floor(n) if self.drop_last else math.ceil(n)

    def epoch(self, n: int, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        """The batches of epoch ``n``; of each, the part of ``rank`` when ``ranks`` processes share them."""
        data, size = self.dataset, self.batch_size
        order = self._order(n)
        moves = self._moves(n)
        holes = None
        if self.stream is not None and self.cutout:
            holes = hole_centres(self.stream, n, len(data), data.images.shape[2:], data.images.device)
        for start in range(0, len(self) * size, size):
            span, share = part_of(start, min(start + size, len(data)), rank, ranks)
            indices = order[span]
            # Data in order is cut out, not gathered.
            pixels = data.images[span if self.stream is None else indices]
            if moves is not None:
                pixels = crop_and_flip(pixels, self.crop, *(move[span] for move in moves))
            inputs = data.normalize(pixels).contiguous(memory_format=self.memory_format)
            if holes is not None:
                inputs = cut_out(inputs, self.cutout, holes[span])
            yield Batch(inputs, data.labels[indices], indices, share)

    def _order(self, n: int) -> Tensor:
        count, device = len(self.dataset), self.dataset.images.device
        if self.stream is None:
            return torch.arange(count, device=device)
        return torch.randperm(count, generator=self.stream.child("shuffle", n).generator()).to(device)

    def _moves(self, n: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """Top, left (0..2 crop) and mirror (0 or 1) for every position of epoch ``n``; None for no augmentation."""
        if self.stream is None or not (self.crop or self.flip):
            return None
        # One draw for the whole epoch, on the CPU: the batch size and the device cannot change what is drawn.
        generator = self.stream.child("augment", n).generator()
        shape = (len(self.dataset),)
        top, left = (torch.randint(2 * self.crop + 1, shape, generator=generator) for _ in range(2))
        # Drawn last, and also when unused, so that flip leaves the crops as they are.
        mirror = torch.randint(2, shape, generator=generator) * self.flip
        device = self.dataset.images.device
        return top.to(device), left.to(device), mirror.to(device)


def part_of(start: int, stop: int, rank: int, ranks: int) -> tuple[slice, float]:
    """The contiguous part of the batch start:stop that ``rank`` of ``ranks`` takes, and its :attr:`Batch.share`.

    Parts differ by one sample at most, and lower ranks have the larger ones.

    >>> part_of(10, 15, 0, 2), part_of(10, 15, 1, 2)
    ((slice(10, 13, None), 1.2), (slice(13, 15, None), 0.8))
    """
    size = stop - start
    low, high = (-(-size * bound // ranks) for bound in (rank, rank + 1))
    return slice(start + low, start + high), (high - low) * ranks / size


def crop_and_flip(pixels: Tensor, crop: int, top: Tensor, left: Tensor, mirror: Tensor) -> Tensor:
    """Zero-pad B x C x H x W ``pixels`` by ``crop``, cut H x W out at (top, left), then mirror where ``mirror`` is 1.

    top, left, mirror: B whole numbers. One gather does it all; its result is channels-last in memory.
    """
    batch, _, height, width = pixels.shape
    down, across = torch.arange(height, device=pixels.device), torch.arange(width, device=pixels.device)
    y = top[:, None, None] + down[:, None]
    x = left[:, None, None] + torch.where(mirror[:, None, None] > 0, across.flip(0), across)
    image = torch.arange(batch, device=pixels.device)[:, None, None]
    # Index tensors on both sides of a slice put the channels last.
    return F.pad(pixels, (crop,) * 4)[image, :, y, x].permute(0, 3, 1, 2)


def hole_centres(stream: Stream, epoch: int, count: int, size: Sequence[int], device: torch.device) -> Tensor:
    """A random pixel (row, column) of images of ``size`` for each of an epoch's ``count`` positions, on ``device``."""
    generator = stream.child("cutout", epoch).generator()
    return torch.stack([torch.randint(side, (count,), generator=generator) for side in size], 1).to(device)


def cut_out(inputs: Tensor, side: int, centres: Tensor) -> Tensor:
    """Set a square of ``side`` pixels around each image's centre (B x 2) of B x C x H x W ``inputs`` to 0, in place.

    Normalised inputs have their mean there. A square reaches over the image's edge where its centre is close to it
    (DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017).
    """
    down, across = (
        torch.arange(pixels, device=inputs.device) - centres[:, axis, None] + side // 2
        for axis, pixels in enumerate(inputs.shape[2:])
    )
    hole = ((down >= 0) & (down < side))[:, :, None] & ((across >= 0) & (across < side))[:, None, :]
    return inputs.masked_fill_(hole[:, None], 0)  # in place: a copy would not keep the memory format


def check_numbers(batch_size: int, cutout: int, images: int | None = None) -> None:
    """Raises :class:`UserError` for what cannot be a batch size (of ``images`` that must fill one, where
    given) or the side of a square."""
    if batch_size < 1:
        raise UserError(f"expected a batch size of 1 or more, got {batch_size}")
    if images is not None and batch_size > images:
        raise UserError(f"expected a batch size of at most {images} (all images) with drop_last, got {batch_size}")
    if cutout < 0:
        raise UserError(f"expected a cutout of 0 pixels or more, got {cutout}")
