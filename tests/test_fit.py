"""Whole runs: what is logged, kept, resumed and refused. Tiny ones: 5 steps an epoch on 200 digits."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from methods import METHODS, Failure, few_digits, same_bits
from torch import Tensor, nn

from noiserobust.analog.noisy import NoisyWeights, report_stream
from noiserobust.data import Batch, Splits, load
from noiserobust.errors import UserError
from noiserobust.minima import PathLength
from noiserobust.models import DigitsNet, ModelSpec
from noiserobust.noise import Gaussian
from noiserobust.rng import Stream
from noiserobust.storage.checkpoints import Checkpoint, find_checkpoints, read_checkpoint
from noiserobust.tasks import Classification
from noiserobust.tasks.batches import prepare
from noiserobust.tasks.scoring import score
from noiserobust.training import RWP, SAM, Engine, Method, Plain, Run, TrainSettings, fit, load_run
from noiserobust.training.identity import revised

fit_module = importlib.import_module("noiserobust.training.trainer")
"""The package's attribute of that name is the function."""


@dataclasses.dataclass(frozen=True)
class DropoutNet(ModelSpec, name="test-dropout"):
    """Batch norm and dropout, which draws from torch's global generator."""

    def build(self, channels: int, classes: int) -> nn.Module:
        head = [nn.Linear(64 * channels, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, classes)]
        return nn.Sequential(nn.Flatten(), *head)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """The network is known by name in this file alone."""
    ModelSpec.registry["test-dropout"] = DropoutNet
    yield
    del ModelSpec.registry["test-dropout"]


del ModelSpec.registry["test-dropout"]


@pytest.fixture(scope="module")
def splits() -> Splits:
    return few_digits(200)


def settings(**changes: Any) -> TrainSettings:
    few = {"model": DropoutNet(), "epochs": 3, "batch_size": 32, "validation": 0.2, "select_draws": 2}
    return TrainSettings(**(few | changes))


def stored(run: Run) -> list[Tensor]:
    return list(read_checkpoint(run.checkpoint).weights.values())


def timeless(log: pd.DataFrame) -> pd.DataFrame:
    return log.drop(columns="seconds")


