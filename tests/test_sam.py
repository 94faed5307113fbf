"""SAM's corners: scaling, zero gradients, batches, refusals. (Its update: test_rules_closed_form.py.)"""

from __future__ import annotations

import pytest
import torch
from methods import ON, Quadratic, batch, close, output, sgd, smooth_net, weights
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.training import SAM, Engine, Method

RHO, LR = 0.3, 0.1


def test_the_ascent_knows_neither_clipping_nor_the_loss_scale() -> None:
    """Clipping the clean gradient, or leaving it scaled, would show in alpha's part or in the radius."""
    model = Quadratic()
    gradient = model.A @ model.w.detach()
    e = RHO * gradient / gradient.norm()
    final = 0.3 * gradient + 0.7 * (model.A @ (model.w.detach() + e))
    expected = model.w.detach() - LR * (0.5 * final / final.norm())
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    SAM(rho=RHO, alpha=0.3).step(Engine(model, optimizer, output, scaler=scaler, clip_norm=0.5), batch(), ON)
    torch.testing.assert_close(model.w.detach(), expected, rtol=1e-6, atol=1e-9)


def test_a_zero_gradient_is_no_division_by_zero() -> None:
    model = Quadratic()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    SAM(rho=RHO).step(sgd(model, loss=output), batch(), ON)
    assert torch.equal(model.w, torch.zeros(12, dtype=torch.float64))


@pytest.mark.parametrize(
    "text", ["sam:-0.1", "sam:nan", "sam:inf", "sam:0.1,alpha=1.5", "sam:0.1,perturb=bias", "sam:linear(-1)"]
)
def test_bad_settings(text: str) -> None:
    with pytest.raises(UserError, match="expected") as error:
        Method.parse(text)
    assert "\n" not in str(error.value)


def test_frozen_analog_weights_leave_nothing_to_perturb() -> None:
    model = smooth_net()
    for module in (model[1], model[3]):
        module.weight.requires_grad_(False)
    engine = Engine(model, torch.optim.SGD(model.parameters(), lr=LR))
    with pytest.raises(UserError, match="expected at least one trainable analog weight in Sequential, found none"):
        SAM(rho=RHO, perturb="analog").step(engine, batch(dtype=torch.float64), ON)


def test_different_batches_climb_the_one_before() -> None:
    """The second step follows the gradient of B at w + rho g_A / ||g_A||, A being the batch of the first."""
    model, first, second = smooth_net(), batch(step=0, dtype=torch.float64), batch(step=1, dtype=torch.float64)
    engine = Engine(model, torch.optim.SGD(model.parameters(), lr=LR))
    method = SAM(RHO, batches="different")
    method.step(engine, first, ON)
    twin = smooth_net()
    SAM(RHO).step(Engine(twin, torch.optim.SGD(twin.parameters(), lr=LR)), first, ON)
    close(weights(model), weights(twin), rtol=0, atol=0)  # the first step has no other batch

    before = weights(model)
    by_hand_engine = Engine(twin, torch.optim.SGD(twin.parameters(), lr=LR))
    by_hand_engine.gradient(first)
    steps = by_hand_engine.take()
    length = torch.stack([g.square().sum() for g in steps]).sum().sqrt()
    with by_hand_engine.moved([RHO * g / length for g in steps]):
        by_hand_engine.gradient(second)
    gradient = by_hand_engine.take()
    method.step(engine, second, ON)
    close(weights(model), [w - LR * g for w, g in zip(before, gradient, strict=True)], rtol=1e-10, atol=1e-12)


def test_batches_are_same_or_different() -> None:
    with pytest.raises(UserError, match="sam: batches: expected one of same, different, got 'other'"):
        SAM(batches="other")  # type: ignore[arg-type]
    assert SAM().visitable
    assert not SAM(batches="different").visitable


