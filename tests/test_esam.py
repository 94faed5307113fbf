"""ESAM's choices: which samples and which tensors. (Its update: test_rules_closed_form.py.)"""

from __future__ import annotations

import pytest
import torch
from methods import ON, Passes, batch, normed_net, sgd
from torch import nn

from noiserobust.data import Batch
from noiserobust.rng import Stream
from noiserobust.training import ESAM, Engine, Progress
from noiserobust.training.rules.esam import most_risen


class TestSamples:
    @pytest.mark.parametrize("gamma", [0.01, 0.1, 0.29, 0.5, 0.57, 0.7, 0.99, 1.0])
    @pytest.mark.parametrize("size", [1, 2, 3, 10, 12, 100, 128])
    def test_exactly_max_1_floor_gamma_b(self, gamma: float, size: int) -> None:
        """floor in whole hundredths, so that 0.29 of 100 is 29 although 0.29 * 100 is 28.999... in floats."""
        expected = max(1, round(gamma * 100) * size // 100)
        for rises in (
            Stream(0, "test", size).normal((size,)),
            torch.zeros(size),  # all tie
            torch.arange(size) // 3 * 1.0,  # some do
        ):
            kept = most_risen(rises, gamma)
            assert len(kept) == len(set(kept.tolist())) == expected
            left = torch.ones(size, dtype=torch.bool).index_fill(0, kept, False)
            assert expected == size or rises[kept].min() >= rises[left].max()

    def test_the_first_among_equals(self) -> None:
        assert most_risen(torch.zeros(6), 0.5).tolist() == [0, 1, 2]
        assert most_risen(torch.tensor([1.0, 3.0, 3.0, 3.0]), 0.5).tolist() == [1, 2]

    @pytest.mark.parametrize("parts", [1, 3])
    def test_the_step_is_taken_on_them_alone(self, parts: int) -> None:
        """The last pass holds gamma B samples, in as few micro-batches as are no larger than the given ones."""
        model = normed_net()
        passes = Passes(model, 12)
        micro = batch().split(parts)
        ESAM(0.1, gamma=0.5).step(sgd(model), micro if parts > 1 else micro[0], ON)
        assert passes.samples == {"forward": 12 + 12 + 6, "backward": 12 + 6}
        assert passes.calls["backward"] == parts + (1 if parts == 1 else 2)


class TestTensors:
    def test_chosen_with_probability_beta_and_never_none(self) -> None:
        """Each tensor within 5 std errors of beta over 2,000 steps (6e-7 each); beta .05 often leaves none at first."""
        engine = sgd(normed_net(), seed=3)
        for beta in (0.3, 0.6):
            chosen = torch.tensor([ESAM(beta=beta).chosen(engine, step) for step in range(2000)]).double()
            assert chosen.any(1).all()
            expected = beta / (1 - (1 - beta) ** chosen.shape[1])  # given that it is not none
            assert ((chosen.mean(0) - expected).abs() < 5 * (expected * (1 - expected) / 2000) ** 0.5).all()
        few = torch.tensor([ESAM(beta=0.05).chosen(engine, step) for step in range(200)])
        assert few.any(1).all()
        assert all(ESAM(beta=1.0).chosen(engine, 0))

    def test_named_by_seed_and_step(self) -> None:
        first, second = (sgd(normed_net(), seed=seed) for seed in (3, 3))
        other = sgd(normed_net(), seed=4)
        draws = [[ESAM().chosen(engine, step) for step in range(20)] for engine in (first, second, other)]
        assert draws[0] == draws[1] != draws[2]

    def test_the_rest_of_the_backward_pass_is_skipped(self) -> None:
        """Only chosen parameters hold a gradient after pass one, and no requires_grad is flipped."""
        engine = sgd(normed_net())
        wanted = [index in (0, 5) for index in range(len(engine.parameters))]
        engine.gradient(batch(), sync=False, wrt=wanted)
        assert [p.grad is not None for p in engine.parameters] == wanted
        assert all(p.requires_grad for p in engine.parameters)

    def test_the_papers_scaling_is_by_the_whole_gradients_norm(self) -> None:
        """Eq. 5 on L = (w1^2 + 4 w2^2) / 2 at w = (3, 1): e1 = rho 3 / ((1 - beta) 5)."""
        model = nn.Module()
        model.w1, model.w2 = (nn.Parameter(torch.tensor([value], dtype=torch.float64)) for value in (3.0, 1.0))
        model.forward = lambda x: (0.5 * (model.w1**2 + 4 * model.w2**2)).expand(len(x))  # type: ignore[method-assign]
        method = ESAM(0.1, beta=0.4, gamma=1.0, scaling="paper")
        engine = Engine(model, torch.optim.SGD(model.parameters(), lr=1.0), lambda out, labels: out)
        step = next(step for step in range(99) if method.chosen(engine, step) == [True, False])
        method.step(engine, Batch(torch.zeros(2, 1), torch.zeros(2)), Progress(step, 99))
        torch.testing.assert_close(3 - model.w1, torch.tensor([3 + 0.1 * 3 / (0.6 * 5)], dtype=torch.float64))

    def test_a_choice_of_tensors_that_the_loss_does_not_reach(self) -> None:
        """Then there is nothing to climb: e = 0."""
        model = nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(4, 3)})
        model.forward = lambda x: model["used"](x)  # type: ignore[method-assign]
        engine = Engine(model, torch.optim.SGD(model.parameters(), lr=0.1), seed=1)
        x, y = Stream(0, "x").normal((8, 4)), torch.arange(8) % 3
        none = [not any(ESAM(beta=0.3).chosen(engine, step)[:2]) for step in range(20)]
        assert any(none)
        for step in range(20):
            ESAM(0.1, beta=0.3).step(engine, Batch(x, y), Progress(step, 20))
