"""Results of somebody's code are told apart by that code: rows are computed anew, finished runs refused."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import noiserobust
from noiserobust.errors import UserError
from noiserobust.spec.own_code import own_code
from noiserobust.training import TrainSettings, fit, load_run

CODE = """
from dataclasses import dataclass, field
from typing import ClassVar

from noiserobust.minima import Measure, Random
from noiserobust.noise import Gaussian, NoiseModel, reference_scale
from noiserobust.noise.base import additive
from noiserobust.tasks import Task
from noiserobust.training import Method


@dataclass(frozen=True)
class Uniform(NoiseModel):
    strength_field: ClassVar[str] = "width"
    factor: ClassVar[float] = 1.0
    width: float = 0.1

    def write(self, below, clean, stream):
        return additive(below, stream.uniform(clean.shape) - 0.5, NOISE * self.width * reference_scale(clean))


@dataclass(frozen=True)
class Largest(Measure):
    needs_data: ClassVar[bool] = False

    def values(self, surface, streams):
        return [{"": MEASURE * max(p.abs().max().item() for p in surface.parameters)}]


@dataclass(frozen=True)
class Distance(Task):
    def losses(self, predictions, batch):
        return TASK * predictions.square().sum(1)


@dataclass(frozen=True)
class Half(Method):
    noise: NoiseModel = field(default_factory=lambda: Gaussian(0.1))
    passes = (1.0, 1.0)

    def perturbation(self, progress):
        return Random(self.noise, draws=1)

    def perturbed_step(self, engine, batch, progress, perturbation):
        out = engine.gradient(batch, weight=RULE)
        engine.commit()
        return out


def loss(predictions, labels):
    return LOSS * predictions.square().sum(1)


asked = []


def rate(epoch):
    asked.append(epoch)
    return RATE
"""
NAMES = ("NOISE", "MEASURE", "TASK", "RULE", "LOSS", "RATE")
X, Y = torch.randn(12, 6), torch.arange(12) % 3


class Code:
    """The module ``edited_parts`` in a file, whose numbers are written anew."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "edited_parts.py"
        monkeypatch.syspath_prepend(str(folder))
        self.number = 1.0
        self.write("")
        self.module: ModuleType = importlib.import_module("edited_parts")
        importlib.reload(self.module)

    def write(self, changed: str) -> None:
        text = CODE
        for name in NAMES:
            text = text.replace(name, "2.0" if name == changed else "1.0")
        self.file.write_text(text)

    def change(self, name: str) -> None:
        self.write(name)
        importlib.invalidate_caches()
        importlib.reload(self.module)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Code:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return Code(tmp_path, monkeypatch)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def values(out: Path | None, what: str) -> list[float]:
    if what == "MEASURE":
        return noiserobust.sharpness(net(), (X, Y), "edited_parts:Largest", out=out).rows.value.tolist()
    noise = {"NOISE": "edited_parts:Uniform(0.2)", "TASK": "gaussian:0.1", "LAYERS": "gaussian:0.1"}
    noise["SUM"] = "quantize:4+edited_parts:Uniform(0.2)"
    given: dict[str, Any] = {"task": "edited_parts:Distance"} if what == "TASK" else {}
    if what == "LAYERS":
        given["where"] = noiserobust.Where(layers={"0.*": {"noise": "edited_parts:Uniform(0.2)"}})
    return noiserobust.evaluate(net(), (X, Y), noise[what], draws=2, out=out, **given).rows.value.tolist()


@pytest.mark.parametrize("what", ["NOISE", "SUM", "LAYERS", "TASK", "MEASURE"])
def test_rows_of_changed_code_are_computed_anew(
    what: str, code: Code, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "rows.parquet"
    before = values(out, what)
    with caplog.at_level(logging.WARNING, logger="noiserobust"):
        assert values(out, what) == before
    assert not caplog.text
    code.change("NOISE" if what in ("SUM", "LAYERS") else what)
    after = values(None, what)
    assert after != before
    assert values(out, what) == after
    assert "computed anew" in caplog.text


@pytest.mark.parametrize("what", ["RULE", "NOISE", "LOSS", "RATE"])
def test_a_finished_run_of_changed_code_is_refused(what: str, code: Code, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": "digits:4", "epochs": 1, "select_on": "none", "log_images": 10}
    settings |= {"loss": "edited_parts:loss", "label_smoothing": 0.0} if what == "LOSS" else {}
    settings |= {"lr_schedule": "LambdaLR:lr_lambda=edited_parts:rate"} if what == "RATE" else {}
    settings |= {"method": "edited_parts:Half(edited_parts:Uniform(0.1))"} if what in ("RULE", "NOISE") else {}
    run = fit(TrainSettings(**settings), tmp_path / "runs")
    assert fit(TrainSettings(**settings), tmp_path / "runs").folder == run.folder
    code.change(what)
    with pytest.raises(UserError, match=r"another edited_parts:\w+: its code has changed; move that folder away"):
        fit(TrainSettings(**settings), tmp_path / "runs")


def test_reading_a_run_calls_no_schedule_of_its_own(
    code: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainSettings(
        model="digits:4",  # type: ignore[arg-type]
        epochs=2,
        select_on="none",
        lr_schedule="LambdaLR:lr_lambda=edited_parts:rate",
    )
    assert not code.module.asked  # settings by themselves do not call it, either
    run = fit(settings, tmp_path / "runs")
    assert code.module.asked
    code.module.asked.clear()
    monkeypatch.delitem(sys.modules, "edited_parts")
    assert load_run(run.folder).settings == settings
    assert "edited_parts" not in sys.modules
    assert not code.module.asked


def test_the_package_s_own_code_has_no_digest(code: Code) -> None:
    from noiserobust.noise import NoiseModel

    assert own_code(NoiseModel.parse("gaussian:0.1+quantize:4"), {"a": 1}) == ""
    named = own_code(NoiseModel.parse("cells(edited_parts:Uniform(0.1),number=2)"))
    assert named.startswith("edited_parts:Uniform=")
    same = own_code(NoiseModel.parse("edited_parts:Uniform(0.3)"))
    assert same == named  # settings are told apart by the text


def test_a_class_made_by_hand_is_told_apart_by_its_functions() -> None:
    """As in a notebook, where the text cannot be had."""

    def made(factor: float) -> type:
        space: dict[str, Any] = {}
        exec(f"class A:\n def f(self): return {factor}\n g = 1", space)
        return space["A"]

    from noiserobust.spec.references import digest_of

    assert digest_of(made(1), "A") == digest_of(made(1), "A") != digest_of(made(2), "A")
