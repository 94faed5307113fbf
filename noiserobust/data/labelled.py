"""What all data have, held in memory or read from disk: labels, classes, a normalisation, and random parts of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.rng import Stream

L = TypeVar("L", bound="Labelled")
Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations, one of each or one per channel."""


class Labelled(ABC):
    """Base of :class:`~noiserobust.data.Dataset` (in memory) and :class:`~noiserobust.data.Streamed` (on disk)."""

    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    name: str

    @property
    @abstractmethod
    def channels(self) -> int:
        """Image channels, or features of flat data."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """16 hex digits that name the content (normalisation is not in it)."""

    @abstractmethod
    def example(self) -> Tensor:
        """The first sample as a network sees it, 1 x C x ..., float32."""

    @abstractmethod
    def subset(self: L, indices: Tensor | np.ndarray | Sequence[int]) -> L:
        """The samples at ``indices`` (positions from 0), in that order."""

    @property
    def normalization(self) -> str:
        """How a network sees x, pixels or features, such as ``(x - .305) / .376``; of pixels from 0 to 255, x is
        their share of 255."""
        mean, std = (_listed(values) for values in (self.mean, self.std))
        return "x" if (set(self.mean), set(self.std)) == ({0.0}, {1.0}) else f"(x - {mean}) / {std}"

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self: L, n: int, stream: Stream) -> L:
        """``n`` random samples, every class with its share (to within a sample or so).

        The order is such that every prefix has the shares too; so a smaller sample of the same stream is the
        beginning of a larger one.
        """
        if not 1 <= n <= len(self):
            raise UserError(f"expected a sample of 1 to {len(self)} images of {self.name}, got {n}")
        return self.subset(self._stratified_order(stream)[:n])

    def split(self: L, fraction: float, stream: Stream) -> tuple[L, L]:
        """``(rest, held_out)``: held_out is a random ``fraction`` of every class; both keep the order they had."""
        held = round(fraction * len(self)) if 0 < fraction < 1 else 0
        if not 0 < held < len(self):
            raise UserError(f"expected a fraction that leaves both parts some of {len(self)} images, got {fraction}")
        order = self._stratified_order(stream)
        return self.subset(order[held:].sort().values), self.subset(order[:held].sort().values)

    def with_normalization(self: L, mean: Sequence[float], std: Sequence[float]) -> L:
        """The same data seen through another normalisation: a checkpoint is evaluated with its own."""
        return replace(self, mean=tuple(mean), std=tuple(std))  # type: ignore[type-var]

    def _strata(self) -> Tensor:
        """The class of each sample (CPU), of which every part of the data has its share."""
        return self.labels.cpu()

    def _stratified_order(self, stream: Stream) -> Tensor:
        """A random order (CPU) whose every prefix holds each class in proportion.

        A class of m samples puts them, shuffled, at (rank + offset) / m with one random offset in [0, 1): evenly
        over [0, 1), so that the part below any threshold has the right share of each class.
        """
        generator = stream.generator()
        labels = self._strata()
        counts = torch.bincount(labels, minlength=len(self.classes))
        shuffled = torch.randperm(len(labels), generator=generator)
        grouped = shuffled[labels[shuffled].argsort(stable=True)]
        label = labels[grouped]
        rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[label]
        offset = torch.rand(len(counts), dtype=torch.float64, generator=generator)
        return grouped[((rank + offset[label]) / counts[label]).argsort(stable=True)]


def normalization_of(mean: float | Sequence[float] | None, std: float | Sequence[float] | None) -> Normalization | None:
    """The normalisation that a person asked for, (mean, std), each one number or one per channel; None for none."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        given, missing = ("std", "mean") if mean is None else ("mean", "std")
        raise UserError(f"expected {missing} beside {given}, got none; inputs become (x - mean) / std")
    means, stds = (
        tuple(map(float, [values] if isinstance(values, (int, float)) else values)) for values in (mean, std)
    )
    check_normalization(means, stds)
    return means, stds


def check_normalization(mean: Sequence[float], std: Sequence[float], channels: int | None = None) -> None:
    """Raises :class:`UserError` for what cannot normalise images of so many ``channels``."""
    for what, values in (("mean", mean), ("std", std)):
        if channels is not None and len(values) not in (1, channels):
            raise UserError(f"expected {what} of 1 or {channels} values (one per channel), got {len(values)}")
    if not all(map(math.isfinite, mean)) or not all(0 < value < math.inf for value in std) or not (mean and std):
        raise UserError(f"expected a finite mean and a finite std above 0, got mean {mean} and std {std}")


def _listed(values: Sequence[float]) -> str:
    """``.305`` of one number, ``[.485, .456, .406]`` of several."""
    texts = [f"{value:.3g}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3g}" for value in values]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def affine(
    mean: Sequence[float], std: Sequence[float], unit: float, dims: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(x / unit - mean) / std as x * scale - shift: float32 (scale, shift) for ``dims``-dimensional batches."""
    shape = (-1, *[1] * (dims - 2))
    mu, sigma = (torch.tensor(values, dtype=torch.float64).view(shape) for values in (mean, std))
    scale, shift = 1 / (unit * sigma), mu / sigma
    return scale.float().to(device), shift.float().to(device)


def positions(indices: Tensor | np.ndarray | Sequence[int], count: int) -> Tensor:
    """``indices`` as int64 on the CPU; :class:`UserError` unless they are positions among ``count`` samples."""
    rows = as_tensor(indices, "positions").cpu()
    if rows.dtype == torch.bool or rows.is_floating_point() or rows.dim() != 1 or len(rows) == 0:
        raise UserError(f"expected a non-empty list of positions, got {rows.dtype} of shape {tuple(rows.shape)}")
    # Looked at here because on a GPU an index out of range ends the whole process.
    if int(rows.min()) < 0 or int(rows.max()) >= count:
        raise UserError(f"expected positions 0 to {count - 1}, got {int(rows.min())} to {int(rows.max())}")
    return rows.long()


def as_tensor(value: Any, what: str) -> Tensor:
    """``value`` (tensor, array or nested list) as a tensor; a tensor keeps its device."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_nested:
            kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
            raise UserError(f"expected {what} as a dense tensor, got a {kind} one; to_dense() or padding makes it one")
        return value.detach()
    try:
        # torch warns about read-only arrays and refuses negative strides; both become copies here.
        return torch.from_numpy(np.require(value, requirements=["C", "W"]))
    except (TypeError, ValueError):
        raise UserError(f"expected {what} as a tensor or an array of numbers, got {type(value).__name__}") from None
