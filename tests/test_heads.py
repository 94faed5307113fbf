"""Matrices that are looked up and multiplied: noise where they are multiplied, look-ups in a clean table."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from noiserobust import Stream, UserError, analog_weights, coverage, evaluate, load_run, perturbed, sensitivity
from noiserobust.analog.heads import Head
from noiserobust.data import Batch, Splits, as_dataset
from noiserobust.evaluation import Where
from noiserobust.noise import Gaussian
from noiserobust.training import RWP, Engine, Progress, TrainSettings, fit

NOISE = Gaussian(0.1)
TOKENS = torch.arange(20).remainder(11).view(4, 5)


class Language(nn.Module):
    """An embedding, a layer, and a head that reads the embedding's weight."""

    def __init__(self, head: Callable[[Tensor, Tensor], Tensor] = functional.linear) -> None:
        super().__init__()
        self.wte, self.wpe, self.body = nn.Embedding(11, 6), nn.Embedding(5, 6), nn.Linear(6, 6)
        self.head = head

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.wte(tokens) + self.wpe.weight), self.wte.weight)


class Table(nn.Module):
    """The same with a parameter of its own, looked up in two ways."""

    def __init__(self, look_up: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.wte, self.body, self.look_up = nn.Parameter(torch.randn(11, 6)), nn.Linear(6, 6), look_up

    def forward(self, tokens: Tensor) -> Tensor:
        return self.body(self.look_up(tokens, self.wte)) @ self.wte.T


class Backwards(nn.Module):
    """An output layer whose weight is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Linear(6, 6), nn.Linear(6, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.body(functional.embedding(tokens, self.out.weight)))


def draw(name: str, value: Tensor, stream: Stream | None = None) -> Tensor:
    return NOISE.sample(value.detach(), (stream or Stream(0, "report", 0, 0)).child(name))


def twin(model: Language, stream: Stream | None = None) -> Tensor:
    """Its answer with both matrices noisy in their products, and gradients straight through."""
    table, weight = model.wte.weight, model.body.weight
    noisy = draw("wte.weight", table, stream) + (table - table.detach())
    body = draw("body.weight", weight, stream) + (weight - weight.detach())
    hidden = functional.linear(functional.embedding(TOKENS, table) + model.wpe.weight, body, model.body.bias)
    return hidden @ noisy.T


HEADS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": functional.linear,
    "T": lambda h, w: h @ w.T,
    "einsum": lambda h, w: torch.einsum("btd,vd->btv", h, w),
    "matmul": lambda h, w: torch.matmul(h, w.transpose(0, 1)),
    "cast": lambda h, w: functional.linear(h.double(), w.double()).float(),
    "part": lambda h, w: functional.linear(h, w[:11]),
}


@pytest.mark.parametrize("head", HEADS)
def test_the_product_is_noisy_and_the_look_up_clean(head: str) -> None:
    model = Language(HEADS[head])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = coverage(model, inputs=TOKENS[:1])
    assert found.heads == ("wte.weight@0",)
    assert {row.name for row in found.rows if row.noisy} == {"wte.weight", "body.weight"}
    assert found.noisy_macs == found.macs
    expected = twin(model)
    expected.square().mean().backward()
    wanted = [parameter.grad for parameter in model.parameters()]
    model.zero_grad(set_to_none=True)
    with perturbed(model, NOISE, include=found.heads):
        answer = model(TOKENS)
        answer.square().mean().backward()
    torch.testing.assert_close(answer, expected)
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert type(model.wte.weight) is nn.Parameter
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    "model",
    [
        Table(lambda tokens, table: table[tokens]),
        Table(lambda tokens, table: functional.embedding(tokens, table)),
        Table(lambda tokens, table: table.index_select(0, tokens.flatten()).view(*tokens.shape, -1)),
        Backwards(),
    ],
)
def test_tables_that_are_no_embeddings(model: nn.Module) -> None:
    found = coverage(model, inputs=TOKENS[:1])
    (head,) = (weight for weight in analog_weights(model, include=found.heads) if isinstance(weight, Head))
    clean, bias = head.value().clone(), getattr(getattr(model, "out", None), "bias", None)
    with perturbed(model, NOISE, include=found.heads):
        hidden = model.get_submodule("body")(functional.embedding(TOKENS, clean))
        assert not torch.equal(head.value(), clean)
        torch.testing.assert_close(model(TOKENS), functional.linear(hidden, head.value(), bias))


class TiedInVain(Language):
    """Its output layer has the embedding's weight, and is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.wte.weight


def test_a_tied_layer_that_is_not_called_is_no_excuse() -> None:
    model = TiedInVain()
    found = coverage(model, inputs=TOKENS[:1])
    assert found.heads == ("out.weight@0",)
    clean = model.wte.weight.detach().clone()
    with perturbed(model, NOISE, include=found.heads):
        noisy = model.wte.weight
        assert torch.equal(noisy, draw("out.weight", clean))
        hidden = model.body(functional.embedding(TOKENS, clean) + model.wpe.weight)
        torch.testing.assert_close(model(TOKENS), functional.linear(hidden, noisy))
        assert torch.equal(model.out(hidden), functional.linear(hidden, noisy))


@pytest.mark.filterwarnings("default")  # exporting warns of its own doings
def test_copies_and_exports_hold_both() -> None:
    model, buffer, program = Language(), io.BytesIO(), io.BytesIO()
    with perturbed(model, NOISE, include=["wte.weight@0"]):
        answer = model(TOKENS).detach()
        copied, state = copy.deepcopy(model), {name: value.clone() for name, value in model.state_dict().items()}
        torch.save(model, buffer)
        torch.export.save(torch.export.export(model, (TOKENS,)), program)
        with torch.no_grad():
            torch.testing.assert_close(torch.jit.trace(model, (TOKENS,))(TOKENS), answer)
            torch.testing.assert_close(torch.compile(model, backend="eager")(TOKENS), answer)
    loaded = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    exported = torch.export.load(io.BytesIO(program.getvalue())).module()
    for one in (copied, loaded, exported):
        torch.testing.assert_close(one(TOKENS), answer)
    assert torch.equal(state["wte.weight_in_look_up"], model.wte.weight)
    assert not torch.equal(state["wte.weight"], model.wte.weight)


def test_evaluation_finds_it_and_its_draws_are_those_of_perturbed() -> None:
    model, labels = Language(), TOKENS.roll(1)
    result = evaluate(model, (TOKENS, labels), "gaussian:0.1", draws=2, task="tokens")
    losses = result.rows[result.rows["metric"] == "loss"]["value"].tolist()
    assert set(result.rows["analog"]) == {"+wte.weight@0"}
    for number, loss in enumerate(losses):
        with torch.no_grad(), perturbed(model, NOISE, draw=number, include=["wte.weight@0"]):
            assert loss == pytest.approx(functional.cross_entropy(model(TOKENS).flatten(0, 1), labels.flatten()).item())
    without = evaluate(model, (TOKENS, labels), draws=1, task="tokens", where=Where(exclude=["wte.*"]))
    assert set(without.rows["analog"]) == {"-wte.*"}
    effects = sensitivity(model, (TOKENS, labels), "gaussian:0.1", draws=2, task="tokens").summary()
    assert {"wte.weight", "body.weight"} < set(effects["layer"])


def test_a_step_of_rwp_is_that_of_a_loop() -> None:
    model = Language()
    other = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.5) for one in (model, other)]
    engine = Engine(model, optimizers[0], task="tokens")
    RWP(NOISE).step(engine, Batch(TOKENS, TOKENS.roll(1)), Progress(3, 9))
    answer = twin(other, Stream(0, "train", 3, 0))
    functional.cross_entropy(answer.flatten(0, 1), TOKENS.roll(1).flatten()).backward()
    optimizers[1].step()
    for one, wanted in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, wanted)


