"""Image files of every kind: the same picture gives the same pixels, or one line says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from noiserobust import UserError
from noiserobust.data import StreamedBatches, load
from noiserobust.data.images import read_image

SHARES = np.linspace(0, 1, 12 * 20).reshape(12, 20)
GREY = np.rint(SHARES * 255).astype(np.uint8)
WIDE = np.rint(SHARES * 65535).astype(np.uint16)
COLOURS = np.stack([GREY, GREY[::-1], 255 - GREY], -1)
TWO = {"save_all": True, "append_images": [Image.fromarray(COLOURS)]}
ON_ITS_SIDE = Image.Exif()
ON_ITS_SIDE[274] = 6


def near(pixels: torch.Tensor, expected: np.ndarray, atol: float = 1) -> None:
    """``expected``: H x W x C or H x W in units of 255."""
    channels = np.broadcast_to(expected[..., None] if expected.ndim == 2 else expected, (*expected.shape[:2], 3))
    assert pixels.dtype == torch.uint8
    assert np.abs(pixels.permute(1, 2, 0).numpy() - channels.astype(float)).max() <= atol


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (Image.fromarray(WIDE), "a.png", SHARES * 255),
        (Image.fromarray(WIDE), "a.tif", SHARES * 255),
        (Image.fromarray(WIDE.astype(">u2")), "a.tiff", SHARES * 255),
        (Image.fromarray(WIDE), "a.pgm", SHARES * 255),
        (Image.fromarray(SHARES.astype(np.float32)), "a.tif", SHARES * 255),
        (Image.fromarray(GREY > 99), "a.png", 255 * (GREY > 99)),
        (Image.fromarray(GREY > 99), "a.tif", 255 * (GREY > 99)),
        (Image.fromarray(GREY).convert("P"), "a.png", GREY),
        (Image.fromarray(np.dstack([COLOURS, GREY])), "a.png", COLOURS),
        (Image.fromarray(np.dstack([COLOURS, GREY])), "a.tif", COLOURS),
        (Image.fromarray(np.dstack([GREY, GREY]), "LA"), "a.png", GREY),
        (Image.fromarray(COLOURS).convert("CMYK"), "a.tif", COLOURS),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "mode", ""),
)
def test_every_kind_of_file_holds_the_same_picture(
    image: Image.Image, name: str, expected: np.ndarray, tmp_path: Path
) -> None:
    image.save(tmp_path / name)
    near(read_image(str(tmp_path / name)), expected)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_pictures_are_turned_upright(name: str, tmp_path: Path) -> None:
    flat = np.zeros((8, 16, 3), np.uint8)
    flat[:, :8] = 200  # the left half: on top once the picture stands upright
    Image.fromarray(flat).save(tmp_path / name, exif=ON_ITS_SIDE)
    near(read_image(str(tmp_path / name)), np.rot90(flat, -1), atol=6)


@pytest.mark.parametrize(
    ("image", "name", "options", "line"),
    [
        (Image.fromarray(WIDE.astype(np.int32)), "a.tif", {}, "integers of 32 bits"),
        (Image.fromarray((SHARES * 255).astype(np.float32)), "a.tif", {}, r"floats in \[0, 1\], got 0 to 255"),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "a.tif", {}, r"floats in \[0, 1\], got nan"),
        (Image.fromarray(COLOURS[::-1]), "a.webp", TWO, "one frame, got 2"),
        (Image.fromarray(COLOURS[::-1]), "a.png", TWO, "one frame, got 2"),
        (Image.fromarray(COLOURS), "a.tif", TWO, "one frame, got 2"),
    ],
)
def test_what_has_no_known_scale_or_is_no_picture_is_refused(
    image: Image.Image, name: str, options: dict[str, object], line: str, tmp_path: Path
) -> None:
    image.save(tmp_path / name, **options)
    with pytest.raises(UserError, match=line) as raised:
        read_image(str(tmp_path / name))
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_decompression_bombs_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    monkeypatch.setenv("NOISEROBUST_LIMITS", "pixels=150")
    with pytest.raises(UserError, match=r"a\.png"):
        read_image(str(tmp_path / "a.png"))


@pytest.mark.parametrize("kind", ["", "stream:"])
def test_a_folder_of_16_bits_is_the_folder_of_8(kind: str, tmp_path: Path) -> None:
    for name, pixels in (("png", GREY), ("tif", WIDE)):
        for place in ("train/a", "train/b", "test/a", "test/b"):
            folder = tmp_path / name / place
            folder.mkdir(parents=True)
            Image.fromarray(pixels if place.endswith("a") else pixels[::-1].copy()).save(folder / f"1.{name}")
    inputs = []
    for name in ("png", "tif"):
        data = load(f"{kind}{tmp_path / name}", image_size=8).test
        batches = StreamedBatches(data, 2) if kind else [None]  # type: ignore[arg-type]
        inputs += [data.normalized() if one is None else one.inputs for one in batches]  # type: ignore[attr-defined]
    torch.testing.assert_close(inputs[0], inputs[1], atol=1.01 / 255 / 0.2, rtol=0)
    assert inputs[0].std() > 0.5
