"""Random weight perturbation against draws made again by name."""

from __future__ import annotations

import pytest
import torch
from methods import Quadratic, batch, committed, output, sgd
from torch import Tensor, nn

from noiserobust.analog.layer_table import LayerTable
from noiserobust.analog.where import Where
from noiserobust.errors import UserError
from noiserobust.noise import Gaussian
from noiserobust.rng import Stream
from noiserobust.training import RWP, Method, Progress
from noiserobust.training import Quadratic as Squared

SEED = 5


def error(model: Quadratic, step: int, draw: int, sigma: float, kind: str = "normal") -> Tensor:
    """e = sigma max|row| z on the 2 x 3 analog weight, 0 elsewhere; z is named by seed, step, draw and weight."""
    field = getattr(Stream(SEED, "train", step, draw, "weight", "program"), kind)((2, 3)).double()
    largest = model.layer.weight.detach().abs().max(dim=1, keepdim=True).values
    return torch.cat([(sigma * largest * field).flatten(), torch.zeros(6, dtype=torch.float64)])


@pytest.mark.parametrize(
    ("text", "sigma", "kind", "draws"),
    [
        ("rwp:gaussian(0.2)", 0.2, "normal", 1),
        ("rwp:laplace(0.1)", 0.1, "laplace", 1),
        ("rwp:gaussian(0.2),draws=2", 0.2, "normal", 2),
        ("rwp:gaussian(0.2),schedule=0.5", 0.1, "normal", 1),
        # At step 3 of 10, the warm-up being 6 steps: (3/6)^2.
        ("rwp:gaussian(0.2),schedule=quadratic(1.0,warmup=0.6)", 0.05, "normal", 1),
    ],
)
def test_gradient_at_the_named_draw(text: str, sigma: float, kind: str, draws: int) -> None:
    model = Quadratic()
    w = model.w.detach()
    points = [w + error(model, 3, draw, sigma, kind) for draw in range(draws)]
    expected = sum(model.A @ point for point in points) / draws
    gradients = committed(text, sgd(model, loss=output, seed=SEED), batch(), Progress(3, 10))
    # Parameters come in the order other, layer.weight, layer.bias.
    other, weight, bias = (gradient.flatten() for gradient in gradients)
    torch.testing.assert_close(torch.cat([weight, bias, other]), expected, rtol=1e-11, atol=1e-12)


def test_antithetic_draws_are_w_plus_and_minus_e() -> None:
    model = Quadratic()
    w, e = model.w.detach(), [error(model, 3, pair, 0.2) for pair in range(2)]
    seen: list[Tensor] = []
    model.register_forward_hook(lambda *_: seen.append(model.w.detach()))
    committed("rwp:gaussian(0.2),draws=4,antithetic=true", sgd(model, loss=output, seed=SEED), batch(), Progress(3, 10))
    for point, expected in zip(seen, (w + e[0], w - e[0], w + e[1], w - e[1]), strict=True):
        torch.testing.assert_close(point, expected, rtol=1e-12, atol=1e-12)


def test_layers_have_strengths_of_their_own_and_one_schedule() -> None:
    """A table's noise is the layer's, times the schedule; without noise elsewhere it is still there."""
    model = Quadratic()
    w = model.w.detach()
    for noise, table in (("gaussian(0.2)", {}), ("gaussian(0.0)", {"layer.*": {"noise": "gaussian:0.2"}})):
        engine = sgd(model, loss=output, seed=SEED, where=Where(layers=LayerTable.of(table)))
        text = f"rwp:{noise},schedule=quadratic(1.0,warmup=0.6)"
        for step, sigma in ((0, 0.0), (3, 0.05), (9, 0.2)):
            expected = model.A @ (w + error(model, step, 0, sigma))
            gradients = committed(text, engine, batch(), Progress(step, 10))
            other, weight, bias = (gradient.flatten() for gradient in gradients)
            torch.testing.assert_close(torch.cat([weight, bias, other]), expected, rtol=1e-11, atol=1e-12)
            with torch.no_grad():
                nn.utils.vector_to_parameters(w.clone(), (model.layer.weight, model.layer.bias, model.other))


def test_the_strength_logged_is_the_noises() -> None:
    method = RWP(Gaussian(0.2), schedule=Squared(1.0, warmup=10))
    assert method.strength(Progress(5, 100)) == pytest.approx(0.05)
    assert method.strength(Progress(10, 100)) == 0.2
    assert (method.cost(Progress(0, 100)), method.cost(Progress(1, 100))) == ((1, 1), (1, 1))
    assert RWP(Gaussian(0.2), draws=3).cost(Progress(0, 100)) == (3, 3)


@pytest.mark.parametrize(
    "text",
    [
        "rwp:gaussian(-0.1)",
        "rwp:gaussian(0.1),draws=3,antithetic=true",
        "rwp:gaussian(0.1),draws=0",
        "rwp:gaussian(0.1),schedule=-1.0",
        "rwp:noise",
        "rwp:0.1",
    ],
)
def test_bad_settings(text: str) -> None:
    with pytest.raises(UserError, match="expected") as raised:
        Method.parse(text)
    assert "\n" not in str(raised.value)
