"""A weight's name is its place in the network, whatever wraps the network."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from noiserobust import evaluate, perturbed
from noiserobust.analog.filters import filter_noise
from noiserobust.analog.weight_space import WeightSpace
from noiserobust.analog.weights import analog_weights
from noiserobust.models.wrappers import Names
from noiserobust.rng import Stream


class Attention(nn.Module):
    """Vectors and matrices at several depths, a norm before the first matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.body = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 5), nn.Tanh())
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(self.scale * x))


class Deep(nn.Module):
    """All matrices in one child, vectors of the same last names beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.weight = nn.Parameter(torch.ones(6))
        self.blocks = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.weight * self.norm(x))


class Task(nn.Module):
    """A training module with what such modules have of their own: loss weights, a metric."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(2))
        self.register_buffer("confusion", torch.zeros(3, 3))
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def one_layer() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 3))


def weight_normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 3))


WRAPPINGS = {
    "attribute": Task,
    "average": AveragedModel,
    "several": lambda net: Task(nn.DataParallel(AveragedModel(Task(net)))),
    "compiled": lambda net: Task(torch.compile(net)),
    "checkpointed": lambda net: Task(checkpoint_wrapper(net)),
}


def named_values(model: nn.Module) -> dict[str, Tensor]:
    space = WeightSpace(model)
    return dict(zip(space.names, space.parameters, strict=True))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
@pytest.mark.parametrize("make", [Attention, Deep, one_layer, weight_normed])
def test_wrapped_networks_keep_names_and_draws(make, wrap):
    bare = make()
    wrapped = wrap(copy.deepcopy(bare))
    # What the wrapping must not change, found through the parameters' values.
    alone, inside = named_values(bare), named_values(wrapped)
    assert len(alone) == len(list(bare.parameters()))
    assert {name: value for name, value in inside.items() if "log_variances" not in name}.keys() == alone.keys()
    assert all(torch.equal(value, inside[name]) for name, value in alone.items())
    with perturbed(bare, "gaussian:0.1"), perturbed(wrapped, "gaussian:0.1"):
        assert all(torch.equal(value, inside[name]) for name, value in alone.items())
    fields = [
        dict(zip(s.names, filter_noise(s, 1.0, Stream(0)), strict=True)) for s in map(WeightSpace, (bare, wrapped))
    ]
    assert all(torch.equal(field, fields[1][name]) for name, field in fields[0].items())


def test_the_difference_of_the_same_networks_is_zero_with_one_side_wrapped():
    nets = [Attention() for _ in range(3)]
    torch.manual_seed(0)
    data = (torch.randn(100, 6), torch.randint(3, (100,)))
    found = evaluate(
        {"bare": nets, "wrapped": [Task(copy.deepcopy(net)) for net in nets]}, data, "gaussian:0.3", draws=3
    )
    values = found.rows.pivot_table("value", ["metric", "replicate", "draw"], "method")
    assert (values.bare == values.wrapped).all()
    assert values.bare.nunique() > 3


def test_peft_adapters_leave_the_base_its_names():
    peft = pytest.importorskip("peft")
    bare = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 3))
    config = peft.LoraConfig(target_modules=["0", "2"], modules_to_save=["3"])
    adapted = peft.get_peft_model(copy.deepcopy(bare), config)
    names = [weight.name for weight in analog_weights(adapted)]
    assert {"0.weight", "2.weight", "3.weight"} < set(names)
    with perturbed(bare, "gaussian:0.1"), perturbed(adapted, "gaussian:0.1", exclude=["*lora*"]):
        torch.testing.assert_close(adapted(torch.eye(6)), bare(torch.eye(6)))  # a new adapter adds nothing


def test_names_are_unique_and_do_not_depend_on_what_is_chosen():
    wrapped = Task(Deep())
    names = [Names(wrapped)(path) for path, _ in wrapped.named_parameters()]
    assert names == ["log_variances", "weight", "norm.weight", "norm.bias", "0.weight", "0.bias", "1.weight", "1.bias"]
    two = nn.ModuleDict({"student": Attention(), "teacher": Attention().requires_grad_(False)})
    assert [weight.name for weight in analog_weights(two)] == [
        f"{a}.{b}.weight" for a in two for b in ("body.1", "out")
    ]
    assert analog_weights(wrapped, exclude=["*"], include=["1.weight"])[0].name == "1.weight"
    twice = nn.ModuleDict({"a": nn.ModuleDict({"b": nn.Linear(3, 3)}), "b": nn.LayerNorm(3)})
    assert len({Names(twice)(path) for path, _ in twice.named_parameters()}) == 4
    clash = Task(nn.Sequential(nn.Linear(6, 3)))
    clash.weight = nn.Parameter(torch.ones(3))
    assert [Names(clash)(path) for path in ("network.0.weight", "weight")] == ["weight", "weight#2"]


@pytest.mark.parametrize("pattern", ["1.weight", "blocks.1.weight", "network.blocks.1.weight", "module.network.*.1.*"])
def test_patterns_match_names_and_paths(pattern):
    model = nn.DataParallel(Task(Deep()))
    assert [weight.name for weight in analog_weights(model, exclude=[pattern])] == ["0.weight"]