class TestLog:
    def test_one_line_per_epoch(self, splits: Splits, tmp_path: Path) -> None:
        lines: list[dict[str, Any]] = []
        method = Method.parse("sam:linear(0.2,warmup=10)")
        run = fit(settings(method=method, lr=0.1), tmp_path, splits=splits, on_epoch=lines.append)
        log = run.log
        assert list(log.columns) == [
            "epoch",
            "train_loss",
            "accuracy",
            "loss",
            "perturbed_accuracy",
            "perturbed_loss",
            "strength",
            "lr",
            "max_weight",
            "max_over_rms",
            "seconds",
        ]
        pd.testing.assert_frame_equal(log, pd.DataFrame(lines))
        assert list(log.epoch) == [0, 1, 2]
        # Both are those of an epoch's last step: 4, 9 and 14 of 15.
        assert list(log.strength) == pytest.approx([0.2 * 0.4, 0.2 * 0.9, 0.2])
        assert list(log.lr) == pytest.approx([0.1 * (1 + math.cos(math.pi * s / 15)) / 2 for s in (4, 9, 14)])
        assert log.notna().all(axis=None)

    def test_numbers_are_those_of_the_weights(self, splits: Splits, tmp_path: Path) -> None:
        """The kept epoch's line, computed again from the stored weights."""
        run = fit(settings(select_on="test", select_noise=Gaussian(0.3), seed=4), tmp_path, splits=splits)
        checkpoint = read_checkpoint(run.checkpoint)
        model = checkpoint.build()
        line, data = checkpoint.about["log"], prepare(splits.test, torch.device("cpu"))
        seen = score(model, data)
        draws = []
        for draw in range(2):
            with NoisyWeights(model).perturbed(Gaussian(0.3), Stream(4, "select", draw)):
                draws.append(score(model, data))
        tensors = [model[1].weight.detach(), model[5].weight.detach()]
        expected = {
            "accuracy": seen["accuracy"],
            "loss": seen["loss"],
            "perturbed_accuracy": (draws[0]["accuracy"] + draws[1]["accuracy"]) / 2,
            "perturbed_loss": (draws[0]["loss"] + draws[1]["loss"]) / 2,
            "max_weight": max(float(w.abs().max()) for w in tensors),
            "max_over_rms": sum(float(w.abs().max() / w.square().mean().sqrt()) for w in tensors) / 2,
        }
        assert {name: line[name] for name in expected} == pytest.approx(expected, rel=1e-5)

    def test_the_training_loss_is_the_mean_over_samples(self, splits: Splits, tmp_path: Path) -> None:
        """At rate 0 with one batch of everything: the loss of the initial weights, with label smoothing."""
        one = settings(
            model=DigitsNet(4), lr=0.0, epochs=1, batch_size=200, crop=0, select_on="test", label_smoothing=0.2
        )
        run = fit(one, tmp_path, splits=splits)
        model = read_checkpoint(run.checkpoint).build().train()
        loss = nn.functional.cross_entropy(
            model(splits.train.normalized()), splits.train.labels, label_smoothing=0.2
        ).item()
        assert run.log.train_loss[0] == pytest.approx(loss, rel=1e-5)

    def test_divergence_is_said(self, splits: Splits, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="training diverged in epoch 0"):
            fit(settings(lr=1e38, optimizer="SGD"), tmp_path, splits=splits)
        (folder,) = tmp_path.iterdir()
        for read in (load_run, read_checkpoint, lambda place: find_checkpoints([str(place)])):
            with pytest.raises(UserError, match=r"training diverged in epoch 0|it holds none"):
                read(folder)  # type: ignore[operator]
        assert "training diverged in epoch 0" in (folder / "diverged.txt").read_text()

    def test_the_last_good_state_stays(self, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A loss that is no number once: the run is marked, and goes on from its last good epoch."""
        whole = fit(settings(epochs=3), tmp_path / "whole", splits=splits)
        usual = Classification.losses

        def broken(task: Any, predictions: Tensor, batch: Batch) -> Tensor:
            return usual(task, predictions, batch) * (float("nan") if len(lines) == 2 else 1)

        lines: list[Any] = []
        monkeypatch.setattr(Classification, "losses", broken)
        with pytest.raises(UserError, match=r"diverged in epoch 2: .*; the state after epoch 1 is kept"):
            fit(settings(epochs=3), tmp_path / "again", splits=splits, on_epoch=lines.append)
        monkeypatch.undo()
        (folder,) = (tmp_path / "again").iterdir()
        assert (folder / "diverged.txt").is_file()
        assert (folder / "resume.pt").is_file()
        again = fit(settings(epochs=3), tmp_path / "again", splits=splits)
        assert not (folder / "diverged.txt").exists()
        assert read_checkpoint(again.checkpoint).digest == read_checkpoint(whole.checkpoint).digest

    def test_it_is_said_within_an_epoch(self, tmp_path: Path) -> None:
        run = Run(tmp_path, settings())
        run.require_finite(98, 0, torch.tensor(float("nan")), alone=True)
        run.require_finite(99, 0, torch.tensor(float("nan")), alone=False)
        with pytest.raises(UserError, match="training diverged in epoch 0: train_loss is nan"):
            run.require_finite(99, 0, torch.tensor(float("nan")), alone=True)


class TestEpochKept:
    PERTURBED = (10.0, 30.0, 30.0, 20.0)
    """Of four epochs; the first of the two best is kept, whatever the clean accuracy."""

    @pytest.fixture
    def weights_by_epoch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], Callable[..., Any]]:
        """Every epoch's weights, caught by ``on_epoch``, with accuracies scripted in place of measured ones."""
        scripted = iter([a for p, c in zip(self.PERTURBED, (90, 10, 10, 95), strict=True) for a in (c, p - 5, p + 5)])
        monkeypatch.setattr(fit_module, "score", lambda *_: {"accuracy": next(scripted), "loss": 1.0})
        caught: list[Any] = []

        def catch(_: dict[str, Any]) -> None:
            (resume,) = tmp_path.glob("*/resume.pt")
            caught.append(list(torch.load(resume, weights_only=True)["model"].values()))

        return caught, catch

    @pytest.mark.parametrize(("select_on", "kept"), [("validation", 1), ("test", 1), ("none", 3)])
    def test_best_perturbed_accuracy(
        self, select_on: Any, kept: int, splits: Splits, tmp_path: Path, weights_by_epoch: Any
    ) -> None:
        caught, catch = weights_by_epoch
        run = fit(settings(epochs=4, select_on=select_on), tmp_path, splits=splits, on_epoch=catch)
        assert list(run.log.perturbed_accuracy) == list(self.PERTURBED)
        about = read_checkpoint(run.checkpoint).about
        assert about["epoch"] == kept
        assert about["log"]["perturbed_accuracy"] == self.PERTURBED[kept]
        by_name = read_checkpoint(run.checkpoint)
        order = list(by_name.build().state_dict())
        assert same_bits([by_name.weights[name] for name in order], caught[kept])
        assert not same_bits(caught[kept], caught[kept - 1])

    def test_without_held_out_data(self, splits: Splits, tmp_path: Path) -> None:
        run = fit(settings(select_on="none", validation=0.0), tmp_path, splits=splits)
        assert read_checkpoint(run.checkpoint).about["epoch"] == 2
        assert not {"accuracy", "perturbed_accuracy"} & set(run.log.columns)


class TestNothingLeaks:
    @pytest.fixture
    def spied(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
        """Images trained on and watched, as bytes, and the names of all streams that were drawn from."""
        seen: dict[str, Any] = {"trained": set(), "watched": set(), "streams": set()}

        def images(batches: Sequence[Batch]) -> set[bytes]:
            return {image.contiguous().numpy().tobytes() for batch in batches for image in batch.inputs}

        gradient, score_, generator = Engine.gradient, score, Stream.generator

        def spy_gradient(self: Engine, batch: Batch, **options: Any) -> Any:
            seen["trained"] |= images([batch])
            return gradient(self, batch, **options)

        def spy_score(model: nn.Module, batches: Sequence[Batch], *options: Any) -> Any:
            seen["watched"] |= images(batches)
            return score_(model, batches, *options)

        def spy_generator(self: Stream, *arguments: Any, **options: Any) -> Any:
            seen["streams"].add((self.seed, *self.path))
            return generator(self, *arguments, **options)

        monkeypatch.setattr(Engine, "gradient", spy_gradient)
        monkeypatch.setattr(fit_module, "score", spy_score)
        monkeypatch.setattr(Stream, "generator", spy_generator)
        return seen

    @staticmethod
    def bytes_of(images: Tensor) -> set[bytes]:
        distinct = {image.numpy().tobytes() for image in images}
        assert len(distinct) == len(images)
        return distinct

    @pytest.mark.parametrize("seed", [0, 7])
    def test_held_out_images_are_not_trained_on(
        self, seed: int, splits: Splits, tmp_path: Path, spied: dict[str, Any]
    ) -> None:
        fit(settings(crop=0, seed=seed), tmp_path, splits=splits)
        everything, test = self.bytes_of(splits.train.normalized()), self.bytes_of(splits.test.normalized())
        assert (len(spied["trained"]), len(spied["watched"])) == (160, 40)
        assert spied["trained"] | spied["watched"] == everything
        assert not (spied["trained"] | spied["watched"]) & test
        # The same ones for every seed: replicates differ by training alone.
        held_out = splits.train.split(0.2, Stream(0, "validation"))[1]
        assert spied["watched"] == self.bytes_of(held_out.normalized())

    def test_on_request_the_test_images_choose(self, splits: Splits, tmp_path: Path, spied: dict[str, Any]) -> None:
        fit(settings(crop=0, select_on="test"), tmp_path, splits=splits)
        assert spied["trained"] == self.bytes_of(splits.train.normalized())
        assert spied["watched"] == self.bytes_of(splits.test.normalized())

    def test_none_keeps_the_validation_data_out_of_training(
        self, splits: Splits, tmp_path: Path, spied: dict[str, Any]
    ) -> None:
        fit(settings(crop=0, select_on="none"), tmp_path, splits=splits)
        assert (len(spied["trained"]), len(spied["watched"])) == (160, 40)

    def test_draws_that_choose_are_not_those_reported(
        self, splits: Splits, tmp_path: Path, spied: dict[str, Any]
    ) -> None:
        fit(settings(method=RWP(Gaussian(0.1)), seed=3), tmp_path, splits=splits)
        chosen = {name[:3] for name in spied["streams"] if name[1] == "select"}
        assert chosen == {(3, "select", 0), (3, "select", 1)}
        trained = {name[2:4] for name in spied["streams"] if name[1] == "train" and isinstance(name[2], int)}
        assert trained == {(step, 0) for step in range(15)}
        assert {name[1] for name in spied["streams"]} == {"select", "train", "validation"}
        assert report_stream(3, 3, 0).path[0] == "report"


class TestResume:
    @staticmethod
    def stop_after(epoch: int) -> Callable[[dict[str, Any]], None]:
        def on_epoch(line: dict[str, Any]) -> None:
            if line["epoch"] == epoch:
                raise KeyboardInterrupt

        return on_epoch

    @staticmethod
    def stopped_at_step(number: int, *arguments: Any, **options: Any) -> None:
        """A ``fit`` that fails at its step ``number``, counted from where it takes up."""
        commit, count = Engine.commit, iter(range(10**6))

        def failing(self: Engine) -> bool:
            if next(count) == number:
                raise Failure
            return commit(self)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Engine, "commit", failing)
            fit(*arguments, **options)

    @pytest.mark.parametrize("text", METHODS)
    def test_bit_for_bit(self, text: str, splits: Splits, tmp_path: Path) -> None:
        """Stopped in the first epoch, after the second, and in the middle of the third."""
        # Three epochs are trained: what would start in the seventh has to start in the second.
        method = Method.parse(text.replace("start=6", "start=1"))
        of = settings(method=method, optimizer="AdamW", lr=0.01, weight_clip=2.5, select_on="none")
        whole = fit(of, tmp_path / "whole", splits=splits)
        with pytest.raises(Failure):
            self.stopped_at_step(3, of, tmp_path / "parts", splits=splits)
        with pytest.raises(KeyboardInterrupt):
            fit(of, tmp_path / "parts", splits=splits, on_epoch=self.stop_after(1))
        with pytest.raises(Failure):
            self.stopped_at_step(2, of, tmp_path / "parts", splits=splits)
        assert not list(tmp_path.glob("parts/*/model.safetensors"))
        lines: list[dict[str, Any]] = []
        parts = fit(of, tmp_path / "parts", splits=splits, on_epoch=lines.append)
        assert [line["epoch"] for line in lines] == [2]
        assert same_bits(stored(parts), stored(whole))
        pd.testing.assert_frame_equal(timeless(parts.log), timeless(whole.log), check_exact=True)
        assert sorted(file.name for file in parts.folder.iterdir()) == ["log.csv", "model.safetensors"]

    def test_an_earlier_best_epoch_survives(
        self, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        accuracies = iter([50.0, 90.0, 90.0, 50.0, 20.0, 20.0, 50.0, 30.0, 30.0])
        monkeypatch.setattr(fit_module, "score", lambda *_: {"accuracy": next(accuracies), "loss": 1.0})
        with pytest.raises(KeyboardInterrupt):
            fit(settings(), tmp_path, splits=splits, on_epoch=self.stop_after(0))
        (resume,) = tmp_path.glob("*/resume.pt")
        first = torch.load(resume, weights_only=True)["model"]
        with pytest.raises(KeyboardInterrupt):
            fit(settings(), tmp_path, splits=splits, on_epoch=self.stop_after(1))
        checkpoint = read_checkpoint(fit(settings(), tmp_path, splits=splits).checkpoint)
        assert checkpoint.about["epoch"] == 0
        assert same_bits([checkpoint.weights[name] for name in first], list(first.values()))

    def test_stopped_after_the_last_epoch(self, splits: Splits, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            fit(settings(), tmp_path / "parts", splits=splits, on_epoch=self.stop_after(2))
        parts = fit(settings(), tmp_path / "parts", splits=splits, on_epoch=self.stop_after(2))
        assert same_bits(stored(parts), stored(fit(settings(), tmp_path / "whole", splits=splits)))

    def test_a_finished_run_is_not_trained_again(self, splits: Splits, tmp_path: Path) -> None:
        first = fit(settings(), tmp_path, splits=splits)
        self.stopped_at_step(0, settings(), tmp_path, splits=splits)  # raises if there is a step
        again = fit(settings(), tmp_path, splits=splits)
        assert again == first
        assert len(again.log) == 3


class TestSeeds:
    def test_a_seed_names_the_weights(self, splits: Splits, tmp_path: Path) -> None:
        ends = []
        for folder, seed, of_torch in (("a", 1, 0), ("b", 1, 99), ("c", 2, 0)):
            torch.manual_seed(of_torch)
            before = torch.get_rng_state()
            ends.append(stored(fit(settings(seed=seed, method=RWP(Gaussian(0.1))), tmp_path / folder, splits=splits)))
            assert torch.equal(torch.get_rng_state(), before)
        assert same_bits(ends[0], ends[1])
        for name_of_another, first in zip(ends[2], ends[0], strict=True):
            assert name_of_another.dtype == torch.int64 or not torch.equal(name_of_another, first)

    def test_micro_batches_are_passed_on(self, splits: Splits, tmp_path: Path) -> None:
        """Batch norm counts the micro-batches: 3 epochs of 5 batches in 4 parts."""
        run = fit(settings(micro_batches=4, select_on="none"), tmp_path, splits=splits)
        assert read_checkpoint(run.checkpoint).weights["2.num_batches_tracked"] == 60

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_precisions(self, precision: Any, splits: Splits, tmp_path: Path) -> None:
        """The same course as in fp32 to the precision's rounding, with weights kept in fp32."""
        exact = fit(settings(method=SAM(0.1)), tmp_path, splits=splits)
        run = fit(settings(method=SAM(0.1), precision=precision), tmp_path, splits=splits)
        assert list(run.log.train_loss) == pytest.approx(list(exact.log.train_loss), rel=0.02)
        assert list(run.log.train_loss) != list(exact.log.train_loss)
        assert {w.dtype for w in stored(run)} == {torch.float32, torch.int64}

    def test_steps_that_loss_scaling_skips_are_survived(
        self, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A scale too large for fp16 is halved until it fits, without a word, and stays so in a resumed run."""
        monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, init_scale=2.0**26))
        scales: list[float] = []
        update = torch.amp.GradScaler.func.update  # type: ignore[attr-defined]
        monkeypatch.setattr(
            torch.amp.GradScaler.func,  # type: ignore[attr-defined]
            "update",
            lambda self: (update(self), scales.append(self.get_scale()))[0],
        )
        of = settings(method=SAM(0.1), precision="fp16")
        whole = fit(of, tmp_path / "whole", splits=splits)
        assert scales[0] == 2.0**25
        assert scales[-1] == scales[-2] < 2.0**25
        with pytest.raises(KeyboardInterrupt):
            fit(of, tmp_path / "parts", splits=splits, on_epoch=TestResume.stop_after(0))
        assert same_bits(stored(fit(of, tmp_path / "parts", splits=splits)), stored(whole))


class TestFolders:
    CHANGES: tuple[dict[str, Any], ...] = (
        {"seed": 1},
        {"epochs": 4},
        {"lr": 0.04},
        {"lr_warmup": 1},
        {"lr_warmup": 1.0},
        {"method": SAM(0.1)},
        {"method": SAM(0.1, alpha=0.5)},
        {"weight_clip": 2.0},
        {"select_noise": Gaussian(0.2)},
        {"select_on": "none"},
        {"model": DigitsNet(4)},
        {"precision": "bf16"},
    )

    def test_every_setting_has_a_folder_of_its_own(self, splits: Splits) -> None:
        names = [settings(**changes).identity(splits) for changes in ({}, *self.CHANGES)]
        assert len(set(names)) == len(names)
        assert settings().identity(splits) == names[0]

    def test_only_runs_under_laplace_noise_are_others_since_its_draws_are(self) -> None:
        layers = {"0": {"noise": "laplace:0.1"}}
        for changes in ({"method": "rwp:laplace(0.1)"}, {"select_noise": "laplace:0.1"}, {"layers": layers}):
            assert len(revised(settings(**changes))) == 1
        assert revised(settings(method="rwp:gaussian(0.1)")) == []

    def test_data_are_named_by_their_content(self, splits: Splits) -> None:
        name = settings().identity(splits)
        assert settings(data="/somewhere/else", data_root="/mnt").identity(splits) == name
        test = splits.test.subset(range(59))
        assert settings().identity(dataclasses.replace(splits, test=test)) != name
        labels = splits.train.labels.clone()
        labels[0] = (labels[0] + 1) % 10
        relabelled = dataclasses.replace(splits.train, labels=labels)
        assert settings().identity(dataclasses.replace(splits, train=relabelled)) != name

    @pytest.mark.parametrize("change", ["crop", "flip", "normalisation"])
    def test_what_comes_with_the_data_is_part_of_the_name(self, change: str, splits: Splits) -> None:
        """These train other weights, so they must not find the run of the first."""
        other = {
            "crop": dataclasses.replace(splits, crop=2),
            "flip": dataclasses.replace(splits, flip=True),
            "normalisation": dataclasses.replace(splits, train=splits.train.with_normalization((0.0,), (1.0,))),
        }[change]
        assert settings().identity(other) != settings().identity(splits)

    def test_the_folder_tells_method_and_seed(self, splits: Splits, tmp_path: Path) -> None:
        of = settings(method=Method.parse("sam:linear(0.2,warmup=5)"), weight_clip=2.5, seed=4, epochs=1)
        run = fit(of, tmp_path, splits=splits)
        assert run.folder.name == f"sam-linear-0.2-warmup-5-clip-2.5-rms-seed4-{of.identity(splits)}"

    def test_the_checkpoint_can_be_rebuilt(self, splits: Splits, tmp_path: Path) -> None:
        of = settings(method=SAM(0.1), weight_clip=2.5, seed=4)
        checkpoint: Checkpoint = read_checkpoint(fit(of, tmp_path, splits=splits).folder)
        about = checkpoint.about
        assert about["settings"] == of.described()
        assert (about["label"], about["seed"]) == ("sam:0.1, clip 2.5 rms", 4)
        assert (about["channels"], len(about["classes"])) == (1, 10)
        assert (tuple(about["mean"]), tuple(about["std"])) == (splits.train.mean, splits.train.std)
        rebuilt = TrainSettings(**about["settings"])
        assert rebuilt == of
        assert rebuilt.identity(splits) == of.identity(splits)
        model = checkpoint.build()
        assert not model.training
        assert same_bits(list(model.state_dict().values()), [checkpoint.weights[name] for name in model.state_dict()])


class TestTexts:
    """What a person names is given as an object or as its text, and is the object afterwards."""

    def test_texts_and_objects_are_the_same_settings(self, splits: Splits) -> None:
        texts = TrainSettings(
            model="digits:4", method="rwp:gaussian(0.2)", select_noise="gaussian:0.3", log=["path_length"]
        )
        objects = TrainSettings(
            model=DigitsNet(4), method=RWP(Gaussian(0.2)), select_noise=Gaussian(0.3), log=(PathLength(),)
        )
        assert texts == objects
        assert texts.identity(splits) == objects.identity(splits)
        assert TrainSettings() == TrainSettings(model=DigitsNet(), method=Plain(), select_noise=Gaussian(0.1))

    def test_one_measure_need_not_be_a_list(self) -> None:
        assert TrainSettings(log="path_length").log == TrainSettings(log=PathLength()).log == (PathLength(),)

    def test_names_of_runs_are_what_they_were(self) -> None:
        """Runs of earlier versions are found, not trained again."""
        digits = load("digits")
        assert TrainSettings().identity(digits) == "d4306c37"
        assert TrainSettings(method="sam:0.2", weight_clip=2.5, seed=3).identity(digits) == "629d2021"  # was 72a1db4a

    @pytest.mark.parametrize("field", ["model", "method", "select_noise", "log"])
    def test_what_has_no_such_text_is_refused(self, field: str) -> None:
        with pytest.raises(UserError, match="expected a"):
            TrainSettings(**{field: "nothing-like-it"})


class TestBadSettings:
    @pytest.mark.parametrize(
        "change",
        [
            {"epochs": 0},
            {"batch_size": 0},
            {"micro_batches": 0},
            {"select_draws": 0},
            {"validation": 0.0},
            {"validation": 1.0},
            {"validation": float("nan")},
            {"label_smoothing": 1.0},
            {"lr": -0.1},
            {"lr": float("nan")},
            {"weight_decay": float("inf")},
            {"lr_warmup": -1},
            {"lr_warmup": 5.0},
            {"weight_clip": 0.0},
            {"clip_norm": -1.0},
            {"device": "abacus"},
            {"select_on": "train"},
        ],
        ids=str,
    )
    def test_refused_at_once(self, change: dict[str, Any]) -> None:
        with pytest.raises(UserError, match="expected") as error:
            settings(**change)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "change", [{"optimizer": "LBFGS"}, {"optimizer": "SGD:speed=1"}, {"crop": -1}, {"precision": "fp8"}], ids=str
    )
    def test_refused_before_anything_is_written(self, change: dict[str, Any], splits: Splits, tmp_path: Path) -> None:
        with pytest.raises(UserError) as error:
            fit(settings(**change, method=Plain()), tmp_path, splits=splits)
        assert "\n" not in str(error.value)
        assert not list(tmp_path.iterdir())

    def test_data_that_are_not_there(self, tmp_path: Path) -> None:
        known = "cifar10, cifar100, digits, fashion-mnist, imagenet, subset, sums, svhn, text"
        with pytest.raises(UserError, match=f"expected {known} or the path"):
            fit(settings(data="no-such-data"), tmp_path)


class TestInitial:
    """Fine-tuning: a run that starts from a checkpoint."""

    def test_starts_from_the_weights(self, splits: Splits, tmp_path: Path) -> None:
        first = fit(settings(seed=3), tmp_path, splits=splits)
        again = settings(initial=str(first.checkpoint), epochs=1, lr=0.0, weight_decay=0.0, select_on="none")
        tuned = fit(again, tmp_path, splits=splits)
        old, new = (read_checkpoint(run.checkpoint).weights for run in (first, tuned))
        learned = [name for name in old if "running" not in name and "num_batches" not in name]
        assert same_bits([old[name] for name in learned], [new[name] for name in learned])

    def test_another_number_of_classes_has_a_new_head(self, splits: Splits, tmp_path: Path) -> None:
        half = [part.subset((part.labels < 5).nonzero().flatten()) for part in (splits.train, splits.test)]
        train, test = (dataclasses.replace(part, classes=part.classes[:5]) for part in half)
        first = fit(settings(), tmp_path, splits=dataclasses.replace(splits, train=train, test=test))
        still = settings(epochs=1, lr=0.0, weight_decay=0.0, select_on="none")
        scratch = fit(still, tmp_path, splits=splits)
        tuned = fit(dataclasses.replace(still, initial=str(first.checkpoint)), tmp_path, splits=splits)
        old, fresh, new = (read_checkpoint(run.checkpoint).weights for run in (first, scratch, tuned))
        assert torch.equal(new["1.weight"], old["1.weight"])
        assert torch.equal(new["5.weight"], fresh["5.weight"])  # the same seed's

    def test_named_by_what_it_holds(self, splits: Splits, tmp_path: Path) -> None:
        first = fit(settings(), tmp_path, splits=splits)
        copy = tmp_path / "elsewhere.safetensors"
        copy.write_bytes(first.checkpoint.read_bytes())
        named = [settings(initial=str(place)).identity(splits) for place in (first.checkpoint, copy)]
        assert named[0] == named[1] != settings().identity(splits)

    def test_a_network_that_does_not_fit_is_said(self, splits: Splits, tmp_path: Path) -> None:
        first = fit(settings(), tmp_path, splits=splits)
        with pytest.raises(UserError, match="does not fit"):
            fit(settings(model=DigitsNet(4), initial=str(first.checkpoint)), tmp_path, splits=splits)
