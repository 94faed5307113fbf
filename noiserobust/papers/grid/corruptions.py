"""Corrupted copies of test images, of our own making, where CIFAR-10-C is not at hand: in its layout, not its images.

Seven corruptions that need nothing but arithmetic, each at five severities of our choice. What the fifteen of
CIFAR-10-C would say of a network these only hint at.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from noiserobust.data import Labelled
from noiserobust.data.corrupted import SEVERITIES
from noiserobust.rng import Stream
from noiserobust.storage.files import folder_is_whole, folder_written_atomically, set_aside

Corruption = Callable[[Tensor, int, Stream], Tensor]
"""(images N x C x H x W in [0, 1], severity from 0 to 4, named randomness) -> images of the same shape."""


def _gaussian_noise(x: Tensor, severity: int, stream: Stream) -> Tensor:
    return x + (0.06, 0.10, 0.15, 0.21, 0.28)[severity] * stream.normal(x.shape)


def _shot_noise(x: Tensor, severity: int, stream: Stream) -> Tensor:
    """Poisson counts of so many photons at white."""
    photons = (100, 50, 25, 12, 6)[severity]
    return torch.poisson(x * photons, generator=stream.generator()) / photons


def _impulse_noise(x: Tensor, severity: int, stream: Stream) -> Tensor:
    """Salt and pepper on so large a share of the values."""
    share, coin = (0.02, 0.04, 0.07, 0.11, 0.16)[severity], stream.uniform(x.shape)
    return torch.where(coin < share / 2, 0.0, torch.where(coin < share, 1.0, x))


def _gaussian_blur(x: Tensor, severity: int, stream: Stream) -> Tensor:
    from scipy.ndimage import gaussian_filter

    width = (0.4, 0.55, 0.7, 0.85, 1.0)[severity] * x.shape[-1] / 16
    return torch.from_numpy(gaussian_filter(x.numpy(), (0, 0, width, width), mode="nearest"))


def _contrast(x: Tensor, severity: int, stream: Stream) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return mean + (x - mean) * (0.75, 0.55, 0.4, 0.28, 0.18)[severity]


def _brightness(x: Tensor, severity: int, stream: Stream) -> Tensor:
    return x + (0.1, 0.18, 0.26, 0.34, 0.42)[severity]


def _pixelate(x: Tensor, severity: int, stream: Stream) -> Tensor:
    """Down to so large a share of the pixels a side, and up again."""
    size = max(2, round((0.85, 0.72, 0.6, 0.5, 0.38)[severity] * x.shape[-1]))
    return interpolate(interpolate(x, size=(size, size), mode="area"), size=x.shape[-2:], mode="nearest")


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "gaussian_blur": _gaussian_blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "pixelate": _pixelate,
}


def corrupted_copy(data: Labelled, folder: Path) -> Path:
    """The folder of ``data`` under all corruptions, in CIFAR-10-C's layout; made if it is not there yet."""
    place = folder / data.fingerprint
    if place.is_dir() and not folder_is_whole(place):
        set_aside(place, "damaged", "made anew")
    if place.is_dir():
        return place
    images = data.with_normalization((0.0,), (1.0,)).normalized()  # type: ignore[attr-defined]
    with folder_written_atomically(place) as temporary:
        for name, corruption in CORRUPTIONS.items():
            stacked = torch.cat(
                [corruption(images, severity, Stream(0, "corrupted", name, severity)) for severity in range(SEVERITIES)]
            )
            pixels = (stacked.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
            np.save(temporary / f"{name}.npy", pixels.contiguous().numpy())
        np.save(temporary / "labels.npy", data.labels.repeat(SEVERITIES).numpy())
    return place
