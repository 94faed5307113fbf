"""Measures in a training log: they change no weight and no name, survive a stop, and are refused when too late."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import test_fit
import torch
from methods import METHODS, ON, Failure, few_digits, same_bits
from test_fit import stored, timeless
from torch.nn import CrossEntropyLoss

from noiserobust.data import Splits
from noiserobust.errors import UserError
from noiserobust.evaluation.training_logs import curves
from noiserobust.minima import Measure, Surface, measure
from noiserobust.models import DigitsNet
from noiserobust.rng import Stream
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.tasks.batches import prepare
from noiserobust.training import MESA, SAF, Method, TrainSettings, fit

LOG = (
    "average_sharpness:gaussian(0.1),draws=2",
    "gradient_sharpness",
    "gradient_cosine",
    "path_length",
    "max_over_rms",
)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return few_digits(120)


def settings(**changes: Any) -> TrainSettings:
    few = {"model": DigitsNet(2), "epochs": 3, "batch_size": 32, "validation": 0.2, "select_draws": 1}
    return TrainSettings(**(few | {"log": LOG, "log_on": ("train", "test"), "log_images": 40} | changes))


@pytest.mark.parametrize("text", ["plain", "sam:linear(0.2,warmup=0.5)", "rwp:gaussian(0.2)", "mesa:start=1,beta=0.9"])
def test_the_weights_are_the_same_with_and_without(text: str, splits: Splits, tmp_path: Path) -> None:
    method = Method.parse(text)
    silent = fit(settings(method=method, log=()), tmp_path / "silent", splits=splits)
    logged = fit(settings(method=method), tmp_path / "logged", splits=splits)
    assert same_bits(stored(logged), stored(silent))
    assert logged.folder.name == silent.folder.name
    assert set(silent.log) < set(logged.log)
    both = [name for name in silent.log if name != "seconds"]
    pd.testing.assert_frame_equal(logged.log[both], silent.log[both], check_exact=True)
    assert logged.log.notna().all(axis=None)


def test_numbers_are_those_of_the_weights(splits: Splits, tmp_path: Path) -> None:
    """The last line, measured again from the stored weights, with the rule's perturbation at its last step."""
    of = settings(method=Method.parse("sam:linear(0.2,warmup=12)"), select_on="none", seed=4)
    run = fit(of, tmp_path, splits=splits)
    model, last = read_checkpoint(run.checkpoint).build(), run.log.iloc[-1]
    rho = 0.2 * 8 / 12  # step 8 of 9
    assert last["strength"] == pytest.approx(rho)
    trained = splits.train.split(0.2, Stream(0, "validation"))[0]
    for name, images in (("train", trained), ("test", splits.test)):
        data = prepare(images.sample(40, Stream(0, "log")), torch.device("cpu"))
        as_trained = {"loss": CrossEntropyLoss(reduction="none", label_smoothing=0.1), "normalisation": "batch"}
        wanted = {
            "loss": ("loss", {}),
            "average_sharpness:gaussian(0.1),draws=2": ("average_sharpness:gaussian(0.1),draws=2", {}),
            "gradient_sharpness:training": (f"gradient_sharpness:ascent({rho!r},m=32)", as_trained),
            "gradient_cosine:training": (f"gradient_cosine:ascent({rho!r},m=32)", as_trained),
        }
        for column, (text, options) in wanted.items():
            one = Measure.parse(text)
            found = measure(Surface(model, data, **options), [one], Stream(4, "measure").child)[one]  # type: ignore[arg-type]
            values = [draw[""] for draw in found]
            assert last[f"{name}/{column}"] == pytest.approx(sum(values) / len(values), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("text", ["plain", "sam:0.2", "rwp:gaussian(0.2)"])
def test_the_update_gradient_is_that_of_the_training_step(
    text: str, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is all of the data, without augmentation, and weights that stay: the step's own gradient."""
    norms: list[float] = []
    step = torch.optim.SGD.step

    def watched(optimizer: torch.optim.SGD, *args: Any) -> Any:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    same = {"validation": 0.0, "select_on": "none", "batch_size": 120, "log_images": 120, "log_on": ("train",)}
    still = {"lr": 0.0, "weight_decay": 0.0, "crop": 0, "epochs": 8}
    names = ("gradient_norm:training", "gradient_norm")
    run = fit(settings(method=Method.parse(text), log=names, **same, **still), tmp_path, splits=splits)
    measured = run.log["train/gradient_norm:training"].mean()
    norms = norms[-8:]  # before training the optimizer's options are tried on a tensor of their own
    # SAM's and plain training's are one number; RWP's are means over eight draws each.
    assert measured == pytest.approx(sum(norms) / len(norms), rel=0.1 if "rwp" in text else 1e-3)
    # Untrained statistics and no smoothing are something else.
    assert run.log[f"train/{Measure.parse('gradient_norm')}"].iloc[-1] != pytest.approx(measured, rel=0.1)


def test_what_it_cost_is_in_the_log(splits: Splits, tmp_path: Path) -> None:
    """One pass at w and one per draw, on each of two sets of images; the ascent's own, by micro-batches, on top."""
    log = fit(settings(epochs=1, method=Method.parse("sam:0.1")), tmp_path, splits=splits).log.iloc[0]
    assert (log["log_images"], log["log_forward"], log["log_backward"]) == (40, 2 * (3 + 2), 2 * 2)
    assert 0 < log["log_seconds"] < log["seconds"]


def test_a_stopped_run_logs_the_same(splits: Splits, tmp_path: Path) -> None:
    of = settings(method=Method.parse("sam:0.1"), select_on="none")
    whole = fit(of, tmp_path / "whole", splits=splits)
    with pytest.raises(KeyboardInterrupt):
        fit(of, tmp_path / "parts", splits=splits, on_epoch=test_fit.TestResume.stop_after(0))
    with pytest.raises(Failure):
        test_fit.TestResume.stopped_at_step(2, of, tmp_path / "parts", splits=splits)
    with pytest.raises(UserError, match=r"expected the log of the interrupted run \(average_.*\), got nothing; go on"):
        fit(dataclasses.replace(of, log=()), tmp_path / "parts", splits=splits)
    parts = fit(of, tmp_path / "parts", splits=splits)
    assert same_bits(stored(parts), stored(whole))
    drop = ["log_seconds"]
    pd.testing.assert_frame_equal(timeless(parts.log).drop(columns=drop), timeless(whole.log).drop(columns=drop))
    assert (whole.log["path_length"].diff().dropna() > 0).all()


def test_the_path_of_averaged_weights_goes_on_from_the_average(splits: Splits, tmp_path: Path) -> None:
    of = settings(average="ema:0.5", log=("path_length",))
    whole = fit(of, tmp_path / "whole", splits=splits)
    with pytest.raises(KeyboardInterrupt):
        fit(of, tmp_path / "parts", splits=splits, on_epoch=test_fit.TestResume.stop_after(0))
    parts = fit(of, tmp_path / "parts", splits=splits)
    assert parts.log["path_length"].tolist() == whole.log["path_length"].tolist()


def test_a_finished_run_that_did_not_log_is_said(splits: Splits, tmp_path: Path) -> None:
    fit(settings(log=("path_length",)), tmp_path, splits=splits)
    fit(settings(log=()), tmp_path, splits=splits)  # asks for nothing: found
    fit(settings(log=("path_length",)), tmp_path, splits=splits)
    with pytest.raises(UserError, match=r"finished without train/ascent_sharpness:0.05, test/ascent_sharpness:0.05;"):
        fit(settings(log=("path_length", "ascent_sharpness:0.05")), tmp_path, splits=splits)
    with pytest.raises(UserError, match="logged on 40 images"):
        fit(settings(log=("path_length",), log_images=50), tmp_path, splits=splits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log": ("flatness",)}, "expected a measure"),
        ({"log_images": 0}, "expected log_images >= 1"),
        ({"log_on": ("moon",)}, r"expected tuple\[.*test.* as log_on, got tuple"),
        ({"log_on": ()}, "expected log_images >= 1 on train, validation or test, got 40 on none"),
    ],
)
def test_bad_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(**changes)


def test_what_cannot_be_logged_is_said_before_training(splits: Splits, tmp_path: Path) -> None:
    lines: list[Any] = []
    blind = settings(log_on=("validation",), validation=0.0, select_on="none")
    with pytest.raises(UserError, match="expected held-out images to log on validation"):
        fit(blind, tmp_path, splits=splits, on_epoch=lines.append)
    with pytest.raises(UserError, match="whose update gradient's point is known to measures, got ssam"):
        fit(settings(method=Method.parse("ssam:0.1")), tmp_path, splits=splits, on_epoch=lines.append)
    assert not lines


@pytest.mark.parametrize("text", METHODS)
def test_every_rule_has_one_or_says_that_it_has_none(text: str) -> None:
    method = Method.parse(text)
    apart = (
        any(rule in text for rule in ("ssam", "f-sam", "vasso", "amp:", "arwp"))
        or ("esam" in text and "beta=1.0" not in text)
        or "batches=different" in text
    )
    assert method.visitable != apart
    assert method.perturbation(ON).strength == (0.0 if isinstance(method, (SAF, MESA)) else method.strength(ON))


def test_some_epochs_alone_are_measured(splits: Splits, tmp_path: Path) -> None:
    """The first, every other and the last; what they show is what every epoch's log shows there, the path's sum too."""
    names = ("gradient_norm", "weight_norm", "path_length")
    every, some = (
        fit(settings(epochs=5, log=names, log_every=n), tmp_path / str(n), splits=splits).log for n in (1, 2)
    )
    measured = [name for name in every if name.startswith(("train/", "test/"))]
    assert measured
    assert some["epoch"][some[measured].notna().all(axis=1)].tolist() == [0, 1, 3, 4]
    assert some[measured].isna().all(axis=1).sum() == 1
    same = [*measured, "path_length"]
    pd.testing.assert_frame_equal(some[same].fillna(every[same]), every[same])
    assert some["path_length"].notna().all()
    rows = some.melt(id_vars="epoch", var_name="metric").assign(method="plain", replicate=0)
    drawn = curves(rows, "epoch", [measured[0], "train_loss"])
    epochs = drawn.groupby("panel")["epoch"].apply(list).to_dict()
    assert epochs == {measured[0]: [0, 1, 3, 4], "train_loss": [*range(5)]}
    assert drawn["mean"].notna().all()
    with pytest.raises(UserError, match="expected log_every of 1 epoch or more"):
        settings(log_every=0)
