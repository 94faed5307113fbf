"""Multiply-accumulates by weight: closed forms for every kind of layer, and torch's own counter for the total."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from noiserobust import UserError, analog_weights
from noiserobust.analog.macs import Macs, count_macs
from noiserobust.models import DigitsNet


def counted(model: nn.Module, inputs: Tensor) -> Macs:
    return count_macs(model, inputs, analog_weights(model))


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Linear(5, 3), (2, 5), 15),
        (nn.Linear(5, 3), (2, 7, 5), 7 * 15),
        (nn.Linear(5, 3, bias=False), (2, 4, 7, 5), 28 * 15),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 8), 16 * 6 * 4 * 9),
        (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 8, 8), 36 * 6 * 2 * 9),
        (nn.Conv1d(4, 6, 3), (2, 4, 8), 6 * 6 * 4 * 3),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 8, 8), 64 * 4 * 6 * 9),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 8, 8), 64 * 4 * 3 * 9),
    ],
)
def test_closed_forms(layer: nn.Module, shape: tuple[int, ...], expected: float) -> None:
    assert counted(layer, torch.zeros(shape)) == Macs({"weight": expected}, 0.0)


class Last(nn.Module):
    """A recurrent layer's outputs without its state."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_weight_is_used_once_per_step(kind: type[nn.RNNBase]) -> None:
    model = Last(kind(5, 4, num_layers=2, bidirectional=True, batch_first=True))
    found = counted(model, torch.zeros(3, 7, 5))
    assert found.other == 0
    assert found.by_weight == {weight.name: 7 * weight.parameter.numel() for weight in analog_weights(model)}


def test_attention_is_told_apart_from_its_projections() -> None:
    model = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    found = counted(model, torch.zeros(3, 5, 8))
    assert found.by_weight == {
        "self_attn.in_proj_weight": 5 * 3 * 64,
        "self_attn.out_proj.weight": 5 * 64,
        "linear1.weight": 5 * 128,
        "linear2.weight": 5 * 128,
    }
    assert found.other == 2 * 5 * 5 * 8  # queries with keys, and those weights with values
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_total_is_torchs_own_count() -> None:
    model, x = DigitsNet(4).build(1, 10).eval(), torch.zeros(6, 1, 8, 8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    found = counted(model, x)
    assert found.other == 0
    assert found.total * 6 * 2 == counter.get_total_flops()


class Odd(nn.Module):
    """One weight used twice and functionally, one unused, one changed before it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.unused, self.changed = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = functional.linear(x, self.twice.weight)
        return functional.linear(x, self.changed.weight * 2)


def test_what_cannot_be_attributed_is_not_made_up() -> None:
    found = counted(Odd(), torch.zeros(3, 4))
    assert found.by_weight["twice.weight"] == 32
    assert math.isnan(found.by_weight["unused.weight"])
    assert found.by_weight["changed.weight"] == 16  # a function of it, and of no other
    assert found.other == 0
    assert found.total == 48


def test_the_model_is_as_before() -> None:
    model = Last(nn.LSTM(5, 4)).train()
    counted(model, torch.zeros(3, 2, 5))
    assert model.inner.training
    assert not model.inner._forward_hooks
    assert not model.inner._forward_pre_hooks


def test_no_input_is_refused() -> None:
    with pytest.raises(UserError, match="at least one input"):
        counted(nn.Linear(2, 2), torch.zeros(0, 2))
