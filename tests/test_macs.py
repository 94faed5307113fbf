"""Multiply-accumulates by weight: closed forms for every kind of layer, and torch's own counter for the total."""

from __future__ import annotations

import math
from typing import Any

import architectures
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from noiserobust import UserError, analog_weights
from noiserobust.analog.macs import Macs, count_macs
from noiserobust.analog.tracing import open_attention, traced
from noiserobust.models import DigitsNet


def counted(model: nn.Module, inputs: Any) -> Macs:
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


@pytest.mark.parametrize(
    ("library", "name"),
    [
        *(("language", name) for name in ("GPT2", "Llama", "Gemma2", "Bloom", "Bert", "Mamba", "XLNet", "OPT")),
        *(("torchvision", name) for name in ("resnext50_32x4d", "mobilenet_v3_small", "shufflenet_v2_x0_5", "swin_t")),
        *(("timm", name) for name in ("convnext_atto", "levit_128s", "mobilevit_xxs")),
    ],
)
@pytest.mark.filterwarnings("default")  # other people's networks warn of other things
def test_every_architecture_has_torchs_own_total(library: str, name: str) -> None:
    model, forward = getattr(architectures, library)(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), open_attention():
        forward()
    assert traced(model, forward).total * 2 == counter.get_total_flops()


@pytest.mark.parametrize(("name", "chosen", "size"), [("Mixtral", 2, 48), ("GptOss", 4, 48), ("Qwen2Moe", 2, 24)])
@pytest.mark.filterwarnings("default")
def test_experts_are_counted_by_the_tokens_that_chose_them(name: str, chosen: int, size: int) -> None:
    model, _ = architectures.language(name)
    by_weight = counted(model, {"input_ids": torch.arange(3, 17).view(2, 7)}).by_weight
    for layer in range(2):
        experts = f"model.layers.{layer}.mlp.experts"
        assert by_weight[f"{experts}.gate_up_proj"] == 7 * chosen * 32 * 2 * size
        assert by_weight[f"{experts}.down_proj"] == 7 * chosen * 32 * size
    assert not any(math.isnan(count) for count in by_weight.values())


class Pair(nn.Module):
    """Two inputs, one weight for each pair of their elements."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Bilinear(3, 4, 5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.both(left, right)


@pytest.mark.parametrize("named", [False, True])
def test_a_bilinear_weight_is_used_once_per_sample(named: bool) -> None:
    left, right = torch.zeros(2, 3), torch.zeros(2, 4)
    found = counted(Pair(), {"left": left, "right": right} if named else (left, right))
    assert found == Macs({"weight": 3 * 4 * 5}, 0.0)


class Own(nn.Module):
    """What layers of one's own do: einsum, experts gathered by token, a cast, a cache, a sparse graph."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Parameter(torch.randn(3, 4, 5))
        self.experts = nn.Parameter(torch.randn(6, 15, 7))
        self.rounded = nn.Parameter(torch.randn(7, 2, dtype=torch.float64))
        self.graph = (torch.arange(64).view(8, 8) % 3 == 0).float().to_sparse()
        self.register_buffer("cache", torch.zeros(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bi,hio->bho", x, self.heads).flatten(1)
        x = torch.bmm(x[:, None], self.experts[x.argmax(1) % 6])[:, 0]
        self.cache.copy_(x @ self.rounded.float())
        x = torch.sparse.mm(self.graph, self.cache)
        return x @ x.T


def test_weights_are_followed_through_copies_and_activations_through_buffers() -> None:
    model = Own()
    watch = traced(model, lambda: model(torch.randn(8, 4)))
    seen = {name: (watch.of(weight).macs, watch.of(weight).axes) for name, weight in model.named_parameters()}
    assert seen == {
        "heads": (8 * 60, {(0, 2)}),
        "experts": (8 * 15 * 7, {(0, 2)}),
        "rounded": (8 * 7 * 2, {(1,)}),
    }
    assert watch.activations == model.graph._nnz() * 2 + 8 * 8 * 2


def test_a_parametrised_weight_is_its_largest_part() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.Linear(3, 2))
    x = torch.zeros(5, 4)
    watch = traced(model, lambda: model(x))
    direction = watch.of(model[0].parametrizations.weight.original1)
    assert (direction.macs, direction.changed, direction.axes) == (60, True, set())
    assert watch.total == 5 * (12 + 6)


def test_the_model_is_as_before() -> None:
    model = Last(nn.LSTM(5, 4)).train()
    counted(model, torch.zeros(3, 2, 5))
    assert model.inner.training
    assert not model.inner._forward_hooks
    assert not model.inner._forward_pre_hooks


def test_no_input_is_refused() -> None:
    with pytest.raises(UserError, match="at least one input"):
        counted(nn.Linear(2, 2), torch.zeros(0, 2))
