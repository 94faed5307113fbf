"""Data sets, batches and loaders, against plain per-sample twins."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchvision.io import write_jpeg, write_png

from noiserobust.data import Batch, Batches, Dataset, as_dataset, load
from noiserobust.data.batches import crop_and_flip, cut_out
from noiserobust.data.dataset import channel_statistics
from noiserobust.errors import UserError
from noiserobust.rng import Stream

STREAM = Stream(7, "test")


def noise_images(n: int, channels: int = 3, height: int = 6, width: int = 5) -> Tensor:
    shape = (n, channels, height, width)
    # From 1, so that a zero can only be padding.
    return torch.randint(1, 256, shape, generator=STREAM.child("images").generator()).to(torch.uint8)


def dataset(n: int = 40, classes: int = 4) -> Dataset:
    """Images sorted by class, as image folders are, in classes of unequal size."""
    labels = (torch.arange(n).float() / n).square().mul(classes).long()
    return Dataset(noise_images(n), labels, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


def refused(message: str) -> Any:
    return pytest.raises(UserError, match=re.escape(message))


class TestDataset:
    def test_normalized_is_the_formula(self) -> None:
        data = dataset()
        mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
        expected = (data.images.float() / 255 - mean[:, None, None]) / std[:, None, None]
        torch.testing.assert_close(data.normalized(), expected)
        rows = torch.tensor([3, 1])
        torch.testing.assert_close(data.normalized(rows), expected[rows])
        assert data.normalized().dtype == torch.float32

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_floats_are_taken_as_they_are(self, dtype: torch.dtype) -> None:
        x = torch.randn(4, 3, generator=STREAM.generator()).to(dtype)
        kept = x.clone()
        data = as_dataset((x, torch.tensor([0, 1, 0, 1])))
        assert torch.equal(data.normalized(), x.float())
        assert torch.equal(data.images, kept)
        assert data.channels == 3
        assert len(data.fingerprint) == 16

    def test_another_normalization(self) -> None:
        data = dataset().with_normalization((0.0,), (1.0,))
        torch.testing.assert_close(data.normalized(), data.images / 255)

    def test_statistics(self) -> None:
        images = noise_images(50)
        expected = images.double().div(255)
        for pixels in (images, expected):
            mean, std = channel_statistics(pixels)
            np.testing.assert_allclose(mean, expected.mean((0, 2, 3)), rtol=1e-12)
            np.testing.assert_allclose(std, expected.std((0, 2, 3), correction=0), rtol=1e-12)
        assert channel_statistics(torch.full((2, 1, 3, 3), 9, dtype=torch.uint8))[1] == (1.0,)

    def test_statistics_are_the_same_to_the_last_bit_everywhere_since_runs_are_named_by_them(self) -> None:
        """With NumPy 2.2's or 2.4's sums, torch's on any processor: the sums of these differ in the last place."""
        digits = load("digits").train
        assert repr(digits) == "Dataset('digits': 1297 x 1 x 8 x 8, 10 classes, network sees (x - .305) / .376)"
        assert (digits.mean, digits.std) == ((0.30515206365651504,), (0.37627179588010223,))
        squares = torch.arange(12288).square().div(811, rounding_mode="floor").remainder(256)
        found = channel_statistics(squares.to(torch.uint8).view(64, 3, 8, 8))
        assert found[0] == (0.4998410692401961, 0.4815132889093137, 0.4981339996936274)
        assert found[1] == (0.29607124923611133, 0.29267113415055446, 0.28661635574813493)

    def test_fingerprint_names_images_and_labels(self) -> None:
        data = dataset()
        same = Dataset(data.images.clone(memory_format=torch.channels_last), data.labels.int())
        assert same.fingerprint == data.fingerprint
        other_image, other_label = data.images.clone(), data.labels.clone()
        other_image[-1, -1, -1, -1] ^= 1
        other_label[-1] -= 1
        others = [Dataset(other_image, data.labels), Dataset(data.images, other_label), data.subset(range(39))]
        assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 4

    def test_split_is_disjoint_stratified_and_random(self) -> None:
        data = dataset(n=400)
        data = Dataset(data.images, data.labels, name="named")
        rest, held = data.split(0.2, STREAM)
        assert (len(rest), len(held), held.name) == (320, 80, "named")
        rows = {tuple(image.flatten().tolist()) for image in data.images}
        parts = [{tuple(image.flatten().tolist()) for image in part.images} for part in (rest, held)]
        assert parts[0] | parts[1] == rows
        assert not parts[0] & parts[1]
        counts = torch.bincount(data.labels)
        assert ((torch.bincount(held.labels) - 0.2 * counts).abs() <= 1).all()
        assert held.labels.equal(held.labels.sort().values), "both parts keep the order they had"
        assert data.split(0.2, STREAM)[1].fingerprint == held.fingerprint
        assert data.split(0.2, STREAM.child(1))[1].fingerprint != held.fingerprint

    @pytest.mark.parametrize("n", [1, 4, 37, 100, 400])
    def test_every_sample_is_stratified_and_a_prefix_of_larger_ones(self, n: int) -> None:
        data = dataset(n=400)
        sample = data.sample(n, STREAM)
        counts = torch.bincount(data.labels).double()
        share = counts * n / 400
        # Each class may be off by less than its own rounding and that of the others together.
        assert ((torch.bincount(sample.labels, minlength=4) - share).abs() < 2).all()
        assert torch.equal(sample.images, data.sample(400, STREAM).images[:n])

    def test_a_sample_has_equal_classes_where_it_can(self) -> None:
        data = Dataset(noise_images(200), torch.arange(200) // 20)
        assert torch.bincount(data.sample(50, STREAM).labels).tolist() == [5] * 10

    def test_random_parts_ignore_and_leave_the_global_generator(self) -> None:
        data = dataset()
        state = torch.get_rng_state()
        first = data.sample(10, STREAM).fingerprint
        epoch = [batch.inputs for batch in Batches(data, 7, stream=STREAM, crop=1, flip=True).epoch(0)]
        assert torch.equal(torch.get_rng_state(), state)
        with torch.random.fork_rng():
            torch.manual_seed(123)
            assert data.sample(10, STREAM).fingerprint == first
            again = [batch.inputs for batch in Batches(data, 7, stream=STREAM, crop=1, flip=True).epoch(0)]
        assert all(map(torch.equal, epoch, again))

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda d: d.sample(0, STREAM), "expected a sample of 1 to 40 images of data, got 0"),
            (lambda d: d.sample(41, STREAM), "expected a sample of 1 to 40 images of data, got 41"),
            (lambda d: d.split(1.0, STREAM), "leaves both parts some of 40 images, got 1.0"),
            (lambda d: d.split(0.001, STREAM), "leaves both parts some of 40 images, got 0.001"),
            (lambda d: d.subset([]), "expected a non-empty list of positions"),
            (lambda d: d.subset([0, 40]), "expected positions 0 to 39, got 0 to 40"),
            (lambda d: d.subset([-1]), "expected positions 0 to 39, got -1 to -1"),
            (lambda d: d.with_normalization((0, 0), (1,)), "mean of 1 or 3 values (one per channel), got 2"),
            (lambda d: d.with_normalization((0,), (0,)), "a finite std above 0"),
        ],
    )
    def test_refusals(self, call: Callable[[Dataset], object], message: str) -> None:
        with refused(message):
            call(dataset())


