"""Images that stay on disk: what is read is what plain functions read, whoever reads it and in whatever portions."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.io import write_jpeg
from torchvision.transforms.v2 import functional

import noiserobust
from noiserobust.data import Batch, Streamed, StreamedBatches, feed, held_batches, load, training_batches
from noiserobust.data.images import read_image
from noiserobust.errors import UserError
from noiserobust.evaluation import Compute
from noiserobust.models import ModelSpec
from noiserobust.rng import Stream
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.training import TrainSettings, fit

STREAM = Stream(3, "test")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of JPEGs of unequal sizes: one bright on the left, one on the right, 12 to train and 4 to test."""
    root = tmp_path_factory.mktemp("images")
    generator = STREAM.child("images").generator()
    for part, count in (("train", 6), ("val", 2)):
        for label, side in (("left", 0), ("right", 1)):
            (root / part / label).mkdir(parents=True)
            for index in range(count):
                height, width = 40 + 4 * index, 60 - 2 * index
                image = torch.randint(0, 90, (3, height, width), generator=generator).to(torch.uint8)
                half = width // 2
                image[:, :, side * half : (side + 1) * half] += 150
                write_jpeg(image, str(root / part / label / f"{index}.JPEG"), quality=95)
    return root


def streamed(folder: Path, workers: int = 0, size: int = 24) -> Streamed:
    data = load(f"stream:{folder}", image_size=size).train
    assert isinstance(data, Streamed)
    return replace(data, workers=workers)


def refused(message: str) -> Any:
    return pytest.raises(UserError, match=re.escape(message))


class TestWhatIsRead:
    def test_the_folder(self, folder: Path) -> None:
        splits = load(f"stream:{folder}")
        train = splits.train
        assert isinstance(train, Streamed)
        assert (len(train), len(splits.test), train.channels, train.size) == (12, 4, 3, 224)
        assert train.classes == splits.test.classes == ("left", "right")
        assert train.labels.tolist() == [0] * 6 + [1] * 6
        assert [Path(file).name for file in train.files[:2]] == ["0.JPEG", "1.JPEG"]
        assert (splits.crop, splits.flip, train.mean[0]) == (0, True, 0.485)

    def test_tests_see_the_middle_of_the_scaled_image(self, folder: Path) -> None:
        data = streamed(folder)
        batches = list(StreamedBatches(data, 5))
        assert [len(batch) for batch in batches] == [5, 5, 2]
        found = Batch.join(batches)
        assert torch.equal(found.labels, data.labels)
        assert found.indices is not None
        assert torch.equal(found.indices, torch.arange(12))
        mean, std = torch.tensor(data.mean)[:, None, None], torch.tensor(data.std)[:, None, None]
        for row, file in enumerate(data.files):
            image = functional.resize(read_image(file), [27])  # 24 x 256 / 224
            assert min(image.shape[1:]) == 27
            top, left = (round((side - 24) / 2) for side in image.shape[1:])
            middle = image[:, top : top + 24, left : left + 24]
            torch.testing.assert_close(found.inputs[row], (middle.float() / 255 - mean) / std)
        assert torch.equal(data.example(), found.inputs[:1])

    def test_training_parts_are_torchvisions(self, folder: Path) -> None:
        from torchvision.transforms import v2

        data, seed = streamed(folder), 1234
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            expected = v2.RandomResizedCrop(24, antialias=True)(read_image(data.files[7]))
            assert torch.equal(data.trained(7, seed, flip=False), expected)
        assert not torch.equal(data.trained(7, seed + 1, flip=False), expected)

    def test_mirrors_with_probability_one_half(self, folder: Path) -> None:
        data, n = streamed(folder, size=8), 400
        # The bright half tells; a part of one half alone does not, so compare with the same part unmirrored.
        mirrored = sum(
            not torch.equal(data.trained(0, seed, flip=True), data.trained(0, seed, flip=False)) for seed in range(n)
        )
        assert abs(mirrored - n / 2) < 5 * (n / 4) ** 0.5  # 5 sd: false alarm below 1e-6


