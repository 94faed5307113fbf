"""Data sets by name, from tiny files in their original formats; nothing is downloaded."""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch.utils.data import Dataset as TorchDataset

from noiserobust.data import Splits, as_dataset, load
from noiserobust.errors import UserError
from noiserobust.models import ModelSpec
from noiserobust.training import TrainSettings, fit

GENERATOR = np.random.default_rng(0)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def idx(path: Path, values: np.ndarray) -> None:
    """Write ``values`` in the format of MNIST: two zeros, 8 (bytes), the dimensions, their sizes, the values."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


class TestFashionMnist:
    def test_every_pixel_arrives(self, tmp_path: Path, no_network: None) -> None:
        raw = tmp_path / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        images = {"train": GENERATOR.integers(0, 256, (20, 28, 28)), "t10k": GENERATOR.integers(0, 256, (10, 28, 28))}
        for part, pixels in images.items():
            idx(raw / f"{part}-images-idx3-ubyte", pixels)
            idx(raw / f"{part}-labels-idx1-ubyte", np.arange(len(pixels)) % 10)
        splits = load("fashion-mnist", tmp_path)
        for part, found in (("train", splits.train), ("t10k", splits.test)):
            assert np.array_equal(found.images[:, 0].numpy(), images[part])
            assert found.labels.tolist() == [n % 10 for n in range(len(found))]
            assert (found.channels, found.classes[9], found.mean) == (1, "Ankle boot", (0.286,))
        assert (splits.crop, splits.flip) == (2, True)


class TestSvhn:
    def test_every_pixel_arrives(self, tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
        images = {
            part: GENERATOR.integers(0, 256, (32, 32, 3, n)).astype(np.uint8)
            for part, n in (("train", 20), ("test", 10))
        }
        listed = {}
        for part, pixels in images.items():
            file = tmp_path / f"{part}_32x32.mat"
            savemat(file, {"X": pixels, "y": (np.arange(pixels.shape[-1]) % 10 + 1)[:, None]})  # a 0 is labelled 10
            listed[part] = ["https://example.invalid", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
        monkeypatch.setattr("torchvision.datasets.SVHN.split_list", listed)
        splits = load("svhn", tmp_path)
        for part, found in (("train", splits.train), ("test", splits.test)):
            assert np.array_equal(found.images.permute(2, 3, 1, 0).numpy(), images[part])
            assert found.labels.tolist() == [(n + 1) % 10 for n in range(len(found))]
            assert found.classes == tuple("0123456789")
        assert (splits.crop, splits.flip) == (4, False)


@pytest.mark.parametrize(
    ("name", "place", "remedy"),
    [
        ("cifar100", "cifar100 under {}", "put cifar-100-python.tar.gz from https://"),
        ("fashion-mnist", "fashion-mnist under {}/FashionMNIST/raw", "put train-images-idx3-ubyte.gz, train-labels-"),
        ("svhn", "svhn (train) under {}", "put train_32x32.mat from http"),
    ],
)
def test_without_network_it_says_what_to_put_where(
    name: str, place: str, remedy: str, tmp_path: Path, no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as caught:
        load(name, tmp_path)
    assert f"expected {place.format(tmp_path)}, got none, and no download (" in str(caught.value)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


class Pairs(TorchDataset[tuple[torch.Tensor, int]]):
    """A map-style dataset of a person's own: brightness is the class."""

    def __init__(self, n: int, classes: int) -> None:
        self.n, self.classes = n, classes

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((1, 4, 4), float(index % self.classes)), index % self.classes


class TestSplits:
    def test_a_torch_dataset_is_trained_on(self, tmp_path: Path) -> None:
        settings = TrainSettings(
            model=ModelSpec.parse("digits:4"), epochs=1, batch_size=20, select_draws=1, validation=0.2
        )
        splits = Splits(Pairs(60, 3), Pairs(9, 3))  # type: ignore[arg-type]
        run = fit(settings, tmp_path, splits=splits)
        assert run.checkpoint.is_file()
        assert (splits.crop, splits.flip) == (0, False)

    def test_tensors_are_too(self) -> None:
        x, y = torch.rand(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
        assert Splits((x, y), (x, y)).train.fingerprint == as_dataset((x, y)).fingerprint  # type: ignore[arg-type]

    def test_both_parts_know_all_classes(self) -> None:
        splits = Splits(Pairs(60, 3), Pairs(9, 2))  # type: ignore[arg-type]
        assert splits.train.classes == splits.test.classes == ("0", "1", "2")
        splits = Splits(Pairs(60, 2), Pairs(9, 3))  # type: ignore[arg-type]
        assert splits.train.classes == splits.test.classes == ("0", "1", "2")

    @pytest.mark.parametrize(
        ("train", "test", "message"),
        [
            (
                {"classes": ("cat", "dog", "eel")},
                {"classes": ("cat", "elk", "eel")},
                "expected the same classes in train and test, got dog, elk in only one of them",
            ),
            (
                {"classes": ("cat", "dog", "eel")},
                {"classes": ("dog", "cat", "eel")},
                "expected the same classes in train and test, got another order in only one of them",
            ),
            ({}, {"images": torch.rand(6, 4)}, "expected 2 channels in train and test, got 4"),
        ],
    )
    def test_refusals(self, train: dict[str, Any], test: dict[str, Any], message: str) -> None:
        from dataclasses import replace

        data = as_dataset((torch.rand(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])))
        with pytest.raises(UserError, match=re.escape(message)):
            Splits(replace(data, **train), replace(data, **test))  # type: ignore[type-var]
