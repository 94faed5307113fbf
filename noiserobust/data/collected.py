"""Data as people have them, collected in memory: arrays, data sets, loaders, columns, rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from noiserobust.data import nests
from noiserobust.data.batches import Batch
from noiserobust.data.dataset import Dataset
from noiserobust.data.labelled import Labelled, as_tensor
from noiserobust.data.samples import Samples
from noiserobust.errors import UserError

LABELS = ("labels", "label", "label_ids", "targets", "target")
"""What the column of labels is called; the first that is there."""
MOST_CLASSES = 100_000
"""Whole numbers beyond are no class numbers."""


def as_dataset(data: Any) -> Labelled:
    """``data`` in memory: a :class:`Dataset` of inputs with class numbers, else :class:`Samples`.

    What is one already, or is :class:`Streamed`, is returned. Takes

    - a pair ``(inputs, labels)``; inputs are a tensor or array, or several in a tuple or dictionary;
    - columns: a dictionary (or BatchEncoding) of tensors with one called ``labels``, ``label`` or ``target`` (none
      where the task needs none); the others are what the network is called with, by name;
    - a map-style or iterable data set, or a list, of such samples; rows of Hugging Face ``datasets``, whose columns of
      text are left out;
    - a DataLoader, read as it is, with its own sampler and collate function. One that merely shuffles is read in
      order, so that the same data always have the same order and fingerprint.

    Floats are taken as they are. Raises :class:`UserError` for anything else, and for generators, which can be read
    only once.
    """
    if isinstance(data, Labelled):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        return _of(_inputs(data[0]), _labels(data[1]))
    if isinstance(data, Mapping):
        return _of_columns(data)
    if isinstance(data, Tensor):
        return Samples((Batch(as_tensor(data, "samples"), None),))
    if isinstance(data, DataLoader):
        pairs = [_pair(batch) for batch in _in_order(data)]
        # Without a batch size a loader gives what its data set does: samples, where labels are single numbers.
        single = data.batch_size is None and any(one.dim() == 0 for pair in pairs[:1] for one in nests.tensors(pair))
        return _together(_grouped(pairs) if single else pairs)
    if isinstance(data, Iterator):
        raise UserError(
            f"expected data that can be read more than once, got a {type(data).__name__}; give a list of it, or a "
            "DataLoader"
        )
    return _together(_grouped(_pair(sample) for sample in _read(data)))


def _read(data: Any) -> Iterable[Any]:
    """The samples of a data set, by position where it has any: a map-style one need not raise IndexError at its end."""
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str):
        return (data[index] for index in range(len(data)))
    if isinstance(data, Iterable) and not isinstance(data, str):
        return data
    raise UserError(f"expected a Dataset, a tuple (x, y), a torch dataset or a DataLoader, got {type(data).__name__}")


def _in_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    """``loader``, or one that reads the same samples unshuffled where all that its sampler does is to shuffle."""
    sampler: Any = loader.sampler
    batches: Any = loader.batch_sampler
    shuffles = type(sampler) is RandomSampler and not sampler.replacement and len(sampler) == len(sampler.data_source)
    if not shuffles or type(batches) is not BatchSampler:
        return loader
    return DataLoader(
        loader.dataset,
        batch_sampler=BatchSampler(SequentialSampler(sampler.data_source), batches.batch_size, batches.drop_last),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
    )


def _pair(given: Any) -> tuple[Any, Any]:
    """Inputs and labels of what a data set or loader gives: a pair, or columns."""
    if isinstance(given, Mapping):
        return _split_columns(given)
    if isinstance(given, (tuple, list)) and len(given) == 1 and isinstance(given[0], Tensor):
        return given[0].detach(), None
    if isinstance(given, (tuple, list)) and len(given) == 2:
        inputs, labels = given
        if isinstance(inputs, (Tensor, np.ndarray, Mapping, tuple, list)):
            return _nest(inputs), _nest(labels)
    got = f"({', '.join(type(part).__name__ for part in given)})" if isinstance(given, (tuple, list)) else type(given)
    remedy = (
        "put the inputs together: ((a, b), labels)"
        if isinstance(given, (tuple, list)) and len(given) > 2
        else "add a transform such as ToTensor()"
    )
    raise UserError(f"expected data that yields (tensor, label), got {got}: {remedy}")


def _split_columns(columns: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Inputs by name and labels; text, which no network takes, is left out."""
    label = next((name for name in LABELS if name in columns), None)
    inputs = {name: _nest(value) for name, value in columns.items() if name != label and not _is_text(value)}
    if not any(True for _ in nests.tensors(inputs)):
        raise UserError(f"expected columns of numbers, got {', '.join(map(str, columns)) or 'none'}; tokenize texts")
    return inputs, None if label is None else _nest(columns[label])


