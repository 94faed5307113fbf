"""Labelled images held whole in memory, and the ways to make, cut and normalise them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from noiserobust.data.content import Content
from noiserobust.data.labelled import Labelled, affine, check_normalization, positions
from noiserobust.errors import UserError


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(Labelled):
    """Images and labels on one device.

    images: N x C x H x W, uint8 (0..255), or floating point of shape N x C x ... (already scaled; N x F will do); other
        whole numbers are tokens, N x T, and reach the network as they are.
    labels: N class numbers, kept as int64 on the device of the images.
    mean, std: one number, or one per channel: the network sees ``(x - mean) / std``, where x is
        ``images / 255`` for uint8 and ``images`` otherwise.
    classes: the class names, in the order of the class numbers; "0", "1", ... when left out.

    Raises :class:`UserError` for shapes, types or lengths that do not fit together.
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    classes: tuple[str, ...] = ()
    name: str = "data"

    def __post_init__(self) -> None:
        _check_images(self.images)
        labels = _checked_labels(self.labels, len(self.images), self.classes)
        classes = self.classes or tuple(str(number) for number in range(int(labels.max()) + 1))
        object.__setattr__(self, "labels", labels.to(self.images.device))
        object.__setattr__(self, "classes", tuple(classes))
        for what, values in (("mean", self.mean), ("std", self.std)):
            object.__setattr__(self, what, tuple(float(value) for value in values))
        check_normalization(self.mean, self.std, self.channels)
        if self.normalization != "x" and not self.images.is_floating_point() and self.images.dtype != torch.uint8:
            raise UserError(f"expected no mean and std with tokens, got {self.normalization}: they are no quantities")

    @property
    def channels(self) -> int:
        """Size of dimension 1: image channels, or features of flat data."""
        return self.images.shape[1]

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.images.shape))
        return f"Dataset({self.name!r}: {shape}, {len(self.classes)} classes, network sees {self.normalization})"

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that name the stored images and labels, on whatever device (normalisation is not in it)."""
        digest = hashlib.sha256(f"{self.images.dtype} {tuple(self.images.shape)}".encode())
        for part in (self.images, self.labels):
            digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices: Tensor | np.ndarray | Sequence[int]) -> Dataset:
        """The samples at ``indices`` (positions from 0), in that order."""
        rows = positions(indices, len(self)).to(self.images.device)
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def example(self) -> Tensor:
        return self.normalized(slice(0, 1))

    def normalized(self, index: Tensor | slice | None = None) -> Tensor:
        """float32 network inputs for the samples at ``index`` (for all, without one)."""
        return self.normalize(self.images if index is None else self.images[index])

    def normalize(self, pixels: Tensor) -> Tensor:
        """``pixels`` (B x C x ..., of this dataset's type and scale) as float32 network inputs; memory format kept."""
        if not pixels.is_floating_point() and pixels.dtype != torch.uint8:
            return pixels
        scale, shift = self._affine
        return (pixels * scale).sub_(shift).float()

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor]:
        # On the device once, rather than sent there for every batch.
        unit = 255 if self.images.dtype == torch.uint8 else 1
        return affine(self.mean, self.std, unit, self.images.dim(), self.images.device)


