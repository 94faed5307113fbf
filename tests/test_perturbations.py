"""A rule steps with the perturbation that measures visit: one object, made once a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from methods import METHODS, OFF, ON, batch, few_digits, sgd, smooth_net, weights

from noiserobust.errors import UserError
from noiserobust.minima import Ascent, Filters, Perturbation, Random, Surface, Unperturbed
from noiserobust.models import DigitsNet
from noiserobust.noise import Gaussian
from noiserobust.training import (
    GSAM,
    RST,
    SAM,
    Engine,
    Linear,
    Method,
    MixedRWP,
    Progress,
    Schedule,
    TrainSettings,
    fit,
)

DATA = batch(dtype=torch.float64)
VISITABLE = [text for text in METHODS if Method.parse(text).visitable and not text.startswith(("saf", "mesa"))]


@dataclass(frozen=True)
class Counted(Schedule):
    """0.1 throughout; every call is noted. Not registered: it exists here alone."""

    name: ClassVar[str] = "test-counted"
    calls: ClassVar[list[int]] = []

    def __call__(self, progress: Progress) -> float:
        self.calls.append(progress.step)
        return 0.1


@pytest.fixture
def calls() -> list[int]:
    Counted.calls.clear()
    return Counted.calls


@pytest.mark.parametrize("text", VISITABLE)
def test_the_step_is_at_the_point_that_a_measure_visits(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last backward pass of a step is taken, against the same perturbation applied to a surface."""
    model, points = smooth_net(), []
    original = Engine.gradient

    def spied(engine: Engine, *args: object, **settings: object) -> object:
        points.append(weights(model))
        return original(engine, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "gradient", spied)
    engine = sgd(model)
    method = Method.parse(text)
    out = method.step(engine, DATA, ON)
    assert out.strength == method.strength(ON)
    if len(points) == 1 and not isinstance(out.perturbation, Random):
        return  # a coin on tails, or plain training
    twin = smooth_net()
    surface = Surface(twin.train(), [DATA])
    last = getattr(method, "draws", 1) - 1
    names = ["filters", ON.step, *[last] * (last > 0)] if isinstance(out.perturbation, Filters) else [ON.step, last]
    perturbation = out.perturbation
    if getattr(method, "antithetic", False):  # the last one is the other half of its pair
        names, perturbation = [ON.step, last // 2], replace(perturbation, mirrored=True)
    gradient = surface.gradient()[1] if perturbation.follows_gradient else []
    with perturbation.moved(surface, gradient, engine.stream(*names)):
        for here, there in zip(weights(twin), points[-1], strict=True):
            torch.testing.assert_close(here, there, rtol=1e-12, atol=1e-12)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(weights(twin), points[-1], strict=True))


def test_gsam_tells_the_radius_that_follows_the_learning_rate() -> None:
    engine = sgd(smooth_net())
    engine.optimizer.param_groups[0]["lr"] *= 0.25
    out = GSAM(0.2, follow_lr=True, rho_min=0.04).step(engine, DATA, ON)
    assert out.perturbation == Ascent(0.04 + 0.25 * 0.16)
    assert out.strength == pytest.approx(0.08)


@pytest.mark.parametrize(
    "method", [SAM(Counted()), RST(SAM(Counted()), p=0.5), GSAM(Counted()), MixedRWP(Counted())], ids=lambda m: m.name
)
def test_a_schedule_is_evaluated_once_a_step(method: Method, calls: list[int], tmp_path: Path) -> None:
    """Also with a log that measures where the rule steps."""
    few = {"epochs": 2, "batch_size": 32, "validation": 0.2, "select_draws": 1, "log_images": 20}
    settings = TrainSettings(model=DigitsNet(2), method=method, log=("gradient_sharpness",), **few)
    run = fit(settings, tmp_path, splits=few_digits(100))
    assert calls == list(range(6))
    assert list(run.log["strength"]) == [0.1, 0.1]


def test_strength_0_is_said_too() -> None:
    out = SAM(Linear(0.1)).step(sgd(smooth_net()), DATA, OFF)
    assert (out.perturbation, out.strength) == (Ascent(0.0), 0.0)
    assert Method.parse("plain").step(sgd(smooth_net()), DATA, ON).perturbation == Unperturbed()


def test_a_gradient_is_used_up() -> None:
    """So that no copy of it is held while the next one is taken."""
    engine = sgd(smooth_net())
    engine.gradient(DATA)
    gradient = engine.take()
    with engine.perturbed(Ascent(0.1), gradient=gradient):
        assert gradient == []
    assert all(p.grad is None for p in engine.parameters)


def test_by_batches() -> None:
    assert Random(Gaussian(0.1), 2).by_batches(8) == Random(Gaussian(0.1), 2, m=8)

    @dataclass(frozen=True)
    class Still(Perturbation, name="test-still"):
        pass

    try:
        with pytest.raises(UserError, match="test-still: expected a field m"):
            Still().by_batches(8)
    finally:
        del Perturbation.registry["test-still"]
