"""Networks whose weights cannot be moved, or that do not look at them, are refused in one line."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noiserobust import UserError, coverage, evaluate, perturbed
from noiserobust.analog.noisy import NoisyWeights
from noiserobust.data import Batch
from noiserobust.evaluation import Where
from noiserobust.evaluation.frozen import require_effect

X, Y = torch.linspace(-1, 1, 240).reshape(40, 6), torch.arange(40) % 3


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()


def values(model: nn.Module, noise: str = "gaussian:0.3", **options: Any) -> list[float]:
    return evaluate(model, (X, Y), noise, draws=2, **options).rows.value.tolist()


class Caching(nn.Module):
    """Computes with copies that it made of its weights in its first pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)
        self._copies: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self._copies = self._copies or [p.detach().clone() for p in self.parameters()]
        a, b, c, d = self._copies
        return torch.tanh(x @ a.T + b) @ c.T + d


@pytest.mark.filterwarnings("ignore:only .* of the multiply-accumulates:UserWarning")
def test_networks_with_frozen_weights_are_noticed():
    model = Caching()
    with torch.no_grad():
        model(X)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match="frozen copies"):
        values(model)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert values(model, "gaussian:0")  # without noise it is an honest evaluation


class Cached(nn.Linear):
    """Computes with a copy of its weight that it made in its first pass, scaled by a gain."""

    def __init__(self, inputs: int, outputs: int, caches: bool = True, gain: float = 1.0) -> None:
        super().__init__(inputs, outputs)
        self.gain, self.caches, self.kept = nn.Parameter(torch.tensor(gain)), caches, torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.kept.numel() or not self.caches:
            self.kept = self.weight.detach().clone()
        return self.gain * (x @ self.kept.T) + x.mean()


@pytest.mark.filterwarnings("ignore:weights of Cached stay digital:UserWarning")
def test_a_single_layer_with_a_cache_is_noticed():
    where = Where(include=["1.weight@0"])
    model = nn.Sequential(nn.Linear(6, 5), Cached(5, 5), nn.Linear(5, 3)).eval()
    model(X)
    with pytest.raises(UserError, match=r"of 1\.weight under any noise.*frozen copy"):
        values(model, where=where)
    assert values(model, where=Where(exclude=["1.weight"]))
    assert values(nn.Sequential(nn.Linear(6, 5), Cached(5, 5, caches=False), nn.Linear(5, 3)), where=where)
    # A gain of 0 makes a layer silent, and no layer frozen.
    assert values(nn.Sequential(nn.Linear(6, 5), Cached(5, 5, False, 0.0), nn.Linear(5, 3)), where=where)


class Chosen(nn.Module):
    """Whole numbers as answers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).argmax(1)


def test_small_effects_are_no_frozen_weights():
    plain = net()
    assert values(plain, "gaussian:1e-12")  # every answer is the clean one
    assert values(net().bfloat16(), "gaussian:1e-6")
    zeros = net()
    nn.init.zeros_(zeros[2].weight)  # relative noise leaves it 0
    assert values(zeros)
    chosen = Chosen()
    require_effect(NoisyWeights(chosen), lambda batch: chosen(batch.inputs), Batch(X, Y), "fp32")
    silent = nn.Sequential(nn.Linear(6, 3))
    assert evaluate(silent, (torch.zeros(9, 6), Y[:9]), "gaussian:0.1", draws=1).rows.value.notna().all()


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.auxiliary = net(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + self.auxiliary(x) if self.training else self.net(x)


def test_layers_that_are_not_in_use_may_be_the_noisy_ones():
    model = Auxiliary().eval()
    noisy = values(model, where=Where(exclude=["*"], include=["auxiliary.weight"]))
    assert noisy == values(model, "gaussian:0")


def test_the_probe_leaves_no_trace():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    values(model)
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_programs_and_weights_elsewhere_are_refused_in_one_line():
    scripted = torch.jit.script(net())
    exported = torch.export.export(net(), (X,)).module()
    compiled = torch.compile(net())
    accelerate = pytest.importorskip("accelerate")
    offloaded = accelerate.cpu_offload(net(), execution_device=torch.device("cpu"))
    cases = {
        "TorchScript program": [scripted, torch.jit.trace(net(), X[:2]), nn.Sequential(torch.jit.freeze(scripted))],
        "exported program": [exported, nn.Sequential(exported)],
        "meta device": [net().to("meta")],
        "accelerate offloads": [offloaded],
    }
    for said, models in cases.items():
        for model in models:
            for use in (lambda model: perturbed(model, "gaussian:0.1").__enter__(), values):
                with pytest.raises(UserError, match=said) as error:
                    use(model)
                assert "\n" not in str(error.value)
    with torch._inductor.config.patch(freezing=True), pytest.raises(UserError, match="freezing"):
        values(compiled)
    # What coverage needs is there.
    assert coverage(net().to("meta")).noisy == coverage(offloaded).noisy == coverage(net()).noisy


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_scripted_activation_is_part_of_a_network():
    activation = torch.jit.script(nn.ReLU())
    assert values(nn.Sequential(nn.Linear(6, 5), activation, nn.Linear(5, 3)))


def test_extra_state_of_any_kind():
    class Extra(nn.Sequential):
        def get_extra_state(self) -> dict[str, int]:
            return {"version": 1}

        def set_extra_state(self, state: Any) -> None:
            pass

    plain = net()
    assert values(Extra(*plain)) == values(plain)
