"""Measures of networks of every kind, against differences of losses and gradients in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from noiserobust import landscape, sharpness
from noiserobust.data import Batch
from noiserobust.minima import Measure, Surface, measure
from noiserobust.rng import Stream
from noiserobust.tasks import Classification

X, Y = torch.randn(7, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 3
WORDS = torch.arange(21).view(7, 3) % 5
TEXTS = ("loss", "accuracy", "average_sharpness:gaussian(0.1),draws=2", "ascent_sharpness:0.05", "gradient_norm")
MORE = ("gradient_cosine:filters(0.1)", "perturbed_loss:random(gaussian(0.1))", "esam_subset:m=4", "hessian_trace:3")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x, x, x, need_weights=False)[0].mean(1))


class Warped(nn.Module):
    """A small spatial transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.head = nn.Linear(16, 6), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        turned = 0.3 * self.place(x.flatten(1)).view(-1, 2, 3) + torch.eye(2, 3, dtype=x.dtype)
        grid = functional.affine_grid(turned, [len(x), 1, 4, 4], align_corners=False)
        return self.head(functional.grid_sample(x[:, None], grid, align_corners=False).flatten(1))


class Words(nn.Module):
    def __init__(self, sparse: bool = False, tied: bool = False) -> None:
        super().__init__()
        self.words, self.inner = nn.Embedding(5, 3, sparse=sparse), nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(self.words(x).mean(1))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head, self.unused = nn.GRU(4, 3, batch_first=True), nn.Linear(3, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x)[0][:, -1])


def normed(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), norm(nn.Linear(16, 3)), nn.Tanh(), nn.Linear(3, 3))


def half_frozen() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 3))
    model[1].requires_grad_(False)
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "attention": (Attention, X),
    "grid_sample": (Warped, X),
    "sparse embedding": (lambda: Words(sparse=True), WORDS),
    "tied": (lambda: Words(tied=True), WORDS),
    "recurrent, unused layer": (Recurrent, X),
    "weight norm": (lambda: normed(nn.utils.parametrizations.weight_norm), X),
    "weight norm by hooks": (lambda: normed(nn.utils.weight_norm), X),  # type: ignore[arg-type]
    "frozen, dropout": (half_frozen, X),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_of_every_kind_of_network(name: str) -> None:
    build, inputs = NETWORKS[name]
    torch.manual_seed(1)
    model = build().double()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    data = inputs.double() if inputs.is_floating_point() else inputs
    dense = hessian(model, parameters, data)
    found = sharpness(model.train(), (data, Y), ["hessian_top:2,tolerance=1e-9", *TEXTS, *MORE])
    assert found.rows["value"].notna().all()
    value = {row.metric: row.value for row in found.rows.itertuples()}
    expected = torch.linalg.eigvalsh(dense).flip(0)[:2].tolist()
    assert [value["hessian_top"], value["hessian_top/2"]] == pytest.approx(expected, abs=2e-7)
    gradient = torch.cat([part.flatten() for part in gradients(model.eval(), parameters, data)])
    assert value["gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-9)
    heights = landscape(model.train(), (data, Y), 1, points=3).rows
    assert heights.query("x == 0")["value"].item() == pytest.approx(value["loss"], rel=1e-12)
    assert model.training
    assert all(torch.equal(kept, before[key]) for key, kept in model.state_dict().items())


def gradients(model: nn.Module, parameters: list[nn.Parameter], data: Tensor) -> list[Tensor]:
    loss = functional.cross_entropy(model(data), Y)
    parts = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [
        torch.zeros_like(p) if g is None else g.to_dense() for p, g in zip(parameters, parts, strict=True)
    ]  # a dense gradient is its own to_dense()


@torch.no_grad()
def hessian(model: nn.Module, parameters: list[nn.Parameter], data: Tensor, h: float = 1e-5) -> Tensor:
    """By central differences of the gradient in eval mode."""
    columns = []
    model.eval()
    for parameter in parameters:
        for place in range(parameter.numel()):
            value, ends = parameter.view(-1)[place].item(), []
            for sign in (1, -1):
                parameter.view(-1)[place] = value + sign * h
                with torch.enable_grad():
                    ends.append(torch.cat([part.flatten() for part in gradients(model, parameters, data)]))
            parameter.view(-1)[place] = value
            columns.append((ends[0] - ends[1]) / (2 * h))
    return torch.stack(columns)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_of_networks_in_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = half_frozen().to(dtype)
    half = sharpness(model, (X, Y), ["hessian_top", *TEXTS]).rows
    whole = sharpness(model.float(), (X, Y), ["hessian_top", *TEXTS]).rows
    both = half.merge(whole, on=["measure", "metric", "draw"])
    assert len(both) == len(whole)
    exact = both[both["metric"].isin(["loss", "gradient_norm", "hessian_top"])]
    assert exact["value_x"].tolist() == pytest.approx(exact["value_y"].tolist(), rel=0.03)


def test_where_nothing_is_curved_or_steep() -> None:
    """Networks whose loss is linear in their weights, or does not depend on them."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return 0 * self.head(x.flatten(1))

    found = sharpness(Constant(), (X, Y), ["hessian_top:2", "hessian_trace:3", "gradient_norm", "ascent_sharpness:0.1"])
    values = found.rows[~found.rows["metric"].str.startswith("max_over_rms")]["value"]
    assert values.tolist() == [0.0] * len(values)


class Next(nn.Module):
    """A logit for each of 5 next words: a dictionary, as language models answer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(torch.tanh(self.words(input_ids)))}


