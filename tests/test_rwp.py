"""Random weight perturbation against draws made again by name."""

from __future__ import annotations

import pytest
import torch
from methods import Quadratic, batch, committed, output, sgd
from torch import Tensor

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


def test_the_strength_logged_is_the_noises() -> None:
    method = RWP(Gaussian(0.2), schedule=Squared(1.0, warmup=10))
    assert method.strength(Progress(5, 100)) == pytest.approx(0.05)
    assert method.strength(Progress(10, 100)) == 0.2
    assert (method.cost(Progress(0, 100)), method.cost(Progress(1, 100))) == ((1, 1), (1, 1))
    assert RWP(Gaussian(0.2), draws=3).cost(Progress(0, 100)) == (3, 3)


@pytest.mark.parametrize(
    "text",
    ["rwp:gaussian(-0.1)", "rwp:gaussian(0.1),draws=0", "rwp:gaussian(0.1),schedule=-1.0", "rwp:noise", "rwp:0.1"],
)
def test_bad_settings(text: str) -> None:
    with pytest.raises(UserError, match="expected") as raised:
        Method.parse(text)
    assert "\n" not in str(raised.value)
