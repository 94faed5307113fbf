"""Openings of the same weights nest or are refused, and the weights are clean in the end."""

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from noiserobust import UserError, evaluate, perturbed
from noiserobust.analog import openings
from noiserobust.analog.weight_space import WeightSpace


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 7)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(x.long() % 7)).mean(1))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


X = torch.arange(24.0).reshape(4, 6) / 9


def answered(model: nn.Module) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return model(X), *(value.clone() for value in model.state_dict().values())


@pytest.fixture(params=[plain, Tied])
def model(request: pytest.FixtureRequest):
    """A network that must be, in the end, what it was: weights, answer, and nobody who holds it."""
    network = request.param()
    before = answered(network)
    yield network
    assert all(torch.equal(*pair) for pair in zip(answered(network), before, strict=True))
    assert not openings.OPEN
    with perturbed(network, "gaussian:0.1"):
        assert not torch.equal(network(X), before[0])


def test_nested_openings_restore_each_other(model):
    with perturbed(model, "gaussian:0.1", draw=0):
        outer = answered(model)
        with perturbed(model, "gaussian:0.1", draw=1):
            assert not torch.equal(answered(model)[0], outer[0])
        assert all(torch.equal(*pair) for pair in zip(answered(model), outer, strict=True))


def test_an_opening_that_is_closed_before_an_inner_one_is_refused(model):
    outer, inner = (perturbed(model, "gaussian:0.1", draw=draw) for draw in (0, 1))
    before = answered(model)
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(UserError, match="closed before another inside it"):
        outer.__exit__(None, None, None)
    assert all(torch.equal(*pair) for pair in zip(answered(model), before, strict=True))
    with pytest.raises(UserError, match="closed before another inside it"):
        inner.__exit__(None, None, None)


def test_three_openings_in_the_wrong_order(model):
    several = [perturbed(model, "gaussian:0.1", draw=draw) for draw in range(3)]
    for one in several:
        one.__enter__()
    with pytest.raises(UserError):
        several[1].__exit__(None, None, None)
    with pytest.raises(UserError):
        several[2].__exit__(None, None, None)
    several[0].__exit__(None, None, None)