def _is_text(value: Any) -> bool:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, (str, bytes))


def _nest(value: Any) -> Any:
    """Tensors of arrays, numbers and lists of numbers, in tuples and dictionaries as they are."""
    if isinstance(value, Tensor):
        return as_tensor(value, "samples")
    if isinstance(value, Mapping):
        return {str(key): _nest(one) for key, one in value.items()}
    if isinstance(value, tuple) or (isinstance(value, list) and any(isinstance(one, Tensor) for one in value)):
        return tuple(_nest(one) for one in value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return as_tensor(value, "samples")
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"expected numbers as a sample, got {type(value).__name__}: tensors, arrays or lists") from None


def _of_columns(columns: Mapping[str, Any]) -> Labelled:
    if any(hasattr(value, "column_names") or isinstance(value, (Labelled, DataLoader)) for value in columns.values()):
        raise UserError(f"expected one data set, got several ({', '.join(map(str, columns))}); name one: data['test']")
    return _of(*_split_columns(columns))


def _inputs(given: Any) -> Any:
    """One array, or several in a tuple or dictionary."""
    return _nest(given) if isinstance(given, (tuple, Mapping)) else as_tensor(given, "images")


def _labels(given: Any) -> Any:
    return _nest(given) if isinstance(given, Mapping) else as_tensor(given, "labels")


def _grouped(samples: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Samples as batches: one, or one for each run of samples of one length."""
    batches = []
    for _, group in groupby(samples, key=_lengths):
        inputs, labels = zip(*group, strict=True)
        batches.append(
            (nests.joined(inputs, torch.stack), None if labels[0] is None else nests.joined(labels, torch.stack))
        )
    return batches


def _lengths(sample: tuple[Any, Any]) -> Any:
    """The shapes of a sample's tensors; those of images and labels must be the same everywhere."""
    return [tuple(tensor.shape) for tensor in nests.tensors(sample)]


def _together(batches: Sequence[tuple[Any, Any]]) -> Labelled:
    """Batches as one data set: joined where they can be."""
    if not batches:
        raise UserError("expected data with at least one sample, got none")
    shapes = {tuple(tensor.shape[1:] for tensor in nests.tensors(pair)) for pair in batches}
    if len(shapes) == 1:
        return _of(*nests.joined(list(batches)))
    images = sorted({tuple(nests.first(inputs).shape[1:]) for inputs, _ in batches})
    if len(images[0]) > 1:
        raise UserError(f"expected samples of one shape, got {images[0]} and {images[-1]}: resize them")
    return _samples([Batch(inputs, labels) for inputs, labels in batches])


def _of(inputs: Any, labels: Any) -> Labelled:
    """Inputs and labels of all samples."""
    if isinstance(inputs, Tensor) and isinstance(labels, Tensor) and len(inputs) != len(labels):
        raise UserError(
            f"expected one label for each of {len(inputs)} images, got labels of shape {tuple(labels.shape)}"
        )
    if isinstance(labels, Tensor) and labels.dtype == torch.bool and labels.dim() == 1:
        labels = labels.long()  # two classes
    if isinstance(inputs, Tensor) and _are_classes(labels):
        return Dataset(inputs, labels)
    return _samples([Batch(inputs, labels)])


def _samples(parts: Sequence[Batch]) -> Samples:
    numbered = all(_are_classes(part.labels) for part in parts)
    count = max(int(part.labels.max()) for part in parts) + 1 if numbered else 0
    return Samples(tuple(parts), tuple(map(str, range(count))))


def _are_classes(labels: Any) -> bool:
    """Whether these can be class numbers: one for each sample, whole, from 0, not too many."""
    if not isinstance(labels, Tensor) or labels.dim() != 1:
        return False
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    return whole and (not len(labels) or (int(labels.min()) >= 0 and int(labels.max()) < MOST_CLASSES))
