"""A finished run opened again: the trained network, its settings, its log; what is no finished run is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from methods import few_digits, same_bits
from test_fit import stored
from torch import nn

from noiserobust.data import Splits
from noiserobust.errors import UserError
from noiserobust.evaluation import evaluate
from noiserobust.models import ModelSpec
from noiserobust.rng import Stream, seeded
from noiserobust.storage.checkpoints import read_checkpoint, save_checkpoint
from noiserobust.training import Method, Run, TrainSettings, fit, load_run
from noiserobust.training.runs import run_of


def small(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, classes))


@pytest.fixture(scope="module")
def splits() -> Splits:
    return few_digits(120)


def settings(**changes: Any) -> TrainSettings:
    few = {"model": ModelSpec.parse("digits:2"), "epochs": 2, "batch_size": 32, "validation": 0.2, "select_draws": 1}
    text = {"method": Method.parse("sam:linear(0.1,warmup=0.25)"), "log": ("path_length",), "log_on": ("test",)}
    return TrainSettings(**(few | text | changes))


@pytest.fixture(scope="module")
def trained(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(settings(weight_clip=2.5, lr_warmup=3), tmp_path_factory.mktemp("runs"), splits=splits)


def restored(run: Run, to: Path, **settings: Any) -> Path:
    """A copy of the run's folder that says other settings."""
    folder, checkpoint = shutil.copytree(run.folder, to / "copy"), read_checkpoint(run.folder)
    about = {**checkpoint.about, "settings": {**checkpoint.about["settings"], **settings}}
    save_checkpoint(folder / "model.safetensors", checkpoint.weights, about)
    return folder


def test_it_is_the_run_that_was_trained(trained: Run, splits: Splits) -> None:
    run = load_run(str(trained.folder))
    assert run == trained
    assert run.label == "sam:linear(0.1,warmup=0.25), clip 2.5 rms"
    pd.testing.assert_frame_equal(run.log, trained.log)
    assert run.network is run.network
    assert not run.network.training
    weights = [tensor for _, tensor in sorted(run.network.state_dict().items())]
    assert same_bits(weights, [tensor for _, tensor in sorted(read_checkpoint(trained.checkpoint).weights.items())])
    assert same_bits(stored(run), stored(trained))
    html = run._repr_html_()
    assert run.label in html
    assert "<table" in html


def test_it_evaluates(trained: Run, splits: Splits) -> None:
    run = load_run(trained.folder)
    rows = evaluate({run.label: str(run.checkpoint)}, splits.test, "gaussian:0.1", draws=2).rows
    about = read_checkpoint(run.checkpoint).about
    seen = splits.test.with_normalization(about["mean"], about["std"])
    clean = evaluate(str(run.checkpoint), splits.test, "gaussian:0", draws=1).rows
    with torch.no_grad():
        right = (run.network(seen.normalize(seen.images)).argmax(1) == splits.test.labels).double().mean().item()
    accuracy = clean[clean["metric"] == "accuracy"]["value"].iloc[0]
    assert accuracy == pytest.approx(100 * right)
    assert set(rows["method"]) == {run.label}


class TestRefusals:
    def refused(self, folder: Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            load_run(folder)
        assert "\n" not in str(caught.value)

    def test_what_is_no_run(self, trained: Run, tmp_path: Path) -> None:
        self.refused(tmp_path / "nowhere", "expected the folder of a run, .* noiserobust train makes one")
        self.refused(trained.folder.parent, "it holds 1 runs: name one of them")
        save_checkpoint(tmp_path / "weights" / "model.safetensors", trained.network.state_dict(), {"model": "digits:2"})
        self.refused(tmp_path / "weights", "expected a run that noiserobust trained")

    def test_an_interrupted_one(self, splits: Splits, tmp_path: Path) -> None:
        def stop(line: dict[str, Any]) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(settings(), tmp_path, splits=splits, on_epoch=stop)
        (folder,) = tmp_path.iterdir()
        self.refused(folder, "expected a finished run, got .*: it was interrupted, or still trains")

    def test_settings_of_another_version(self, trained: Run, tmp_path: Path) -> None:
        self.refused(restored(trained, tmp_path, moon=1), "expected settings that this version knows, got moon")

    @pytest.mark.parametrize(
        ("setting", "text"),
        [
            ("method", "planted:Any(1)"),
            ("method", "rwp:planted:Any(1)"),
            ("select_noise", "gaussian:0.1+planted:Any(1)"),
            ("log", ["gradient_norm:random(planted:Any(1))"]),
            ("model", "planted:Any"),
        ],
    )
    def test_what_a_file_names_is_not_imported(
        self, setting: str, text: Any, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "planted.py").write_text("raise SystemExit('ran the code that a file names')")
        monkeypatch.syspath_prepend(tmp_path)
        self.refused(restored(trained, tmp_path, **{setting: text}), "expected .*planted:Any")

    def test_code_has_to_be_named(self, splits: Splits, tmp_path: Path) -> None:
        spec = ModelSpec.parse("factory:test_runs:small")
        run = fit(settings(model=spec, select_on="none"), tmp_path, splits=splits)
        self.refused(run.folder, r"expected load_run\(..., model='factory:test_runs:small'\)")
        for named in (spec, "factory:test_runs:small"):
            opened = load_run(run.folder, model=named)
            assert opened.settings.model == spec
            with seeded(Stream(0, "test")):
                x = torch.rand(2, 1, 8, 8)
            assert opened.network(x).shape == (2, 10)


def test_a_run_trained_on_a_gpu_is_read_without_one(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = restored(trained, tmp_path, device="cuda:3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_run(folder).settings.device == "cpu"


def test_settings_may_name_a_gpu_that_is_not_here_and_trainings_may_not(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished run is found by its settings anywhere."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    elsewhere = settings(device="cuda:99")
    assert run_of(elsewhere, tmp_path, splits) != run_of(settings(), tmp_path, splits)
    with pytest.raises(UserError, match=r"expected a device that is there, .*got 'cuda:99'; torch sees no GPU here"):
        fit(elsewhere, tmp_path, splits=splits)
    assert not list(tmp_path.iterdir())


def test_settings_that_a_file_does_not_say_are_the_defaults(trained: Run, tmp_path: Path) -> None:
    folder = restored(trained, tmp_path)
    checkpoint = read_checkpoint(folder)
    few = {"model": "digits:2", "method": "sam:0.2"}
    save_checkpoint(folder / "model.safetensors", checkpoint.weights, {**checkpoint.about, "settings": few})
    assert load_run(folder).settings == TrainSettings(**few)