class TestAsDataset:
    x, y = noise_images(6), torch.tensor([0, 1, 2, 0, 1, 2])

    def test_accepts_what_people_have(self) -> None:
        data = as_dataset((self.x, self.y))
        assert as_dataset(data) is data
        read_only = self.x.numpy().copy()
        read_only.setflags(write=False)
        pairs = TensorDataset(self.x, self.y)
        for same in (
            (read_only, self.y.int().numpy()),
            (self.x, [0, 1, 2, 0, 1, 2]),
            pairs,
            [(image, int(label)) for image, label in zip(self.x, self.y, strict=True)],
            DataLoader(pairs, batch_size=4),
            DataLoader(pairs, batch_size=4, shuffle=True),
        ):
            found = as_dataset(same)
            assert found.fingerprint == data.fingerprint, type(same)
            assert found.classes == ("0", "1", "2")

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ((x, y[:5]), "expected one label for each of 6 images, got labels of shape (5,)"),
            ((x[:0], y[:0]), "none of them 0, got (0, 3, 6, 5)"),
            ((x[:, 0], y), "expected uint8 images of shape N x C x H x W, got (6, 6, 5)"),
            ((x.permute(0, 2, 3, 1), y), "got (6, 6, 5, 3): channels come second, permute(0, 3, 1, 2)"),
            ((x.long(), y), "expected images as uint8 (0..255) or floating point, got torch.int64"),
            ((["a"], y), "expected images as a tensor or an array of numbers, got list"),
            ([("image", 1)], "expected data that yields (tensor, label), got (str, int): add a transform"),
            ([], "expected data with at least one sample, got none"),
            ([(x[0], 0), (x[0, :, :4], 1)], "expected samples of one shape, got (3, 4, 5) and (3, 6, 5)"),
            (7, "expected a Dataset, a tuple (x, y), a torch dataset or a DataLoader, got int"),
        ],
    )
    def test_refusals(self, data: object, message: str) -> None:
        with refused(message):
            as_dataset(data)

    def test_a_dataset_is_of_class_numbers(self) -> None:
        with refused("expected integer labels (class numbers), got torch.float32"):
            Dataset(self.x, self.y.float())
        with refused("expected labels of 0 or more, got -1 to 1"):
            Dataset(self.x, self.y - 1)

    def test_labels_must_have_a_class(self) -> None:
        with refused("expected labels of 0 to 1, got 0 to 2"):
            Dataset(self.x, self.y, classes=("a", "b"))