@pytest.mark.parametrize("text", ["sam:0.3,m=5,alpha=0.3", "esam:0.3,beta=1,gamma=1,m=5", "rst:sam(0.3,m=5),p=1"])
def test_every_m_samples_climb_by_themselves(text: str) -> None:
    """Of 12 samples 5, 5 and 2, in one batch or in two micro-batches; weighed by how many they are."""
    whole = batch(dtype=torch.float64)
    alpha = 0.3 if "alpha" in text else 0.0
    model = smooth_net()
    engine = Engine(model, torch.optim.SGD(model.parameters(), lr=LR))
    gradient = [torch.zeros_like(w) for w in weights(model)]
    for part in (whole[:5], whole[5:10], whole[10:]):
        engine.gradient(part)
        g = [one for one in engine.take() if one is not None]
        length = torch.stack([one.square().sum() for one in g]).sum().sqrt()
        with engine.moved([RHO * one / length for one in g]):
            engine.gradient(part)
        perturbed = [one for one in engine.take() if one is not None]
        for total, one, two in zip(gradient, g, perturbed, strict=True):
            total += len(part) / 12 * (alpha * one + (1 - alpha) * two)
    expected = [w - LR * g for w, g in zip(weights(smooth_net()), gradient, strict=True)]
    for of in (whole, [whole[:8], whole[8:]]):
        model = smooth_net()
        out = Method.parse(text).step(Engine(model, torch.optim.SGD(model.parameters(), lr=LR)), of, ON)
        close(weights(model), expected, rtol=1e-10, atol=1e-12)
        assert len(out.losses) == 12


@pytest.mark.parametrize("of", [1, 2])
def test_parts_of_gsam_and_looksam(of: int) -> None:
    """GSAM combines every part's own gradients; LookSAM's direction is made of the parts' means."""
    whole, base = batch(dtype=torch.float64), weights(smooth_net())
    model, shares = smooth_net(), (5 / 12, 5 / 12, 2 / 12)
    engine = Engine(model, torch.optim.SGD(model.parameters(), lr=LR))
    pairs = []
    for part in (whole[:5], whole[5:10], whole[10:]):
        engine.gradient(part)
        g = torch.nn.utils.parameters_to_vector([one for one in engine.take() if one is not None])
        steps = [torch.zeros_like(w) for w in base]
        torch.nn.utils.vector_to_parameters(RHO * g / g.norm(), steps)
        with engine.moved(steps):
            engine.gradient(part)
        pairs.append((g, torch.nn.utils.parameters_to_vector([one for one in engine.take() if one is not None])))
    given = [whole, [whole[:8], whole[8:]]][of - 1]

    def stepped(text: str, steps: int) -> Tensor:
        model = smooth_net()
        own, method = Engine(model, torch.optim.SGD(model.parameters(), lr=LR)), Method.parse(text)
        for step in range(steps):
            out = method.step(own, given, ON._replace(step=step))
            assert len(out.losses) == 12
        return torch.nn.utils.parameters_to_vector(weights(model))

    flat = torch.nn.utils.parameters_to_vector(base)
    gaps = [p - 0.4 * (g - (g @ p) / (p @ p) * p) for g, p in pairs]
    update = sum(share * one for share, one in zip(shares, gaps, strict=True))
    close([stepped("gsam:0.3,m=5", 1)], [flat - LR * update], rtol=1e-10, atol=1e-12)

    g, p = (sum(share * pair[k] for share, pair in zip(shares, pairs, strict=True)) for k in (0, 1))
    once = flat - LR * p
    close([stepped("looksam:0.3,m=5", 1)], [once], rtol=1e-10, atol=1e-12)
    kept = p - (g @ p) / (g @ g) * g
    after = smooth_net()
    torch.nn.utils.vector_to_parameters(once, after.parameters())
    engine = Engine(after, torch.optim.SGD(after.parameters(), lr=LR))
    engine.gradient(whole)
    g = torch.nn.utils.parameters_to_vector([one for one in engine.take() if one is not None])
    twice = once - LR * (g + 0.7 * g.norm() / kept.norm() * kept)
    close([stepped("looksam:0.3,m=5", 2)], [twice], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "text", ["gsam:0.1,m=0", "looksam:0.1,m=0", "sam:0.1,m=0", "esam:0.1,m=-1", "sam:0.1,m=4,batches=different"]
)
def test_parts_that_cannot_climb(text: str) -> None:
    with pytest.raises(UserError, match="expected m"):
        Method.parse(text)
