"""Layers that write their weights while they compute, and layers that multiply by other operations than torch's."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import noiserobust
from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.training import Engine, Method, Progress

X, Y = torch.randn(32, 12), torch.arange(32) % 3
NOISE = "gaussian:0.05"


class LimitedByData(nn.Linear):
    """As EEGNet's constraint is usually written."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=0.5)
        return super().forward(x)


class LimitedInPlace(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.clamp_(-0.1, 0.1)
        return functional.linear(x, self.weight, self.bias)


class BinaryNet(nn.Linear):
    """As BinaryNet's published code is."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self.weight, "org"):
            self.weight.org = self.weight.data.clone()  # type: ignore[attr-defined]
        self.weight.data = self.weight.org.sign()  # type: ignore[attr-defined]
        return functional.linear(x, self.weight, self.bias)


class Einsum(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,oi->bo", x, self.weight) + self.bias


class Tensordot(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensordot(x, self.weight, dims=([-1], [1])) + self.bias


class Halves(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([functional.linear(x, half) for half in self.weight.chunk(2)], -1) + self.bias


class InputsFirst(nn.Linear):
    """Square, so that nothing but the product says which dimension counts outputs."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,io->bo", x, self.weight) + self.bias


class ElementWise(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return (x[..., None, :] * self.weight).sum(-1) + self.bias


class NormBeside(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,oi->bo", x, self.weight) / self.weight.norm()


@pytest.mark.parametrize("kind", [LimitedByData, LimitedInPlace, BinaryNet])
def test_noise_is_on_the_value_that_the_layer_writes(kind: Any) -> None:
    torch.manual_seed(0)
    layer, plain = nn.Sequential(kind(12, 8)), nn.Sequential(nn.Linear(12, 8))
    layer(X)
    plain.load_state_dict(layer.state_dict())
    clean = layer(X)
    before = layer[0].weight.detach().clone()
    with noiserobust.perturbed(layer, NOISE, draw=1), noiserobust.perturbed(plain, NOISE, draw=1):
        assert torch.equal(layer(X), plain(X))
        assert not torch.equal(layer(X), clean)
    assert torch.equal(layer(X), clean)
    assert torch.equal(layer[0].weight, before)


def test_a_limit_that_today_s_weights_do_not_reach_is_seen() -> None:
    layer = nn.Sequential(LimitedByData(12, 8))
    with torch.no_grad():
        layer[0].weight.mul_(0.01 / layer[0].weight.norm(dim=1, keepdim=True))
    (weight,) = noiserobust.analog_weights(layer)
    assert type(weight).__name__ == "Inside"


def test_training_steps_under_noise_keep_the_limit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(LimitedByData(12, 8), nn.Tanh(), nn.Linear(8, 3))
    engine = Engine(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for step, rule in enumerate(("rwp:gaussian(0.1)", "sam:0.1", "rwp:gaussian(0.1)")):
        before = model[0].weight.detach().clone()
        Method.parse(rule).step(engine, Batch(X, Y), Progress(step, 9))
        assert not torch.equal(model[0].weight, before)
    model(X)
    assert model[0].weight.norm(dim=1).max() <= 0.5 + 1e-6


def test_other_passes_that_write_weights_are_refused() -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.layer.weight.copy_((self.layer.weight * 8).round() / 8)
            return self.layer(x)

    def clamp(module: Any, args: Any) -> None:
        module.weight.data.clamp_(-0.2, 0.2)

    hooked = nn.Sequential(nn.Linear(12, 3), nn.Linear(3, 3))
    hooked[0].register_forward_pre_hook(clamp)
    for model, name in ((Rounded(), "weight"), (hooked, "0.weight")):
        with pytest.raises(UserError, match=f"expected weights that a forward pass leaves as they are, got {name}"):
            noiserobust.evaluate(model, (X, Y), NOISE, draws=1)


@pytest.mark.parametrize("kind", [Einsum, Tensordot, Halves])
def test_weights_multiplied_as_they_lie_are_noisy(kind: Any) -> None:
    torch.manual_seed(0)
    layer, plain = kind(12, 8), nn.Linear(12, 8)
    plain.load_state_dict(layer.state_dict())
    with noiserobust.perturbed(nn.Sequential(layer), NOISE), noiserobust.perturbed(nn.Sequential(plain), NOISE):
        assert torch.equal(layer.weight, plain.weight)


def test_the_product_says_the_axis() -> None:
    torch.manual_seed(0)
    layer, plain = InputsFirst(12, 12), nn.Linear(12, 12)
    with torch.no_grad():
        layer.weight[:, 0] *= 100
        plain.weight.copy_(layer.weight.T)
    with noiserobust.perturbed(nn.Sequential(layer), NOISE), noiserobust.perturbed(nn.Sequential(plain), NOISE):
        assert torch.equal(layer.weight, plain.weight.T)


@pytest.mark.parametrize("kind", [ElementWise, NormBeside])
def test_weights_used_otherwise_too_stay_digital(kind: Any) -> None:
    model = nn.Sequential(kind(12, 8), nn.Linear(8, 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        noiserobust.evaluate(model, (X, Y), NOISE, draws=1)
    assert any("stay digital" in str(one.message) for one in caught)
    assert [weight.name for weight in noiserobust.analog_weights(model)] == ["1.weight"]
