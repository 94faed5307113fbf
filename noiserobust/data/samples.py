"""Samples of any kind, held in memory as they were given: several inputs, labels that are no class numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiserobust.data import nests
from noiserobust.data.batches import Batch, check_numbers, part_of
from noiserobust.data.labelled import Labelled, affine, positions
from noiserobust.errors import UserError
from noiserobust.rng import Stream


@dataclass(frozen=True, eq=False)
class Samples(Labelled):
    """Inputs and labels of any kind and shape; networks see them as they are.

    parts: batches whose samples together are the data: one, or several where samples differ in length (batches that a
        loader padded each for itself). Labels may be None where the task makes them of the inputs.
    classes: the class names, where labels are class numbers.
    """

    parts: tuple[Batch, ...]
    classes: tuple[str, ...] = ()
    name: str = "data"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for part in self.parts:
            sizes = {nests.size(one) for one in (part.inputs, part.labels) if one is not None}
            if len(sizes) != 1 or not min(sizes):
                raise UserError(f"expected a label for each sample, and some samples, got {sorted(sizes)} of them")

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def labels(self) -> Any:  # type: ignore[override]
        """All labels, as one tensor or dictionary; None where there are none."""
        if not self.parts or self.parts[0].labels is None:
            return None
        try:
            return nests.joined([part.labels for part in self.parts])
        except RuntimeError:
            raise UserError("expected labels of one shape, got several: pad samples to one length") from None

    @cached_property
    def whole(self) -> Batch:
        """All samples in one batch; :class:`UserError` where they differ in length."""
        return self.parts[0] if len(self.parts) == 1 else Batch.join(self.parts)

    @property
    def channels(self) -> int:
        """Size of dimension 1 of the first input (1 where there is none)."""
        head = nests.first(self.parts[0].inputs)
        return head.shape[1] if head.dim() > 1 else 1

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(b"samples")
        for part in self.parts:
            for kind in (part.inputs, part.labels):
                digest.update(_outline(kind).encode())
                for tensor in nests.tensors(kind):
                    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def example(self) -> Any:
        return self.parts[0][:1].inputs

    def subset(self, indices: Tensor | np.ndarray | Sequence[int]) -> Samples:
        rows = positions(indices, len(self))
        if len(self.parts) == 1:
            (part,) = self.parts
            return replace(self, parts=(part[rows.to(nests.first(part.inputs).device)],))
        starts = np.cumsum([0, *map(len, self.parts)])
        homes = np.searchsorted(starts, rows.numpy(), side="right") - 1
        cuts = [0, *(np.flatnonzero(np.diff(homes)) + 1), len(rows)]
        pieces = (self.parts[homes[a]][rows[a:b] - int(starts[homes[a]])] for a, b in pairwise(cuts))
        return replace(self, parts=tuple(pieces))

    def batches(self, size: int, device: torch.device | str, channels_last: bool = False) -> list[Batch]:
        """In order, of ``size`` samples at most, on ``device``."""
        return [
            self._placed(part[slice(start, start + size)], device, channels_last)
            for part in self.parts
            for start in range(0, len(part), size)
        ]

    def _placed(self, batch: Batch, device: torch.device | str, channels_last: bool) -> Batch:
        """``batch`` on ``device``; images of 8 bits as numbers from 0 to 1, one input by itself normalised."""
        normalised = self.normalization != "x"
        if normalised and not isinstance(batch.inputs, Tensor):
            raise UserError(f"expected one tensor as inputs to normalise, got several of {self.name}; leave mean out")

        def placed(values: Tensor) -> Tensor:
            values = values.to(device)
            values = values.float() / 255 if values.dtype == torch.uint8 and values.dim() == 4 else values
            if normalised:
                scale, shift = affine(self.mean, self.std, 1, values.dim(), values.device)
                values = values * scale - shift
            four = channels_last and values.dim() == 4
            return values.contiguous(memory_format=torch.channels_last) if four else values

        return replace(batch.to(device), inputs=nests.mapped(batch.inputs, placed))

    def _strata(self) -> Tensor:
        return self.labels.cpu() if self.classes else torch.zeros(len(self), dtype=torch.long)


class SampleBatches:
    """Shuffled batches of :class:`Samples` for training: epoch n in the order of ``stream.child("shuffle", n)``."""

    def __init__(
        self,
        data: Samples,
        batch_size: int,
        *,
        device: torch.device,
        stream: Stream,
        drop_last: bool = False,
        channels_last: bool = False,
    ) -> None:
        check_numbers(batch_size, 0)
        (whole,) = replace(data, parts=(data.whole,)).batches(len(data), device, channels_last)
        self.whole, self.batch_size, self.stream, self.drop_last = whole, batch_size, stream, drop_last

    def __len__(self) -> int:
        count, size = len(self.whole), self.batch_size
        return count // size if self.drop_last else -(-count // size)

    def epoch(self, n: int, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        """The batches of epoch ``n``; of each, the part of ``rank`` when ``ranks`` processes share them."""
        count, size = len(self.whole), self.batch_size
        order = torch.randperm(count, generator=self.stream.child("shuffle", n).generator())
        order = order.to(nests.first(self.whole.inputs).device)
        for start in range(0, len(self) * size, size):
            span, share = part_of(start, min(start + size, count), rank, ranks)
            yield replace(self.whole[order[span]], indices=order[span], share=share)


def _outline(nest: Any) -> str:
    """What a nest is made of, without its tensors."""
    if isinstance(nest, Tensor):
        return "_"
    if isinstance(nest, dict):
        return f"{{{','.join(f'{key}:{_outline(value)}' for key, value in nest.items())}}}"
    if isinstance(nest, (tuple, list)):
        return f"({','.join(map(_outline, nest))})"
    return repr(nest)