def language(channels: int, classes: int) -> nn.Module:
    return Language()


class Digital(nn.Module):
    """Most of what it multiplies is stored in a layer that nobody registered."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.out = nn.Parameter(torch.randn(6, 50)), nn.Linear(50, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.flatten(1) @ self.kernel)


def digital(channels: int, classes: int) -> nn.Module:
    return Digital()


def test_fit_finds_it_and_logs_by_the_task(tmp_path: Path) -> None:
    data = TOKENS, TOKENS.roll(1)
    settings = TrainSettings(
        model="factory:test_heads:language",  # type: ignore[arg-type]
        method="rwp:gaussian(0.1)",  # type: ignore[arg-type]
        task="tokens",  # type: ignore[arg-type]
        log=("ascent_sharpness:0.05", "max_over_rms"),  # type: ignore[arg-type]
        log_on=("test",),
        epochs=1,
        validation=0,
        select_on="none",
        lr=0.5,
        lr_warmup=0,
        batch_size=4,  # type: ignore[arg-type]
    )
    run = fit(settings, tmp_path, splits=Splits(as_dataset(data), as_dataset(data)))
    network = load_run(run.folder, model="factory:test_heads:language").network
    largest = max(p.detach().abs().max().item() for p in (network.wte.weight, network.body.weight))  # type: ignore[union-attr]
    assert run.log["max_weight"].iloc[-1] == pytest.approx(largest)


def test_fit_says_once_what_is_digital(tmp_path: Path) -> None:
    x, y = torch.randn(12, 1, 2, 3), torch.arange(12) % 3
    settings = {"model": "factory:test_heads:digital", "epochs": 2, "validation": 0, "select_on": "none"}
    with pytest.warns(UserWarning, match=r"only 33.3 % .* include 'kernel@1'") as said:
        fit(TrainSettings(**settings), tmp_path, splits=Splits((x, y), (x, y)))  # type: ignore[arg-type]
    assert len(said) == 1
    fit(TrainSettings(**settings, include=["kernel@1"]), tmp_path, splits=Splits((x, y), (x, y)))  # type: ignore[arg-type]


def test_an_embedding_that_is_only_looked_up_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 11))
    with pytest.raises(UserError, match=r"include .0\.weight@1"):
        evaluate(model, (TOKENS, TOKENS), draws=1, task="tokens", where=Where(include=["0.weight@0"]))
    assert len(evaluate(model, (TOKENS, TOKENS), draws=1, task="tokens", where=Where(include=["0.weight@1"])).rows)


def test_what_cannot_be_both() -> None:
    model = Language()
    model.wte.max_norm = 1.0
    with pytest.raises(UserError, match="max_norm"), perturbed(model, NOISE, include=["wte.weight@0"]):
        pass


def test_an_array_along_the_other_axis_is_the_look_up_s() -> None:
    model = Language(lambda h, w: h)
    with torch.no_grad(), perturbed(model, NOISE, include=["wte.weight@1"], exclude=["body.*"]):
        assert torch.equal(model.wte(TOKENS), model.wte.weight[TOKENS])
        assert type(model.wte.weight) is nn.Parameter