class TestBatches:
    def test_crop_and_flip_equals_one_image_at_a_time(self) -> None:
        pixels, crop = noise_images(30), 2
        generator = STREAM.generator()
        top, left = (torch.randint(5, (30,), generator=generator) for _ in range(2))
        mirror = torch.randint(2, (30,), generator=generator)
        found = crop_and_flip(pixels, crop, top, left, mirror)
        for i in range(30):
            padded = np.zeros((3, 6 + 4, 5 + 4), dtype=np.uint8)
            padded[:, 2:8, 2:7] = pixels[i]
            expected = padded[:, top[i] : top[i] + 6, left[i] : left[i] + 5]
            np.testing.assert_array_equal(found[i], expected[:, :, ::-1] if mirror[i] else expected)
        assert found.dtype == torch.uint8
        assert found.is_contiguous(memory_format=torch.channels_last)

    def test_augmentation_is_drawn_per_image_and_uniform(self) -> None:
        # One bright pixel in the middle of each image tells where its crop lay; two tell whether it was mirrored.
        n, crop = 4000, 2
        images = torch.zeros(n, 1, 9, 9, dtype=torch.uint8)
        images[:, :, 4, 4], images[:, :, 4, 5] = 255, 100
        data = Dataset(images, torch.arange(n) % 2)
        (batch,) = Batches(data, n, stream=STREAM, crop=crop, flip=True).epoch(0)
        place = (batch.inputs[:, 0] == 1).flatten(1).int().argmax(1)
        dimmer = (batch.inputs[:, 0] > 0).logical_and(batch.inputs[:, 0] < 1).flatten(1).int().argmax(1)
        mirrored = dimmer < place
        counts = torch.stack([place // 9, place % 9], 1).sub(2)
        # A bin of probability p holds n p ± 5 sd: 25 + 2 bins, false alarm below 2e-5.
        where = torch.bincount(counts[:, 0] * 5 + counts[:, 1], minlength=25)
        assert len(where) == 25
        assert (where - n / 25).abs().max() < 5 * (n * 0.04 * 0.96) ** 0.5
        assert abs(int(mirrored.sum()) - n / 2) < 5 * (n / 4) ** 0.5

    @pytest.mark.parametrize("side", [1, 2, 3, 4, 20])
    def test_cutout_equals_one_image_at_a_time(self, side: int) -> None:
        inputs = noise_images(30).float()
        generator = STREAM.generator()
        centres = torch.stack([torch.randint(n, (30,), generator=generator) for n in (6, 5)], 1)
        found = cut_out(inputs.clone(), side, centres)
        for i, (y, x) in enumerate(centres.tolist()):
            expected = inputs[i].clone()
            top, left = y - side // 2, x - side // 2
            expected[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 0
            assert torch.equal(found[i], expected)
        for form in (torch.channels_last, torch.contiguous_format):
            assert cut_out(inputs.clone(memory_format=form), side, centres).is_contiguous(memory_format=form)

    def test_cutout_is_drawn_per_image_and_uniform(self) -> None:
        n = 4000
        data = Dataset(torch.full((n, 1, 7, 5), 200, dtype=torch.uint8), torch.arange(n) % 2)
        options: dict[str, Any] = {"stream": STREAM, "cutout": 1}
        (batch,) = Batches(data, n, **options).epoch(0)
        holes = (batch.inputs[:, 0] == 0).flatten(1)
        assert torch.equal(holes.sum(1), torch.ones(n).long())
        # A pixel's count is n p ± 5 sd: 35 of them, false alarm below 3e-5.
        assert (holes.sum(0) - n / 35).abs().max() < 5 * (n / 35 * 34 / 35) ** 0.5
        (other,) = Batches(data, n, **options).epoch(1)
        assert not torch.equal(other.inputs, batch.inputs)
        portions = torch.cat([part.inputs for part in Batches(data, 700, **options).epoch(0)])
        assert torch.equal(portions, batch.inputs), "the batch size does not matter"

    def test_cutout_changes_nothing_else(self) -> None:
        data = dataset()
        plain, cut = (
            Batch.join(list(Batches(data, 40, stream=STREAM, crop=2, flip=True, cutout=side).epoch(0)))
            for side in (0, 3)
        )
        assert torch.equal(plain.indices, cut.indices)
        same = plain.inputs == cut.inputs
        assert torch.equal(cut.inputs[~same], torch.zeros(int((~same).sum())))
        blanked = (~same).any(1).flatten(1).sum(1)
        assert 4 <= int(blanked.max()) <= 9
        (untouched,) = Batches(data, 40, cutout=3).epoch(0)
        assert torch.equal(untouched.inputs, data.normalized()), "nothing is cut out without a stream"

    @pytest.mark.parametrize("options", [{"crop": 2, "flip": True}, {"crop": 1}, {"flip": True}, {}])
    def test_indices_travel_with_their_images(self, options: dict[str, Any]) -> None:
        images = torch.arange(1, 41, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 1, 6, 6)
        data = Dataset(images, torch.arange(40) % 4)
        seen = []
        for batch in Batches(data, 7, stream=STREAM, **options).epoch(3):
            brightest = (batch.inputs * 255).round().flatten(1).amax(1).long() - 1
            assert torch.equal(brightest, batch.indices)
            assert torch.equal(batch.labels, batch.indices % 4)
            seen += batch.indices.tolist()
        assert sorted(seen) == list(range(40))
        assert seen != sorted(seen)

    def test_an_epoch_depends_on_its_name_alone(self) -> None:
        data = dataset()

        def epoch(n: int, size: int = 7, stream: Stream = STREAM) -> Tensor:
            return torch.cat([batch.inputs for batch in Batches(data, size, stream=stream, crop=2, flip=True).epoch(n)])

        batches = Batches(data, 7, stream=STREAM, crop=2, flip=True)
        for _ in range(2):
            list(batches.epoch(0))
        assert torch.equal(torch.cat([batch.inputs for batch in batches.epoch(5)]), epoch(5))
        assert torch.equal(epoch(5, size=16), epoch(5)), "not even the batch size matters"
        assert not torch.equal(epoch(6), epoch(5))
        assert not torch.equal(epoch(5, stream=STREAM.child(1)), epoch(5))

    def test_every_epoch_is_augmented_anew(self) -> None:
        # All images are one image, so that only the augmentation can tell the epochs apart.
        data = Dataset(noise_images(1).expand(40, -1, -1, -1), torch.zeros(40).long())
        batches = Batches(data, 40, stream=STREAM, crop=2)
        assert not torch.equal(next(batches.epoch(0)).inputs, next(batches.epoch(1)).inputs)

    def test_without_a_stream_in_order_and_as_they_are(self) -> None:
        data = dataset()
        batches = list(Batches(data, 7, crop=2, flip=True).epoch(0))
        assert torch.equal(torch.cat([batch.inputs for batch in batches]), data.normalized())
        assert torch.equal(torch.cat([batch.indices for batch in batches]), torch.arange(40))
        assert torch.equal(torch.cat([batch.labels for batch in batches]), data.labels)

    @pytest.mark.parametrize(
        ("size", "drop", "sizes"), [(40, False, [40]), (15, False, [15, 15, 10]), (15, True, [15, 15])]
    )
    def test_lengths(self, size: int, drop: bool, sizes: list[int]) -> None:
        batches = Batches(dataset(), size, stream=STREAM, drop_last=drop)
        assert [len(batch) for batch in batches.epoch(0)] == sizes
        assert len(batches) == len(sizes)

    @pytest.mark.parametrize("stream", [STREAM, None])
    def test_memory_format(self, stream: Stream | None) -> None:
        for last, form in ((True, torch.channels_last), (False, torch.contiguous_format)):
            batch = next(Batches(dataset(), 7, stream=stream, crop=1, channels_last=last).epoch(0))
            assert batch.inputs.is_contiguous(memory_format=form)
        flat = as_dataset((torch.ones(4, 3), torch.zeros(4).long()))
        assert next(Batches(flat, 3, stream=stream, channels_last=True).epoch(0)).inputs.shape == (3, 3)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_a_gpu_sees_the_same_epoch(self) -> None:
        data = dataset()
        for options in ({"stream": STREAM, "crop": 2, "flip": True, "cutout": 3}, {}):
            here = Batches(data, 7, **options).epoch(1)
            there = Batches(data.to("cuda"), 7, **options).epoch(1)
            for cpu, gpu in zip(here, there, strict=True):
                assert gpu.inputs.is_cuda
                torch.testing.assert_close(gpu.inputs.cpu(), cpu.inputs)
                assert torch.equal(gpu.indices.cpu(), cpu.indices)
        assert data.to("cuda").fingerprint == data.fingerprint

    def test_rows_and_micro_batches(self) -> None:
        batch = next(Batches(dataset(), 11, stream=STREAM).epoch(0))
        rows = torch.tensor([4, 0])
        assert torch.equal(batch[rows].indices, batch.indices[rows])
        parts = batch.split(3)
        assert sorted(map(len, parts)) == [3, 4, 4]
        for field in ("inputs", "labels", "indices"):
            joined = torch.cat([getattr(part, field) for part in parts])
            assert torch.equal(joined, getattr(batch, field))
        assert [len(part) for part in batch[:2].split(5)] == [1, 1]
        assert isinstance(parts[0], Batch)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda d: Batches(d, 0), "expected a batch size of 1 or more, got 0"),
            (lambda d: Batches(d, 41, drop_last=True), "at most 40 (all images) with drop_last, got 41"),
            (lambda d: Batches(d, 4, crop=-1), "expected a crop padding of 0 pixels or more, got -1"),
            (lambda d: Batches(d, 4, cutout=-1), "expected a cutout of 0 pixels or more, got -1"),
            (lambda d: next(Batches(d, 4).epoch(0)).split(0), "expected 1 micro-batch or more, got 0"),
            (
                lambda d: Batches(as_dataset((d.images[:, :, 0, 0] / 255, d.labels)), 4, flip=True),
                "use crop=0, flip=False",
            ),
        ],
    )
    def test_refusals(self, call: Callable[[Dataset], object], message: str) -> None:
        with refused(message):
            call(dataset())


