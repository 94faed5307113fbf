"""Schedulers by name, a loss of one's own, gradient checkpointing, compiled passes: against plain torch; resumed."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from methods import few_digits
from torch import Tensor, nn

from noiserobust import UserError
from noiserobust.data import Batch, Splits
from noiserobust.models import ModelSpec
from noiserobust.rng import Stream, seeded
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.training import Engine, Method, Progress, TrainSettings, fit
from noiserobust.training.checkpointing import blocks, checkpointed
from noiserobust.training.compiling import compiled
from noiserobust.training.learning_rates import KNOWN, LearningRate


@pytest.fixture(scope="module")
def splits() -> Splits:
    return few_digits(200)


def settings(**changes: Any) -> TrainSettings:
    given: dict[str, Any] = {"epochs": 3, "batch_size": 60, "model": "digits:2", "select_draws": 1}
    return TrainSettings(**given | changes)


def sgd(lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=lr, momentum=0.9)


class TestSchedules:
    @pytest.mark.parametrize(
        ("text", "options", "by_step"),
        [
            ("StepLR:step_size=2,gamma=0.5", {"step_size": 2, "gamma": 0.5}, False),
            ("steplr:step_size=3,gamma=0.5,every=step", {"step_size": 3, "gamma": 0.5}, True),
            ("MultiStepLR:milestones=(1,3)", {"milestones": (1, 3)}, False),
            ("CosineAnnealingLR", {"T_max": 4}, False),
            ("CosineAnnealingLR:eta_min=0.01,every=step", {"T_max": 12, "eta_min": 0.01}, True),
            (
                "OneCycleLR:anneal_strategy=linear",
                {"max_lr": 0.1, "total_steps": 12, "anneal_strategy": "linear"},
                True,
            ),
            ("CyclicLR:base_lr=0.01,step_size_up=4", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4}, True),
            ("LinearLR:total_iters=3", {"total_iters": 3}, False),
        ],
    )
    def test_rates_are_those_of_torch(self, text: str, options: dict[str, Any], by_step: bool) -> None:
        optimizer, twin = sgd(), sgd()
        rate = LearningRate(text, optimizer, 0.1, 12, 3)
        name = next(name for name in KNOWN if name.lower() == text.partition(":")[0].lower())
        theirs = KNOWN[name](twin, **options)
        for step in range(12):
            assert rate.begin(step) == twin.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
            assert optimizer.param_groups[0]["momentum"] == twin.param_groups[0]["momentum"]
            optimizer.step()
            twin.step()
            rate.end()
            if by_step:
                theirs.step()
            if step % 3 == 2:
                rate.end_epoch({"train_loss": 1.0})
                if not by_step:
                    theirs.step()

    def test_a_warmup_multiplies(self) -> None:
        rate = LearningRate("StepLR:step_size=1,gamma=0.5", sgd(), 0.1, 12, 3, warmup=4)
        found = []
        for step in range(8):
            found.append(rate.begin(step))
            rate.end()
            if step % 3 == 2:
                rate.end_epoch({"train_loss": 1.0})
        assert found == pytest.approx([0.02, 0.04, 0.06, 0.04, 0.05, 0.05, 0.025, 0.025])

    def test_the_plateau_is_that_of_the_perturbed_loss(self) -> None:
        optimizer = sgd()
        rate = LearningRate("ReduceLROnPlateau:patience=0,factor=0.5", optimizer, 0.1, 9, 3)
        for perturbed in (2.0, 1.0, 1.5):
            rate.begin(0)
            rate.end()
            rate.end_epoch({"train_loss": 0.0, "perturbed_loss": perturbed})
        assert optimizer.param_groups[0]["lr"] == 0.05

    @pytest.mark.parametrize("text", ["OneCycleLR", "ReduceLROnPlateau:patience=0,threshold=0.5"])
    def test_resumed_bit_for_bit(self, text: str, splits: Splits, tmp_path: Path) -> None:
        def stop(line: dict[str, Any]) -> None:
            if line["epoch"] == 1:
                raise KeyboardInterrupt

        whole = fit(settings(lr_schedule=text), tmp_path / "whole", splits=splits)
        with pytest.raises(KeyboardInterrupt):
            fit(settings(lr_schedule=text), tmp_path / "parts", splits=splits, on_epoch=stop)
        parts = fit(settings(lr_schedule=text), tmp_path / "parts", splits=splits)
        assert read_checkpoint(whole.checkpoint).digest == read_checkpoint(parts.checkpoint).digest
        assert list(whole.log["lr"]) == list(parts.log["lr"])

    @pytest.mark.parametrize(
        ("text", "fragment"),
        [
            ("StepLl:step_size=1", "did you mean StepLR"),
            ("StepLR", "missing 1 required positional argument: 'step_size'"),
            ("StepLR:step_size=1,gama=1", "unexpected keyword argument 'gama'"),
            ("StepLR:step_size=1,every=month", "expected every=step or every=epoch"),
            ("StepLR:step_size=0", "scheduler 'StepLR:step_size=0': integer modulo by zero"),
            ("CosineAnnealingLR:T_max=0", "scheduler 'CosineAnnealingLR:T_max=0': integer modulo by zero"),
            ("StepLR:1", "expected key=value"),
            ("SequentialLR", "expected a scheduler of torch.optim.lr_scheduler"),
            ("ReduceLROnPlateau:every=step", "expected every=epoch"),
        ],
    )
    def test_refusals(self, text: str, fragment: str) -> None:
        with pytest.raises(UserError, match=fragment):
            settings(lr_schedule=text)


def halved(predictions: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(predictions, labels, reduction="none") / 2


class TestLoss:
    def test_of_ones_own(self, splits: Splits, tmp_path: Path) -> None:
        """Half of the loss at twice the rate is the same training by SGD."""
        common: dict[str, Any] = {"weight_decay": 0.0, "label_smoothing": 0.0, "optimizer": "SGD", "epochs": 1}
        runs = [
            fit(settings(**common, lr=0.02), tmp_path, splits=splits),
            fit(settings(**common, lr=0.04, loss=f"{__name__}:halved"), tmp_path, splits=splits),
        ]
        first, second = (read_checkpoint(run.checkpoint).weights for run in runs)
        for name, value in first.items():
            torch.testing.assert_close(value, second[name], rtol=1e-4, atol=1e-6)

    def test_refusals(self, splits: Splits, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"expected a loss as package.module:function"):
            settings(loss="halved")
        with pytest.raises(UserError, match="no_such_loss"):
            fit(settings(loss=f"{__name__}:no_such_loss"), tmp_path, splits=splits)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.2)
        nn.utils.parametrizations.spectral_norm(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.norm(self.conv(x)).relu())


def residual() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(Residual(), Residual()), nn.Flatten(), nn.Linear(144, 3))


def flat() -> nn.Module:
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(144, 3)
    return nn.Sequential(*layers)


def short_rows() -> nn.Module:
    rows = [nn.Sequential(nn.Conv2d(k, 4, 3), nn.BatchNorm2d(4), nn.ReLU()) for k in (1, 4)]
    return nn.Sequential(*rows, nn.Flatten(), nn.Linear(64, 3))


class TestCheckpointing:
    @pytest.mark.parametrize("build", [residual, flat, short_rows])
    @pytest.mark.parametrize("method", ["rwp:gaussian(0.1)", "gsam:0.1"])
    @pytest.mark.parametrize(
        "io", ["none", "io:dac=5,adc=6,noise=0.05,learnt=true", "io:dac=5,percentile=99.0,images=20"]
    )
    def test_bit_for_bit(self, build: Any, method: str, io: str) -> None:
        """Weights, statistics, spectral vectors, ranges, and where the global generator stands."""
        x, y = Stream(0, "x").normal((12, 1, 8, 8)), torch.arange(12) % 3
        found: list[list[Tensor]] = []
        for again in (False, True):
            with seeded(Stream(0, "net")):
                model = build()
            engine = Engine(model, torch.optim.SGD(model.parameters(), lr=0.05), converters=io)
            with seeded(Stream(0, "masks")):
                with checkpointed(model) if again else nullcontext():
                    for step in range(3):
                        batch = Batch(x, y)
                        Method.parse(method).step(engine, batch.split(2) if step else batch, Progress(step, 3))
                last = torch.rand(1)
            ranges = [part for one in engine.periphery.ranges for part in (one.inputs, one.outputs) if part is not None]
            found.append([*model.state_dict().values(), *ranges, last])
        assert all(map(torch.equal, *found))

    def test_blocks(self) -> None:
        assert [type(block).__name__ for block in blocks(ModelSpec.parse("resnet18:2").build(1, 3))] == [
            "BasicBlock"
        ] * 8
        layer = nn.TransformerEncoderLayer(8, 2, 8)
        assert [*blocks(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))]
        assert [type(block) for block in blocks(flat())] == [nn.Sequential]
        digits = ModelSpec.parse("digits:4").build(1, 10)
        assert [*blocks(digits)] == [digits.conv1, digits.conv2, digits.conv3]  # rows of three layers in a row
        with (
            pytest.raises(UserError, match="expected blocks in a ModuleList or Sequential"),
            checkpointed(nn.Linear(2, 2)),
        ):
            pass

    def test_gone_afterwards(self) -> None:
        model = residual()
        with pytest.raises(ZeroDivisionError), checkpointed(model):
            raise ZeroDivisionError
        assert not any("forward" in vars(module) for module in model.modules())

    def test_in_a_run_it_changes_no_name_and_no_bit(self, splits: Splits, tmp_path: Path) -> None:
        runs = [
            fit(settings(model="resnet18:2", epochs=1, checkpointing=on), tmp_path / str(on), splits=splits)
            for on in (False, True)
        ]
        assert runs[0].folder.name == runs[1].folder.name
        assert len({read_checkpoint(run.checkpoint).digest for run in runs}) == 1


class TestCompiled:
    def test_the_run_is_that_of_the_compiled_network(
        self, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[nn.Module] = []

        def traced(model: nn.Module, device: torch.device) -> Any:
            seen.append(model)
            return torch.compile(model, backend="eager")

        monkeypatch.setattr("noiserobust.training.trainer.compiled", traced)
        common: dict[str, Any] = {"method": "rwp:gaussian(0.1)", "epochs": 1}
        runs = [fit(settings(**common, compile=on), tmp_path, splits=splits) for on in (False, True)]
        assert len(seen) == 1
        assert runs[0].folder != runs[1].folder
        first, second = (read_checkpoint(run.checkpoint).weights for run in runs)
        assert list(first) == list(second)
        for name, value in first.items():
            torch.testing.assert_close(value, second[name], rtol=1e-4, atol=1e-5)

    def test_no_compiler_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("no working C++ compiler")

        monkeypatch.setattr(torch, "compile", broken)
        with pytest.raises(UserError, match="expected a compiler for compile on cpu"):
            compiled(nn.Linear(2, 2), torch.device("cpu"))

    def test_refusals(self) -> None:
        for more in ({"converters": "io:dac=8"}, {"checkpointing": True}):
            with pytest.raises(UserError, match="beside compile"):
                settings(compile=True, **more)


@pytest.mark.parametrize("loss", [lambda: 0, lambda predictions, labels: None])
def test_a_loss_that_is_none_is_refused(loss: Any) -> None:
    model = nn.Linear(4, 3)
    engine = Engine(model, torch.optim.SGD(model.parameters(), lr=0.1), loss=loss)
    with pytest.raises(UserError, match="expected a loss"):
        Method.parse("plain").step(engine, Batch(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)), Progress(0, 1))