@dataclass(frozen=True)
class Splits:
    """Training and test data, with the augmentation that suits them.

    train, test: anything that :func:`~noiserobust.data.as_dataset` takes; crop: default padding of the random crop, in
    pixels; flip: whether a mirrored image is still of its class. validation: data that training watches in place of a
    part of ``train``, where there are such. All parts get the same classes: those of the one that knows most, where
    only their number is known.

    Raises :class:`UserError` when the parts differ in classes or channels.
    """

    train: Labelled
    test: Labelled
    crop: int = 0
    flip: bool = False
    validation: Labelled | None = None
    named: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)
    """The flags that load just these data (``--data digits``); none where somebody made them."""

    def __post_init__(self) -> None:
        from noiserobust.data.collected import as_dataset  # knows of all kinds of data

        parts = {"train": as_dataset(self.train), "test": as_dataset(self.test)}
        if self.validation is not None:
            parts["validation"] = as_dataset(self.validation)
        train, together = parts["train"], " and ".join(parts)
        classes = max((part.classes for part in parts.values()), key=len)
        for what, part in parts.items():
            if part.classes != classes[: len(part.classes)]:
                odd = ", ".join(sorted(set(classes) ^ set(part.classes))[:6]) or "another order"
                raise UserError(f"expected the same classes in {together}, got {odd} in only one of them")
            if part.channels != train.channels:
                raise UserError(f"expected {train.channels} channels in {together}, got {part.channels}")
            named = part if part.classes == classes else replace(part, classes=classes)  # type: ignore[type-var]
            object.__setattr__(self, what, named)

    def loaded_by(self, *flags: str) -> Splits:
        """The same, known as what ``flags`` load."""
        known = replace(self)
        object.__setattr__(known, "named", flags)
        return known

    @property
    def content(self) -> Content:
        """What names these data."""
        parts = [self.train, self.test, *([] if self.validation is None else [self.validation])]
        return Content(tuple(part.fingerprint for part in parts), self.train.mean, self.train.std, self.crop, self.flip)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of N x C x H x W; uint8 in units of 1/255.

    A channel without any spread gets std 1: it can be centred, not scaled. Runs are named by these numbers, so they are
    the same to the last bit on every machine: sums are added by this module, in an order of its own.
    """
    add: Callable[[np.ndarray], float]
    mean, std = [], []
    for channel in images.detach().unbind(1):
        if images.dtype == torch.uint8:
            # From a histogram: without a floating-point copy of the whole data set.
            count = torch.bincount(channel.flatten(), minlength=256).double().cpu().numpy()
            value, add = np.arange(256) / 255, _in_lanes
        else:
            value, add = channel.double().cpu().numpy().ravel(), _compensated
            count = np.ones(1)
        average = add(count * value) / channel.numel()
        variance = add(count * (value - average) ** 2) / channel.numel()
        mean.append(float(average))
        std.append(math.sqrt(variance) or 1.0)
    return tuple(mean), tuple(std)


def _in_lanes(values: np.ndarray) -> float:
    """The sum of 256 values, added as a processor with AVX2 adds them: older runs were named by such sums."""
    lanes = sum(values.reshape(16, 4, 4))
    return sum(sum(lanes).tolist())


def _compensated(values: np.ndarray) -> float:
    """The sum as ``math.fsum`` rounds it, in a third of its time: one half added to the other, what each addition
    loses (Knuth's TwoSum) beside it. NumPy's own sums hang on its version."""
    lost = np.zeros_like(values)
    while len(values) > 1000:
        half = len(values) // 2
        a, b = values[:half], values[half : 2 * half]
        total = a + b
        other = total - a
        loss = (a - (total - other)) + (b - other) + lost[:half] + lost[half : 2 * half]
        values, lost = (np.concatenate([one, whole[2 * half :]]) for one, whole in ((total, values), (loss, lost)))
    return math.fsum([*values.tolist(), *lost.tolist()])


def _check_images(images: Tensor) -> None:
    shape = tuple(images.shape)
    tokens = images.dim() == 2 and images.dtype in (torch.int32, torch.int64)
    if images.dtype != torch.uint8 and not images.is_floating_point() and not tokens:
        raise UserError(f"expected images as uint8 (0..255) or floating point, got {images.dtype}: convert them")
    if images.dim() < 2 or images.numel() == 0:
        raise UserError(f"expected images of shape N x C x H x W (or N x features), none of them 0, got {shape}")
    if images.dtype == torch.uint8 and images.dim() != 4:
        raise UserError(f"expected uint8 images of shape N x C x H x W, got {shape}: reshape them")
    if images.dtype == torch.uint8 and images.shape[1] > 4 and images.shape[3] in (1, 3, 4):
        raise UserError(
            f"expected images of shape N x C x H x W, got {shape}: channels come second, permute(0, 3, 1, 2)"
        )


def _checked_labels(labels: Tensor, n: int, classes: Sequence[str]) -> Tensor:
    """``labels`` as int64."""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UserError(f"expected integer labels (class numbers), got {labels.dtype}: convert them")
    if labels.dim() != 1 or len(labels) != n:
        raise UserError(f"expected one label for each of {n} images, got labels of shape {tuple(labels.shape)}")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or (classes and highest >= len(classes)):
        known = f"0 to {len(classes) - 1}" if classes else "0 or more"
        raise UserError(f"expected labels of {known}, got {lowest} to {highest}: number the classes from 0")
    return labels.long()
