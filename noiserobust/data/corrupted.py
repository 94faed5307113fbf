"""CIFAR-10-C and CIFAR-100-C: the test images under common corruptions, five severities each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from noiserobust.data.cifar import NORMALIZATION
from noiserobust.data.dataset import Dataset
from noiserobust.errors import UserError

CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""The fifteen that papers average over (Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations")."""

SEVERITIES = 5


def load_corrupted(
    folder: str | Path, corruptions: Sequence[str] = (), severities: Sequence[int] = (1, 2, 3, 4, 5)
) -> Iterator[tuple[str, int, Dataset]]:
    """(corruption, severity, images) for every file ``folder/<corruption>.npy`` that is wanted, by default the fifteen.

    A file holds the test images five times, N x H x W x C uint8 from severity 1 to severity 5 (5 x 10,000 for CIFAR);
    ``labels.npy`` their N labels. Raises :class:`~noiserobust.UserError` that says which file is missing, or what of it
    does not fit.
    """
    place, wanted = Path(folder), list(corruptions) or list(CORRUPTIONS)
    missing = [name for name in ("labels", *wanted) if not (place / f"{name}.npy").is_file()]
    if missing:
        raise UserError(
            f"expected {', '.join(f'{name}.npy' for name in missing)} in {folder}, got none: unpack CIFAR-10-C.tar or "
            "CIFAR-100-C.tar (Hendrycks and Dietterich) there, or name the corruptions that it holds"
        )
    if unknown := [severity for severity in severities if severity not in range(1, SEVERITIES + 1)]:
        raise UserError(f"expected severities from 1 to {SEVERITIES}, got {', '.join(map(str, unknown))}")
    labels = torch.from_numpy(_array(place / "labels.npy").astype(np.int64))
    classes = 10 if int(labels.max()) < 10 else 100
    normalization = NORMALIZATION[f"cifar{classes}"]
    for name in wanted:
        images = _array(place / f"{name}.npy")
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels) or len(images) % SEVERITIES:
            raise UserError(
                f"expected uint8 images N x H x W x C in {name}.npy, N = {len(labels)} as in labels.npy and a multiple "
                f"of {SEVERITIES}, got {images.dtype} {images.shape}"
            )
        size = len(images) // SEVERITIES
        mean, std = normalization if images.shape[-1] == 3 else ((0.0,), (1.0,))  # grey: of our own making
        for severity in severities:
            rows = slice((severity - 1) * size, severity * size)
            pixels = torch.from_numpy(np.array(images[rows].transpose(0, 3, 1, 2), order="C"))
            names = tuple(map(str, range(classes)))
            yield name, severity, Dataset(pixels, labels[rows], mean, std, names, f"{name} {severity}")


def _array(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"expected a NumPy file (.npy), got {file}: {error}") from None