class PerWord(Classification):
    """Every word of a sample has a label, or -100 for none."""

    def losses(self, predictions: Tensor, batch: Batch) -> Tensor:
        each = functional.cross_entropy(predictions.transpose(1, 2), batch.labels, reduction="none")
        return each.sum(1) / self.counts(batch).clamp(min=1)

    def counts(self, batch: Batch) -> Tensor:
        return (batch.labels != -100).sum(1)


def test_a_mean_over_tokens() -> None:
    """Samples with different numbers of labels: every token weighs the same, in losses, gradients and curvature."""
    torch.manual_seed(0)
    model, labels = Next().double(), WORDS.roll(1, 0).clone()
    labels[0, 1:], labels[3] = -100, -100
    parts = [Batch({"input_ids": WORDS[rows]}, labels[rows]) for rows in (slice(0, 4), slice(4, 7))]
    of = Surface(model, parts, task=PerWord())
    texts = ("loss", "gradient_norm", "hessian_top", "perturbed_loss:ascent(0.1)")
    values = measure(of, [*map(Measure.parse, texts)], Stream(0).child)
    found = {str(one).partition(":")[0]: value[0][""] for one, value in values.items()}

    def loss(head: Tensor) -> Tensor:
        logits = functional.linear(torch.tanh(model.words(WORDS)), head, model.head.bias)
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    gradient = torch.autograd.grad(loss(model.head.weight), list(model.parameters()))
    norm = torch.cat([part.flatten() for part in gradient]).norm().item()
    assert found["loss"] == pytest.approx(loss(model.head.weight).item(), rel=1e-12)
    assert found["gradient_norm"] == pytest.approx(norm, rel=1e-12)
    model.words.requires_grad_(False), model.head.bias.requires_grad_(False)
    block = torch.autograd.functional.hessian(loss, model.head.weight.detach())  # type: ignore[no-untyped-call]
    (top,) = measure(Surface(model, parts, task=PerWord()), [one := Measure.parse("hessian_top")], Stream(0).child)[one]
    assert top[""] == pytest.approx(torch.linalg.eigvalsh(block.reshape(20, 20))[-1].item(), rel=1e-6)
    with torch.no_grad():
        for parameter, part in zip(model.parameters(), gradient, strict=True):
            parameter.add_(part, alpha=0.1 / norm)
        assert found["perturbed_loss"] == pytest.approx(loss(model.head.weight).item(), rel=1e-9)