class TestLoad:
    def test_digits(self) -> None:
        splits = load("digits")
        train, test = splits.train, splits.test
        assert (len(train), len(test), splits.crop, splits.flip) == (1297, 500, 1, False)
        assert train.images.shape[1:] == (1, 8, 8)
        assert train.images.max() == 1
        assert train.mean == test.mean
        assert ((torch.bincount(test.labels) / 500 - torch.bincount(train.labels) / 1297).abs() < 2 / 500).all()
        x = train.normalized()
        assert abs(float(x.mean())) < 1e-5
        assert abs(float(x.std(correction=0)) - 1) < 1e-5
        # The split is part of what results mean: it must not change from one version to the next.
        assert (train.fingerprint, test.fingerprint) == ("dae38ad8285fdaac", "31ce698f5deb122e")

    @pytest.mark.parametrize(
        ("name", "size", "message"),
        [
            (
                "mnits",
                None,
                "digits, fashion-mnist, imagenet, subset, sums, svhn, text or the path of an image folder, got 'mnits'",
            ),
            ("digits", 16, "expected image_size only with an image folder, got 16 for digits: leave it out"),
        ],
    )
    def test_refusals(self, name: str, size: int | None, message: str) -> None:
        with refused(message):
            load(name, image_size=size)

    def test_cifar(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def archive(root: str, train: bool, download: bool) -> SimpleNamespace:
            pixels = np.arange(20 * 32 * 32 * 3).reshape(20, 32, 32, 3).astype(np.uint8)
            classes = [str(c) for c in range(10)]
            return SimpleNamespace(
                data=pixels if train else pixels[:10], targets=[*range(10)] * (1 + train), classes=classes
            )

        monkeypatch.setattr("torchvision.datasets.CIFAR10", archive)
        splits = load("cifar10", tmp_path)
        assert (len(splits.train), len(splits.test), splits.crop, splits.flip) == (20, 10, 4, True)
        assert splits.train.images[0, :, 0, 1].tolist() == [3, 4, 5]
        assert splits.test.mean[0] == 0.4914


def write_folder(root: Path, size: tuple[int, int] = (16, 24)) -> Tensor:
    """A folder of PNGs, three a class in train and one in val; its training images, sorted."""
    images = noise_images(8, height=size[0], width=size[1])
    for number, (part, label, index) in enumerate(
        [("train", c, i) for c in ("cat", "dog") for i in range(3)] + [("val", c, 0) for c in ("cat", "dog")]
    ):
        (root / part / label).mkdir(parents=True, exist_ok=True)
        write_png(images[number], str(root / part / label / f"{index}.png"))
    return images[:6]


class TestFolder:
    def test_every_pixel_arrives(self, tmp_path: Path) -> None:
        images = write_folder(tmp_path)
        splits = load(str(tmp_path))
        assert torch.equal(splits.train.images, images)
        assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert splits.test.labels.tolist() == [0, 1]
        assert splits.train.classes == splits.test.classes == ("cat", "dog")
        assert (splits.crop, splits.flip, splits.train.name) == (2, True, tmp_path.name)
        assert splits.test.mean == splits.train.mean == channel_statistics(images)[0]

    def test_resizing_keeps_the_shape_of_things(self, tmp_path: Path) -> None:
        write_folder(tmp_path)
        # A white square in the middle of a black image stays a square in the middle.
        image = torch.zeros(3, 40, 80, dtype=torch.uint8)
        image[:, 10:30, 30:50] = 255
        write_jpeg(image, str(tmp_path / "val" / "cat" / "0.JPG"), quality=100)
        (tmp_path / "val" / "cat" / "0.png").unlink()
        splits = load(str(tmp_path), image_size=20)
        found = splits.test.images[0]
        assert splits.train.images.shape == (6, 3, 20, 20)
        assert (found[:, 6:14, 6:14] > 240).all()
        assert (found[:, :4] < 15).all()
        assert (found[:, :, :4] < 15).all()

    def test_other_formats_and_grey_images(self, tmp_path: Path) -> None:
        from PIL import Image

        images = write_folder(tmp_path)
        Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(tmp_path / "train" / "cat" / "0.bmp")
        (tmp_path / "train" / "cat" / "0.png").unlink()
        write_png(images[1, :1], str(tmp_path / "train" / "cat" / "1.png"))
        (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
        (tmp_path / "train" / ".hidden").mkdir()
        found = load(str(tmp_path)).train.images
        assert torch.equal(found[0], images[0])
        assert torch.equal(found[1], images[1, :1].expand(3, -1, -1))

    def test_large_images_decoded_by_threads_are_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = write_folder(tmp_path)
        monkeypatch.setattr("noiserobust.data.folder.THREADED_PIXELS", 1)
        monkeypatch.setattr("noiserobust.data.folder.CHUNK", 3)
        assert torch.equal(load(str(tmp_path)).train.images, images)

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda r: (r / "train").rename(r / "training"), "expected a folder for each class in {r}/train, got none"),
            (lambda r: (r / "val").rename(r / "valid"), "expected a folder for each class in {r}/test, got none"),
            (lambda r: (r / "val" / "cat").rename(r / "val" / "cow"), "{r}/val, got cat, cow in only one of them"),
            (lambda r: (r / "val" / "dog" / "0.png").unlink(), "in {r}/val/dog, got none: add some or remove it"),
            (lambda r: (r / "train" / "cat" / "1.png").write_bytes(b"junk"), "unreadable in {r}/train/cat/1.png ("),
            (lambda r: (r / "train" / "cat" / "1.bmp").write_bytes(b"junk"), "unreadable in {r}/train/cat/1.bmp ("),
            (lambda r: (r / "train" / "dog" / "2.png").write_bytes(b""), "unreadable in {r}/train/dog/2.png ("),
            (
                lambda r: write_png(noise_images(1)[0], str(r / "val" / "dog" / "0.png")),
                "got 16 x 24 ({r}/train/cat/0.png) and 6 x 5 ({r}/val/dog/0.png): pass image_size=... to resize them",
            ),
        ],
    )
    def test_refusals(self, tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
        write_folder(tmp_path)
        spoil(tmp_path)
        with refused(message.replace("{r}", str(tmp_path))) as caught:
            load(str(tmp_path))
        assert "\n" not in str(caught.value)

    def test_image_size_must_be_a_size(self, tmp_path: Path) -> None:
        with refused("expected an image size of 1 pixel or more, got 0"):
            load(str(tmp_path), image_size=0)
