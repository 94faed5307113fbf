"""A fixed part of the training images: which they are, that nothing else is seen, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from noiserobust.data import Dataset, DataSource, Splits, load
from noiserobust.errors import UserError
from noiserobust.rng import Stream
from noiserobust.training import TrainSettings, fit
from noiserobust.training import trainer as trainer_module


def of_digits(per_class: int, **more: int) -> Splits:
    given = "".join(f",{name}={value}" for name, value in more.items())
    return load(f"subset:digits,per_class={per_class}{given}")


def images(data: Any) -> list[bytes]:
    """Every image as its bytes."""
    return [image.numpy().tobytes() for image in data.images]


class TestWhichImages:
    def test_so_many_of_each_class_and_all_test_images(self) -> None:
        whole, part = load("digits"), of_digits(7)
        assert torch.bincount(part.train.labels).tolist() == [7] * 10
        assert part.test.fingerprint == whole.test.fingerprint
        assert (part.train.mean, part.train.std, part.crop) == (whole.train.mean, whole.train.std, whole.crop)
        assert part.validation is None

    def test_they_are_the_first_of_a_named_order_of_their_class(self) -> None:
        """A loop as the docstring says it."""
        whole, wanted = load("digits").train, list[int]()
        for number in range(10):
            places = [place for place, label in enumerate(whole.labels.tolist()) if label == number]
            order = torch.randperm(len(places), generator=Stream(0, "subset", number).generator()).tolist()
            wanted += sorted(places[rank] for rank in order[:7])
        assert images(of_digits(7).train) == images(whole.subset(wanted))

    def test_always_the_same(self) -> None:
        assert of_digits(5, validation=2).train.fingerprint == "705b10f929535b7f"

    def test_a_smaller_one_is_part_of_a_larger_one(self) -> None:
        small, large = of_digits(5, validation=3), of_digits(20, validation=3)
        assert set(images(small.train)) < set(images(large.train))
        assert images(small.validation) == images(large.validation)

    def test_how_classes_are_interleaved_does_not_matter(self) -> None:
        """Class by class or shuffled, as image folders and archives are: the same images, where each class keeps its
        order."""
        whole = load("digits")
        by_class = whole.train.subset(whole.train.labels.argsort(stable=True))
        sorted_, mixed = (Given(data, whole.test) for data in (by_class, whole.train))
        parts = [Part(of=given, per_class=6, validation=2).load() for given in (sorted_, mixed)]
        assert parts[0].content == parts[1].content

    def test_nothing_is_in_two_parts(self) -> None:
        part = of_digits(20, validation=30)
        assert torch.bincount(part.validation.labels).tolist() == [30] * 10  # type: ignore[union-attr]
        assert not set(images(part.train)) & set(images(part.validation))


@dataclass(frozen=True)
class Given(DataSource):
    """Data that a test made."""

    train: Any = None
    test: Any = None

    def read(self, root: str | Path, image_size: int | None) -> Splits:
        return Splits(self.train, self.test)


Part = DataSource.registry["subset"]


class TestTexts:
    def test_of_a_folder(self) -> None:
        source = DataSource.parse("subset:folder(/some/where),per_class=5,validation=2")
        assert (str(source.of), source.per_class, source.validation) == ("folder:/some/where", 5, 2)
        assert DataSource.parse(str(source)) == source
        assert DataSource.parse("subset:folder(/some/where),5,validation=2") == source

    def test_whether_the_data_are_here(self, tmp_path: Path) -> None:
        text = "subset:cifar10,per_class=5"
        assert not DataSource.parse(text).lies_in(tmp_path)
        (tmp_path / "cifar-10-batches-py").mkdir()
        assert DataSource.parse(text).lies_in(tmp_path)
        assert DataSource.parse("digits").lies_in(tmp_path)
        assert not DataSource.parse(f"subset:folder({tmp_path}/a),per_class=5").lies_in(tmp_path)
        assert DataSource.parse(f"subset:folder({tmp_path}),per_class=5").lies_in("nowhere")

    def test_images_of_a_folder_are_resized_as_the_folder_does(self, tmp_path: Path) -> None:
        for part, name, number in itertools.product(("train", "test"), ("a", "b"), range(3)):
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (6, 8), (number, 0, 0)).save(tmp_path / part / name / f"{number}.png")
        part = load(f"subset:{tmp_path},per_class=2", image_size=4)
        assert part.train.images.shape == (4, 3, 4, 4)  # type: ignore[union-attr]
        with pytest.raises(UserError, match="expected image_size only with an image folder, got 4 for digits"):
            load("subset:digits,per_class=2", image_size=4)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("subset:digits,per_class=0", "expected per_class of 1 or more"),
            ("subset:digits,per_class=3,validation=-1", "validation of 0 or more"),
            ("subset:digits,per_class=2000", "expected at most 1.. images a class, as many as the smallest class"),
            ("subset:digits,per_class=100,validation=100", "got 100 for training and 100 for validation"),
            ("subset:digits", "subset needs per_class"),
            ("subset:nowhere,per_class=3", "expected cifar10, cifar100, digits"),
            ("subset:sums(labels=tokens),per_class=3", "expected data with a class for each sample, got sums"),
        ],
    )
    def test_bad_ones_are_one_line(self, text: str, said: str) -> None:
        with pytest.raises(UserError, match=said):
            load(text)


class TestTraining:
    few = TrainSettings(data="subset:digits,per_class=6,validation=3", model="digits:2", epochs=2, batch_size=16)

    def test_watches_the_images_beside_and_trains_on_all_of_the_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, Any] = {}
        made = trainer_module.training_batches

        def spied(data: Any, *args: Any, **options: Any) -> Any:
            seen["train"] = data
            return made(data, *args, **options)

        monkeypatch.setattr(trainer_module, "training_batches", spied)
        part = load(self.few.data)
        run = fit(self.few, tmp_path, splits=part)
        assert seen["train"].fingerprint == part.train.fingerprint
        shares = run.log["accuracy"] / 100 * 30
        assert shares.tolist() == pytest.approx(shares.round().tolist())
        logged = fit(dataclasses.replace(self.few, log=("loss",), log_on=("validation",)), tmp_path / "log").log
        assert logged["validation/loss"].tolist() == pytest.approx(logged["loss"].tolist(), rel=1e-4)

    def test_what_is_watched_is_part_of_the_name(self) -> None:
        part = load(self.few.data)
        assert isinstance(part.train, Dataset)
        unwatched = dataclasses.replace(part, validation=None)
        assert self.few.identity(part) != self.few.identity(unwatched)
        assert self.few.identity(part) == self.few.identity(part.content)

    def test_all_parts_are_seen_through_the_normalisation_that_is_set(self) -> None:
        of = dataclasses.replace(self.few, mean=(0.5,), std=(2.0,))
        seen = of.normalized(load(of.data))
        assert {part.mean for part in (seen.train, seen.test, seen.validation)} == {(0.5,)}  # type: ignore[union-attr]
        assert of.identity(seen) == of.identity(load(of.data)) != self.few.identity(load(of.data))
