"""Random weight perturbation against draws made again by name, and against its mean in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from methods import Quadratic, batch, committed, output, same_bits, sgd, smooth_net, weights
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.minima import Random
from noiserobust.noise import Gaussian
from noiserobust.rng import Stream
from noiserobust.training import RWP, Method, Progress
from noiserobust.training import Quadratic as Squared

SEED = 5


def error(model: Quadratic, step: int, draw: int, sigma: float, kind: str = "normal") -> Tensor:
    """e = sigma max|row| z on the 2 x 3 analog weight, 0 elsewhere; z is named by seed, step, draw and weight."""
    field = getattr(Stream(SEED, "train", step, draw, "layer.weight", "program"), kind)((2, 3)).double()
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


def test_mean_rise_of_a_quadratic() -> None:
    """E L(w + e) - L(w) = sigma^2/2 tr(A S^2) for e = sigma S z, S the rows' max|w| (0 on digital weights)."""
    sigma, draws, model = 1.0, 4000, Quadratic()
    engine, x = sgd(model, seed=SEED), torch.zeros(1)
    with torch.no_grad():
        clean = model(x).item()
        rises = []
        for draw in range(draws):
            with engine.perturbed(Random(Gaussian(sigma)), 0, draw):
                rises.append(model(x).item() - clean)
    largest = model.layer.weight.detach().abs().max(dim=1).values.repeat_interleave(3)
    expected = sigma**2 / 2 * (model.A.diagonal()[:6] * largest**2).sum().item()
    seen = torch.tensor(rises, dtype=torch.float64)
    standard_error = seen.std().item() / math.sqrt(draws)
    # 4.5 standard errors: a false alarm in 1 of 150,000 seeds. They are a few per cent of the mean, so that a wrong
    # factor (2, sqrt(2), or the layer's maximum in place of the row's) is noticed.
    assert 4.5 * standard_error < 0.1 * expected
    assert abs(seen.mean().item() - expected) < 4.5 * standard_error


def test_every_step_draw_and_seed_has_noise_of_its_own() -> None:
    def gradient(seed: int, step: int) -> list[Tensor]:
        engine = sgd(smooth_net(), seed=seed)
        return committed("rwp:gaussian(0.2)", engine, batch(dtype=torch.float64), Progress(step, 10))

    assert same_bits(gradient(0, 1), gradient(0, 1))
    assert not same_bits(gradient(0, 1), gradient(0, 2))
    assert not same_bits(gradient(0, 1), gradient(1, 1))


def test_the_strength_logged_is_the_noises() -> None:
    method = RWP(Gaussian(0.2), schedule=Squared(1.0, warmup=10))
    assert method.strength(Progress(5, 100)) == pytest.approx(0.05)
    assert method.strength(Progress(10, 100)) == 0.2
    assert (method.cost(Progress(0, 100)), method.cost(Progress(1, 100))) == ((1, 1), (1, 1))
    assert RWP(Gaussian(0.2), draws=3).cost(Progress(0, 100)) == (3, 3)


def test_sums_of_noise_models_train() -> None:
    method = Method.parse("rwp:gaussian(0.1)+laplace(0.1)")
    assert Method.parse(str(method)) == method
    model = smooth_net()
    before = weights(model)
    method.step(sgd(model), batch(dtype=torch.float64), Progress(0, 10))
    assert not same_bits(weights(model), before)


@pytest.mark.parametrize(
    "text",
    ["rwp:gaussian(-0.1)", "rwp:gaussian(0.1),draws=0", "rwp:gaussian(0.1),schedule=-1.0", "rwp:noise", "rwp:0.1"],
)
def test_bad_settings(text: str) -> None:
    with pytest.raises(UserError, match="expected") as raised:
        Method.parse(text)
    assert "\n" not in str(raised.value)