def in_thread(work: Callable[[], object]) -> list[BaseException]:
    """What ``work`` raised in another thread."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised


def test_another_thread_is_refused(model):
    def work() -> None:
        with perturbed(model, "gaussian:0.1", draw=1):
            pass

    with perturbed(model, "gaussian:0.1", draw=0):
        inside = answered(model)
        (error,) = in_thread(work)
        assert isinstance(error, UserError)
        assert "another thread" in str(error)
        assert all(torch.equal(*pair) for pair in zip(answered(model), inside, strict=True))
        other = copy.deepcopy(model)
        assert not in_thread(lambda: perturbed(other, "gaussian:0.1").__enter__())
    assert not in_thread(work)


def test_noise_free_openings_of_two_threads_do_not_disturb_each_other(model):
    def clean() -> None:
        with perturbed(model, "gaussian:0"):
            pass

    with perturbed(model, "gaussian:0"):
        assert not in_thread(clean)
    with perturbed(model, "gaussian:0.1"):
        assert isinstance(in_thread(clean)[0], UserError)  # its answers would be noisy


def test_evaluations_and_training_steps_of_another_thread_are_refused():
    network, space_of = plain(), WeightSpace
    data = (torch.randn(8, 6), torch.arange(8) % 3)

    def step() -> None:
        space = space_of(network)
        with space.moved([torch.ones_like(p) for p in space.parameters]):
            pass

    with perturbed(network, "gaussian:0.1"):
        for work in (step, lambda: evaluate(network, data, "gaussian:0.1", draws=1)):
            assert isinstance(in_thread(work)[0], UserError)
    space = space_of(network)
    with space.moved([torch.ones_like(p) for p in space.parameters]):
        assert isinstance(in_thread(lambda: evaluate(network, data, "gaussian:0", draws=1))[0], UserError)
    assert not in_thread(step)


def shared_data() -> tuple[nn.Module, nn.Module]:
    one, other = plain(), plain()
    for own, shared in zip(one.parameters(), other.parameters(), strict=True):
        own.data = shared.data
    return one, other


def two_heads() -> tuple[nn.Module, nn.Module]:
    trunk = nn.Linear(6, 5)
    return nn.Sequential(trunk, nn.Linear(5, 3)), nn.Sequential(trunk, nn.Linear(5, 2))


def flat_buffer() -> tuple[nn.Module, nn.Module]:
    one, other = nn.Linear(6, 5), nn.Linear(6, 4)
    flat = torch.randn(30)
    one.weight.data, other.weight.data = flat.view(5, 6), flat[4:28].view(4, 6)
    return one, other


def wrapper() -> tuple[nn.Module, nn.Module]:
    network = plain()
    return nn.DataParallel(network), network


@pytest.mark.parametrize("pair", [shared_data, two_heads, flat_buffer, wrapper])
def test_models_that_share_weights_are_one(pair):
    one, other = pair()
    before = [p.clone() for model in (one, other) for p in model.parameters()]
    first, second = (perturbed(model, "gaussian:0.1") for model in (one, other))
    first.__enter__()
    assert isinstance(in_thread(lambda: perturbed(other, "gaussian:0.1").__enter__())[0], UserError)
    second.__enter__()
    with pytest.raises(UserError):
        first.__exit__(None, None, None)
    with pytest.raises(UserError):
        second.__exit__(None, None, None)
    assert all(torch.equal(p, b) for p, b in zip((*one.parameters(), *other.parameters()), before, strict=True))


def test_models_that_share_nothing_may_overlap():
    flat = torch.randn(54)
    one, other = nn.Linear(6, 5), nn.Linear(6, 4)
    one.weight.data, other.weight.data = flat[:30].view(5, 6), flat[30:].view(4, 6)
    before = flat.clone()
    first, second = (perturbed(model, "gaussian:0.1") for model in (one, other))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert torch.equal(flat, before)


def test_openings_that_are_left_open_and_forgotten(model):
    first, second = (perturbed(model, "gaussian:0.1", draw=draw) for draw in (0, 1))
    first.__enter__()
    second.__enter__()
    del first  # collected: closed by the interpreter, in the wrong order
    with pytest.raises(UserError):
        second.__exit__(None, None, None)


def test_an_exception_is_not_hidden_by_the_refusal(model):
    first, second = (perturbed(model, "gaussian:0.1", draw=draw) for draw in (0, 1))
    first.__enter__()
    second.__enter__()
    with pytest.raises(ZeroDivisionError):
        first.gen.throw(ZeroDivisionError())
    with pytest.raises(UserError):
        second.__exit__(None, None, None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_while_weights_are_put_back(model, monkeypatch, error):
    copy_, interrupts = torch._foreach_copy_, [error()]

    def interrupted(*args):
        if interrupts and openings.OPEN and openings.OPEN[-1]._undo and len(seen) > 0:
            raise interrupts.pop()
        seen.append(1)
        return copy_(*args)

    seen: list[int] = []
    monkeypatch.setattr(torch, "_foreach_copy_", interrupted)
    with pytest.raises(error), perturbed(model, "gaussian:0.1"):
        pass
    assert not interrupts


@pytest.mark.parametrize(
    "convert", [nn.Module.double, nn.Module.bfloat16, lambda m: m.to(memory_format=torch.channels_last)]
)
def test_weights_converted_inside_an_opening_are_the_clean_ones_afterwards(
    convert: Callable[[nn.Module], nn.Module],
) -> None:
    model = nn.Conv2d(6, 3, 3)
    clean = model.weight.detach().clone()
    with perturbed(model, "gaussian:0.1"):
        convert(model)
    assert torch.equal(model.weight, clean.to(model.weight.dtype))


def assigned(model: nn.Module) -> None:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)


def new_parameters(model: nn.Module) -> None:
    for layer in [module for module in model.modules() if isinstance(module, nn.Linear)]:
        layer.weight = nn.Parameter(layer.weight.detach().clone())


def copied_layers(model: nn.Module) -> None:
    for name, child in list(model.named_children()):
        setattr(model, name, copy.deepcopy(child))


def normalised_weights(model: nn.Module) -> None:
    for layer in [module for module in model.modules() if isinstance(module, nn.Linear)]:
        nn.utils.parametrizations.weight_norm(layer)


def overwritten(model: nn.Module) -> None:
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.parametrize("replace", [assigned, new_parameters, copied_layers, normalised_weights, overwritten])
def test_parameters_replaced_inside_an_opening_are_refused(model, replace: Callable[[nn.Module], None]):
    held = {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}
    with (
        pytest.raises(UserError, match=r"in place of .* the clean ones are back") as error,
        perturbed(model, "gaussian:0.1"),
    ):
        replace(model)
    assert "\n" not in str(error.value)
    assert {name: id(value) for name, value in model.state_dict(keep_vars=True).items()} == held


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_layers_that_are_wrapped_or_pruned_inside_an_opening_hold_clean_weights(model):
    with perturbed(model, "gaussian:0.1"):
        for name, child in list(model.named_children()):
            setattr(model, name, Wrapped(child))
    network = plain()
    before = network[0].weight.detach().clone()
    with perturbed(network, "gaussian:0.1"):
        prune.l1_unstructured(network[0], "weight", 0.5)
    assert torch.equal(network[0].weight_orig, before)


def stepped(model: nn.Module) -> None:
    torch.optim.SGD(model.parameters(), lr=0.1).step()


@pytest.mark.parametrize(
    "write",
    [
        stepped,
        lambda model: model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()}),
        lambda model: nn.init.zeros_(next(model.parameters())),
    ],
)
def test_what_is_written_into_noisy_weights_is_refused_at_the_end(write: Callable[[nn.Module], object]) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def work() -> None:
        with perturbed(model, "gaussian:0.1"):
            model(torch.ones(2, 6)).square().sum().backward()
            write(model)

    with pytest.raises(UserError, match=r"expected noisy weights to be left as they are, got 0\.weight.*step outside"):
        work()
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    assert all(torch.equal(*pair) for pair in zip(weights, [one for one in before if one.dim() > 1], strict=True))


def test_gradients_taken_inside_and_nested_openings_write_nothing(model: nn.Module) -> None:
    with perturbed(model, "gaussian:0.1"):
        with perturbed(model, "gaussian:0.2", draw=1):
            answered(model)
        answered(model)
    with perturbed(model, "gaussian:0.1"):
        copy.deepcopy(model)
        model.double()
    model.float()


def test_an_error_inside_is_that_error(model: nn.Module) -> None:
    def work() -> None:
        with perturbed(model, "gaussian:0.1"):
            nn.init.zeros_(model.body.weight if isinstance(model, Tied) else model[0].weight)  # type: ignore[index]
            raise KeyError

    with pytest.raises(KeyError):
        work()
