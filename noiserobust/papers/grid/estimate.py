"""Estimates of how long pieces will take: their passes counted, times a pass as timed on this machine."""

from __future__ import annotations

import contextlib

from noiserobust.data.corrupted import CORRUPTIONS as PUBLISHED_CORRUPTIONS
from noiserobust.data.source import DataSource
from noiserobust.data.subset import Subset
from noiserobust.errors import UserError
from noiserobust.papers.grid.corruptions import CORRUPTIONS
from noiserobust.papers.grid.pieces import Corrupted, FineTuned, Heights, Measuring
from noiserobust.papers.grid.step_time import StepTime, seconds_per_image
from noiserobust.sweep import Evaluating, Piece, Training
from noiserobust.sweep.pieces import data_of, mean_cost
from noiserobust.training import TrainSettings

KNOWN = {
    "digits": (1297, 500, 1, 8, 10),
    "cifar10": (50_000, 10_000, 3, 32, 10),
    "cifar100": (50_000, 10_000, 3, 32, 100),
    "imagenet": (1_281_167, 50_000, 3, 224, 1000),
}
"""Training images, test images, channels, pixels a side and classes of data that need not be here to be estimated."""


def sizes_of(data: str) -> tuple[int, int, int, int, int]:
    """What :data:`KNOWN` says of data by their text, also of a part of them; ``KeyError`` for all others."""
    source = DataSource.parse(data, imports=False) if data.startswith("subset:") else None
    if not isinstance(source, Subset):
        return KNOWN[data]
    _, *others, classes = KNOWN[str(source.of)]
    return (source.per_class * classes, *others, classes)  # type: ignore[return-value]


OVERHEAD = 0.2  # seconds to open a run and its data, measured on digits


def seconds_of(piece: Piece) -> float:
    """Seconds that ``piece`` will take on this machine; a forward pass is a third of a forward and backward pass."""
    if isinstance(piece, Training):
        return OVERHEAD + _training(piece.settings)
    if isinstance(piece, Evaluating):
        settings = piece.trained.settings
        images = dict(piece.options).get("images") or _size(settings)[1]
        return OVERHEAD + piece.draws * images * _image(settings) / 3
    assert isinstance(piece, Measuring)
    settings = piece.trained.settings
    if isinstance(piece, StepTime):
        return 2 * (piece.steps + 4) * settings.batch_size * _image(settings)
    if isinstance(piece, FineTuned):
        before = 0.5 * _training(settings) if piece.initial is None else 0.0  # trained on half of the classes
        return OVERHEAD + before + _training(settings)
    passes = 0
    if isinstance(piece, Heights):
        passes = piece.points**piece.dimensions * piece.pairs
    elif isinstance(piece, Corrupted):
        passes = 5 * len(CORRUPTIONS if piece.folder is None else PUBLISHED_CORRUPTIONS)
    images = getattr(piece, "images", None) or _size(settings)[1]
    return OVERHEAD + passes * images * _image(settings) / 3


def _training(settings: TrainSettings) -> float:
    train, test, *_ = _size(settings)
    on_test = settings.select_on == "test"
    held_out = 0.0 if on_test else settings.validation * train
    watched = (test if on_test else held_out) * (1 + settings.select_draws) / 3
    passes = settings.epochs * (mean_cost(settings, 100) * (train - held_out) + watched)
    measured = {0, settings.epochs - 1, *range(settings.log_every - 1, settings.epochs, settings.log_every)}
    passes += len(measured) * settings.log_images * len(settings.log_on) * 2 * len(settings.log) / 3
    return passes * _image(settings)


def _size(settings: TrainSettings) -> tuple[int, int, int, int, int]:
    with contextlib.suppress(KeyError):
        return sizes_of(settings.data)
    data = data_of(settings)
    train = data.train
    return len(train), len(data.test), train.channels, train.example().shape[-1], len(train.classes)


def _image(settings: TrainSettings) -> float:
    return seconds_per_image(settings.model, *_size(settings)[2:], settings.precision, settings.device)


def in_words(seconds: float) -> str:
    """A duration as a person says it: ``40 s``, ``12 min``, ``5.5 h``, ``12 d``."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def here(piece: Piece) -> bool:
    """Whether ``piece`` is done; of data that are not on this machine nothing is, and nothing is downloaded to see."""
    training = getattr(piece, "trained", piece)
    if isinstance(training, Training) and not training.nameable:
        return False
    try:
        return piece.result.is_file()
    except UserError:
        return False
