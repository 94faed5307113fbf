"""What strangers hand over in place of what is declared: taken where it is clear, else refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noiserobust import UserError, coverage, evaluate, perturbed, sharpness, yields
from noiserobust.data import load
from noiserobust.evaluation import Axis, Stop, Target
from noiserobust.noise import Gaussian
from noiserobust.spec.kinds import suits
from noiserobust.sweep import recommend, sweep
from noiserobust.training import RWP, SAM, Engine, Teacher, TrainSettings, fit

NOISE = "gaussian:0.1"

X, Y = torch.randn(16, 6, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3
NET = nn.Linear(6, 3)


def asked(model: Any = NET, data: Any = (X, Y), **options: Any) -> Any:
    return evaluate(model, data, "gaussian:0.1", **{"draws": 1, **options}).rows


def share(predictions: Tensor, labels: Tensor) -> Tensor:
    return (predictions.argmax(1) == labels).double().mean()


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 4, dtype=torch.complex64), nn.Linear(4, 40)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x.to(torch.complex64)).abs())


class Broken(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.nothing(x)  # type: ignore[operator]


class Constant(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "seed": (lambda: asked(seed=None), "expected int as seed, got NoneType"),
    "chips": (lambda: asked(chips={"reads": 2}), "expected Chips as chips, got dict"),
    "images": (lambda: asked(images=1.5), "images, got float 1.5"),
    "models and data swapped": (lambda: evaluate((X, Y), NET), "a run, their path, or several, got Tensor"),  # type: ignore[arg-type]
    "patterns": (lambda: coverage(NET, include=None), "as include, got NoneType"),  # type: ignore[arg-type]
    "draw": (lambda: perturbed(NET, "gaussian:0.1", draw=None), "expected int as draw"),  # type: ignore[arg-type]
    "above": (lambda: yields(asked(), above="x"), "as above, got str"),  # type: ignore[arg-type]
    "optimizer": (lambda: Engine(NET, None), "expected Optimizer as optimizer"),  # type: ignore[arg-type]
    "a field": (lambda: Gaussian(None), "gaussian: expected float as sigma, got NoneType"),  # type: ignore[arg-type]
    "a text in a field": (lambda: SAM(rho="x"), "sam: rho: expected a schedule"),  # type: ignore[arg-type]
    "a rule's noise": (lambda: RWP(0.1), "rwp: expected NoiseModel as noise"),  # type: ignore[arg-type]
    "sparse inputs": (lambda: asked(data=(X.to_sparse(), Y)), "expected images as a dense tensor, got a sparse_coo"),
    "a lambda": (lambda: asked(metrics=[lambda p, y: 1]), "expected a function with a name as a metric"),
    "two of one name": (lambda: asked(metrics=[share, type(share)(share.__code__, {})]), "two called 'share'"),
    "lazy": (lambda: asked(nn.LazyLinear(3)), "LazyLinear is lazy: run one batch through it first"),
    "an error inside": (lambda: asked(Broken(6, 3)), "has no attribute 'nothing'"),
    "no gradient": (lambda: sharpness(Constant(6, 3), (X, Y)), "expected a loss with a gradient, got none"),
    "settings": (lambda: fit({"epochs": 1}), "expected TrainSettings as settings, got dict"),  # type: ignore[arg-type]
    "splits": (lambda: fit(TrainSettings(), splits="digits"), "as splits, got str 'digits'"),  # type: ignore[arg-type]
    "data's name": (lambda: load(3), "as name, got int 3"),  # type: ignore[arg-type]
    "a teacher": (lambda: Teacher("runs"), "expected Module as model"),  # type: ignore[arg-type]
    "a target": (lambda: Target("half"), "expected float as half_width"),  # type: ignore[arg-type]
    "a stop": (lambda: Stop(within="1"), "as within, got str '1'"),  # type: ignore[arg-type]
    "an axis": (lambda: Axis(points="5"), "expected int as points"),  # type: ignore[arg-type]
    "a search": (lambda: recommend(NOISE, budget="all"), "as budget, got str 'all'"),  # type: ignore[arg-type]
    "a grid": (lambda: sweep(TrainSettings(), {"seed": 3}, [NOISE]), "in a list, got 3"),  # type: ignore[dict-item]
    "a complex Hessian": (lambda: sharpness(Complex(), (X, Y), "hessian_top"), "expected real weights for a Hessian"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_is_refused_in_one_line(case: str) -> None:
    call, reason = REFUSED[case]
    with pytest.raises(UserError) as caught:
        call()
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        network = nn.Linear(6, 3)
    with pytest.raises(UserError, match="made inside"):
        asked(network)


def test_texts_stand_for_settings() -> None:
    assert str(SAM(rho="linear(0.1)")) == "sam:linear(0.1)"  # type: ignore[arg-type]
    assert Gaussian("0.1") == Gaussian(0.1)  # type: ignore[arg-type]


def test_a_declaration_that_only_a_type_checker_knows_refuses_nothing() -> None:
    assert suits(object(), Any)
    assert suits([1, "a"], tuple[int, str])
    assert not suits([1, "a"], tuple[int, ...])


def test_true_and_false_are_two_classes() -> None:
    network = nn.Linear(6, 2)
    assert asked(network, (X, Y > 0))["value"].tolist() == asked(network, (X, (Y > 0).long()))["value"].tolist()


@pytest.mark.parametrize("metrics", [share, [share], {"share": share}], ids=["one", "several", "by name"])
def test_functions_are_metrics(metrics: Any) -> None:
    rows = asked(metrics=metrics).set_index("metric")["value"]
    assert 100 * rows["share"] == pytest.approx(rows["accuracy"])


def test_complex_weights_stay_digital() -> None:
    found = {row.name: row.reason for row in coverage(Complex()).rows}
    assert found["inner.weight"].startswith("complex")
    assert found["outer.weight"] == ""