class TestEpochs:
    @pytest.mark.parametrize("stream", [STREAM, None], ids=["train", "test"])
    def test_neither_workers_nor_batch_size_matter(self, folder: Path, stream: Stream | None) -> None:
        def epoch(workers: int, size: int, n: int = 1) -> Batch:
            data = streamed(folder, workers)
            return Batch.join(list(StreamedBatches(data, size, stream=stream, flip=True, cutout=5).epoch(n)))

        plain = epoch(0, 12)
        assert plain.indices is not None
        for workers, size in ((2, 5), (0, 5)):
            found = epoch(workers, size)
            assert found.indices is not None
            assert torch.equal(found.inputs, plain.inputs)
            assert torch.equal(found.indices, plain.indices)
            assert torch.equal(found.labels, plain.labels)
        other = epoch(0, 12, n=2)
        assert torch.equal(other.inputs, plain.inputs) == (stream is None)
        assert sorted(plain.indices.tolist()) == list(range(12))
        assert (plain.indices.tolist() != list(range(12))) == (stream is not None)

    def test_labels_and_indices_travel_with_their_images(self, folder: Path) -> None:
        data = streamed(folder)
        for batch in StreamedBatches(data, 5, stream=STREAM).epoch(0):
            assert batch.indices is not None
            assert torch.equal(batch.labels, data.labels[batch.indices])
        # Unmirrored test images are brighter on the side of their class.
        found = Batch.join(list(StreamedBatches(data, 5)))
        brighter = (found.inputs[..., 12:].mean((1, 2, 3)) > found.inputs[..., :12].mean((1, 2, 3))).long()
        assert torch.equal(brighter, found.labels)

    def test_it_is_a_sequence_of_batches(self, folder: Path) -> None:
        batches = StreamedBatches(streamed(folder), 5)
        once = list(batches)
        assert len(batches) == len(once) == 3
        for index in (0, 2, -1):
            assert torch.equal(batches[index].inputs, once[index].inputs)
        assert [len(batch) for batch in batches[1:]] == [5, 2]
        with pytest.raises(IndexError):
            batches[3]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_global_generator_is_left_alone(self, folder: Path, workers: int) -> None:
        state = torch.get_rng_state()
        list(StreamedBatches(streamed(folder, workers), 5, stream=STREAM, flip=True, cutout=4).epoch(0))
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("last", [True, False])
    def test_memory_format(self, folder: Path, last: bool) -> None:
        form = torch.channels_last if last else torch.contiguous_format
        for cutout in (0, 5):
            batches = StreamedBatches(streamed(folder), 5, stream=STREAM, channels_last=last, cutout=cutout)
            assert batches[0].inputs.is_contiguous(memory_format=form)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_an_unreadable_image_is_one_line(self, folder: Path, tmp_path: Path, workers: int) -> None:
        data = streamed(folder, workers)
        (tmp_path / "bad.JPEG").write_bytes(b"junk")
        data = replace(data, files=(*data.files[:4], str(tmp_path / "bad.JPEG"), *data.files[5:]))
        with refused(f"expected an image, got something unreadable in {tmp_path}/bad.JPEG") as caught:
            list(StreamedBatches(data, 5))
        assert "\n" not in str(caught.value)


