"""One image file as pixels: every kind of file at 8 bits a channel, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from noiserobust.errors import UserError, reason_of
from noiserobust.limits import require_file, within

if TYPE_CHECKING:
    from PIL.Image import Image

SEMANTICS = 2
"""Raise when a change reads other pixels from the same file; names of data that stay on disk hold it."""
BITS_PER_SAMPLE = 258
"""The TIFF tag."""


def read_image(path: str, size: int | None = None) -> Tensor:
    """One image as uint8 3 x H x W; with ``size``, its middle square, scaled to so many pixels a side.

    Values are the file's shares of the largest number that its type holds, in 8 bits: of 16 bits the upper 8; floats
    are shares already. Grey gives three equal channels, transparency is dropped, and an image is turned upright where
    its EXIF data say so. Raises :class:`UserError` for what cannot be read, has several frames, more pixels than the
    limit (:mod:`noiserobust.limits`), or numbers without a known scale: integers of 32 bits, floats outside of [0, 1].
    """
    from PIL import Image, ImageOps
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.v2 import functional

    require_file(path, "an image", "file")
    try:
        with Image.open(path) as file:  # reads no pixels yet
            _check(file, path)
            # torchvision decodes these twice as fast as Pillow, which reads the rest.
            if file.format in ("JPEG", "MPO", "PNG"):
                assert file.fp is not None
                file.fp.seek(0)  # by path it would open the file again, which can take as long as decoding
                read = torch.frombuffer(bytearray(file.fp.read()), dtype=torch.uint8)
                pixels = decode_image(read, ImageReadMode.RGB, apply_exif_orientation=True)
                if pixels.dtype != torch.uint8:  # a channel at a time: it takes several times its size
                    pixels = torch.stack([functional.to_dtype(one, torch.uint8, scale=True) for one in pixels])
            else:
                pixels = _pixels(ImageOps.exif_transpose(file), _largest(file), path)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a damaged file raises what it likes, from two libraries
        raise UserError(
            f"expected an image, got something unreadable in {path} ({reason_of(error)}): mend or remove it"
        ) from None
    return pixels if size is None else functional.center_crop(functional.resize(pixels, [size]), [size, size])


def _check(file: Image, path: str) -> None:
    """Refuse what is no single image of a size that is safe to decode."""
    within("pixels of an image", "pixels", file.width * file.height, path)
    # Telephones put previews and depth maps behind the picture (MPO).
    if getattr(file, "is_animated", False) and file.format != "MPO":
        frames = getattr(file, "n_frames", "several")
        raise UserError(f"expected an image of one frame, got {frames} frames in {path}: keep one of them")


def _largest(file: Image) -> int:
    """The largest number that a channel of the file's type holds; 0 for integers that do not say."""
    if file.mode == "I":
        return 65535 if file.format == "PPM" else 0  # Pillow scales these files' own maximum to 16 bits
    if file.mode.startswith("I;16"):
        return 2 ** int(getattr(file, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]) - 1
    return 255


def _pixels(image: Image, largest: int, path: str) -> Tensor:
    """uint8 3 x H x W."""
    if image.mode == "F":
        shares = np.asarray(image)
        low, high = float(shares.min()), float(shares.max())
        if not (low >= 0 and high <= 1):  # NaN, too
            raise UserError(f"expected an image of floats in [0, 1], got {low:g} to {high:g} in {path}: scale them")
        grey = _by_rows(shares, lambda row: np.rint(row.astype(np.float64) * 255))
    elif largest == 0:
        raise UserError(
            f"expected an image of 8 or 16 bits a channel or of floats in [0, 1], got integers of 32 bits in {path}, "
            "whose scale is unknown: convert it"
        )
    elif largest != 255:
        grey = _by_rows(np.asarray(image), lambda row: row.astype(np.int64) * 256 // (largest + 1))
    else:
        channels = np.array(image.convert("RGB"))
        return torch.from_numpy(channels).permute(2, 0, 1).contiguous()
    return torch.from_numpy(grey).expand(3, -1, -1).contiguous()


def _by_rows(values: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """uint8 of the same shape; row by row, so that wider types are never those of a whole image."""
    changed = np.empty(values.shape, np.uint8)
    for place, row in enumerate(values):
        changed[place] = change(row)
    return changed
