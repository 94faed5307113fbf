"""Layer studies that give outputs again: the rows of the plain way bit for bit, for less work, whatever the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from noiserobust.evaluation import Chips, Compute, Stop, keep_digital, sensitivity
from noiserobust.evaluation.design import neighbours
from noiserobust.models.reuse import Reuse

PLAIN = Compute(reuse=0)


class Convolutional(nn.Module):
    """In-place activations, a norm to fold, a layer called twice, a branch, and code between modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.act = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.b, self.side, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1), nn.Linear(6 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.a(x)))
        x = functional.max_pool2d(torch.relu(self.b(self.b(x)) + self.side(x)), 2)
        x += 0.1
        return self.head(x.flatten(1))


class Attention(nn.Module):
    """A transformer's layer, tied matrices, and several arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(12, 12), nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)
        self.tied, self.head = nn.Linear(12, 12), nn.Linear(12, 4)
        self.tied.weight = self.first.weight

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        parts = self.layer(self.first(x.flatten(1).view(-1, 3, 12)), src_key_padding_mask=None)
        return {"logits": self.head(torch.cat([parts, self.tied(parts)], 1).mean(1))}


class Remembering(nn.Module):
    """Its second layer reads what its first one saw, behind the modules' backs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(36, 8), _Reader(8, 8), nn.Linear(8, 4)
        self.b.other = [self.a]

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x.flatten(1)).detach() * 0 + 1))


class _Reader(nn.Linear):
    other: list[nn.Linear]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.other[0].weight.sum()


class Random(nn.Sequential):
    """Dropout that eval mode does not turn off."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.dropout(x.flatten(1), 0.5))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutional": Convolutional,
    "attention": Attention,
    "flat": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 9), nn.Tanh(), nn.Linear(9, 9), nn.Linear(9, 4)),
}


def network(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORKS[name]().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_var, 0.5, 2)
    return model


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 1, 6, 6, generator=generator), torch.randint(0, 4, (64,), generator=generator)


def ordered(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values(["digital", "seed", "draw", "read", "metric"]).reset_index(drop=True)


def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sets were measured together at a time, 0 where that was not to be trusted."""
    counts: list[int] = []
    measured = neighbours.measured_together

    def watched(*arguments: Any) -> dict[str, pd.DataFrame]:
        counts.append(len(found := measured(*arguments)))
        return found

    monkeypatch.setattr("noiserobust.evaluation.design.layers.measured_together", watched)
    return counts


@pytest.mark.parametrize(
    ("name", "noise"), [("convolutional", "gaussian:0.2"), ("convolutional", "pcm"), ("attention", "gaussian:0.2")]
)
def test_rows_of_the_plain_way(
    name: str, noise: str, data: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, counts = network(name), together(monkeypatch)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    chips = Chips(times=["1h"], reads=2, compensation="global") if noise == "pcm" else Chips()
    settings = {"noise": noise, "draws": 1, "chips": chips}
    plain = sensitivity(model, data, compute=Compute(reuse=0, batch_size=24), **settings).rows
    assert not counts
    fast = sensitivity(model, data, compute=Compute(batch_size=24), **settings).rows
    pd.testing.assert_frame_equal(ordered(fast), ordered(plain), check_exact=True)
    layers = sum(isinstance(module, (nn.Linear, nn.Conv2d)) for module in model.modules())
    assert min(counts) >= layers - 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(vars(module).get("_compiled_call_impl") for module in model.modules())
    assert all(getattr(module, "inplace", True) for module in model.modules() if isinstance(module, nn.ReLU))


@pytest.mark.parametrize("make", [Remembering, lambda: Random(nn.Linear(36, 9), nn.Linear(9, 4))])
def test_what_cannot_be_given_again_is_computed(
    make: Callable[[], nn.Module], data: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What modules read, keep or draw behind their arguments shows on a few samples: every set is then evaluated."""
    model, counts = make(), together(monkeypatch)
    result = sensitivity(model, data, "gaussian:0.2", draws=1)
    assert set(counts) == {0}
    if isinstance(model, Remembering):
        plain = sensitivity(model, data, "gaussian:0.2", draws=1, compute=PLAIN)
        pd.testing.assert_frame_equal(result.rows, plain.rows)


def test_layers_in_front_are_computed_once(data: tuple[Tensor, Tensor]) -> None:
    """Of a chain the j-th of L layers is computed for itself and those before it, not for every layer."""
    model, calls = network("flat"), [0, 0, 0]
    layers = [module for module in model if isinstance(module, nn.Linear)]
    for index, layer in enumerate(layers):

        def counted(x: Tensor, index: int = index, layer: nn.Linear = layer) -> Tensor:
            calls[index] += len(x) == 64
            return functional.linear(x, layer.weight, layer.bias)

        layer.forward = counted  # type: ignore[method-assign]
    passes = {}
    for compute in (PLAIN, Compute()):
        settings = Compute(reuse=compute.reuse, batch_size=64)
        calls[:] = [0, 0, 0]
        sensitivity(model, data, "gaussian:0.2", draws=1, compute=settings)
        passes[compute.reuse] = list(calls)
    first, second, last = (many - few for many, few in zip(passes[0], passes[1024], strict=True))
    assert first > second > last > 0


def test_memory_has_a_limit(data: tuple[Tensor, Tensor]) -> None:
    """Fewer and larger modules are kept, and fewer batches at a time, where less memory may be taken."""
    sizes = []
    for depth in (1, 2, None):
        model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(36, 50), nn.Linear(50, 4)))
        reuse = Reuse(model, depth)
        with torch.no_grad(), reuse.open():
            for index in range(2):
                with reuse.noted(index):
                    model(data[0])
            sizes.append(reuse.bytes_by_depth(1))
    inputs, hidden, output = 64 * 36 * 4, 64 * 50 * 4, 64 * 4 * 4
    assert sizes == [[inputs + output] * 2, [inputs + output, inputs + hidden + output], sizes[1]]


def test_keep_digital_chooses_the_same(data: tuple[Tensor, Tensor]) -> None:
    model, stop = network("flat"), Stop(max_layers=2)
    fast, plain = (
        keep_digital(model, data, "gaussian:0.3", draws=1, stop=stop, compute=compute) for compute in (Compute(), PLAIN)
    )
    assert fast.chosen == plain.chosen
    pd.testing.assert_frame_equal(fast.summary(), plain.summary())