class TestParts:
    def test_samples_and_splits_are_those_of_the_base(self, folder: Path) -> None:
        data = streamed(folder)
        rest, held = data.split(0.25, STREAM)
        assert (len(rest), len(held)) == (9, 3)
        assert set(rest.files) | set(held.files) == set(data.files)
        assert [Path(file).parent.name for file in held.files] == [held.classes[label] for label in held.labels]
        assert torch.bincount(data.sample(6, STREAM).labels).tolist() == [3, 3]
        assert data.with_normalization((0.0,), (1.0,)).example().max() <= 1

    def test_fingerprint(self, folder: Path, tmp_path: Path) -> None:
        data = streamed(folder)
        assert streamed(folder, workers=3).fingerprint == data.fingerprint
        longer = tmp_path / "left" / "0.JPEG"
        longer.parent.mkdir()
        longer.write_bytes(Path(data.files[0]).read_bytes() + b" ")
        others = [
            data.subset([0, 1]),
            streamed(folder, size=25),
            replace(data, labels=1 - data.labels),
            replace(data, files=(str(longer), *data.files[1:])),
        ]
        assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 5

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"size": 0}, "expected a size >= 1 and workers >= 0, got 0 and 0"),
            ({"workers": -1}, "expected a size >= 1 and workers >= 0, got 24 and -1"),
        ],
    )
    def test_refusals(self, folder: Path, change: dict[str, int], message: str) -> None:
        with refused(message):
            replace(streamed(folder), **change)
        with refused("expected positions 0 to 11, got 0 to 12"):
            streamed(folder).subset([0, 12])
        with refused("expected a batch size of 1 or more, got 0"):
            StreamedBatches(streamed(folder), 0)
        with refused("expected a cutout of 0 pixels or more, got -1"):
            StreamedBatches(streamed(folder), 4, cutout=-1)
        with refused("expected crop=0 with streamed images, got 4"):
            training_batches(streamed(folder), 4, device=CPU, stream=STREAM, crop=4)

    def test_few_test_images_are_kept_and_many_are_read_again(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = streamed(folder)
        kept = held_batches(data, 5, device=CPU)
        assert isinstance(kept, list)
        monkeypatch.setattr(feed, "KEPT", 12 * 4 * 3 * 24**2 - 1)
        read = held_batches(data, 5, device=CPU)
        assert isinstance(read, StreamedBatches)
        for _ in range(2):
            assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(kept, read, strict=True))


class TestUse:
    def settings(self, folder: Path) -> TrainSettings:
        return TrainSettings(
            data=f"stream:{folder}",
            image_size=16,
            model=ModelSpec.parse("resnet18:2"),
            epochs=2,
            batch_size=4,
            select_draws=1,
            validation=0.2,
            cutout=3,
        )

    def test_training_and_evaluation(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("noiserobust.data.streamed._cores", lambda: 0)
        settings = self.settings(folder)
        run = fit(settings, tmp_path)
        again = fit(settings, tmp_path / "again")
        assert run.folder.name == again.folder.name
        first, second = (read_checkpoint(one.checkpoint).weights for one in (run, again))
        assert all(torch.equal(first[name], second[name]) for name in first)

        results = []
        for kept in (feed.KEPT, 0):
            monkeypatch.setattr(feed, "KEPT", kept)
            test = load(settings.data, image_size=16).test
            results.append(
                noiserobust.evaluate(run.checkpoint, test, "gaussian:0.1", draws=2, compute=Compute(batch_size=3)).rows
            )
        values: list[Tensor] = [torch.tensor(rows["value"].to_numpy()) for rows in results]
        torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)
        assert set(results[0]["images"]) == {4}

    def test_a_network_that_takes_no_such_images_is_refused_before_training(self, folder: Path, tmp_path: Path) -> None:
        settings = replace(self.settings(folder), model=ModelSpec.parse("vit-cifar:16,depth=1"))
        with refused("takes inputs of shape (3, 16, 16), got vit-cifar:16,depth=1: Wrong image height!"):
            fit(settings, tmp_path)


def test_imagenet_says_what_to_put_where(folder: Path, tmp_path: Path) -> None:
    with refused(f"expected ImageNet in {tmp_path}/imagenet, got none") as caught:
        load("imagenet", tmp_path)
    assert "put the images of ILSVRC2012 into train/<class>/ and val/<class>/ there" in str(caught.value)
    (tmp_path / "imagenet").symlink_to(folder)
    data = load("imagenet", tmp_path).train
    assert isinstance(data, Streamed)
    assert (len(data), data.size) == (12, 224)


def test_ranks_share_every_batch(folder: Path) -> None:
    """Together the parts are the batch to the bit, cut, mirrored and blanked as one process would."""
    data = load(f"stream:{folder}", image_size=24).train
    batches = StreamedBatches(data, 5, stream=STREAM, flip=True, cutout=6)
    parts = zip(*(batches.epoch(2, rank, 2) for rank in range(2)), strict=True)
    for whole, pieces in zip(batches.epoch(2), parts, strict=True):
        joined = Batch.join(pieces)
        assert torch.equal(joined.inputs, whole.inputs)
        assert torch.equal(joined.indices, whole.indices)
        assert [piece.share for piece in pieces] == [2 * len(piece) / len(whole) for piece in pieces]
