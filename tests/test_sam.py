"""SAM against closed forms on a quadratic, by hand from its equations, and against another implementation."""

from __future__ import annotations

import pytest
import torch
from methods import ON, Quadratic, batch, close, output, smooth_net, weights
from torch import Tensor, nn

from noiserobust.errors import UserError
from noiserobust.training import SAM, Engine, Linear, Method, Progress

ANALOG = torch.arange(12) < 6
RHO, LR, MOMENTUM, DECAY = 0.3, 0.1, 0.9, 0.01


def engine_of(model: nn.Module, **settings: float) -> Engine:
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    return Engine(model, optimizer, output, **settings)


def by_hand(w: Tensor, a: Tensor, steps: int, rhos: list[float], alpha: float, analog: bool) -> Tensor:
    """v = m v + (alpha A w + (1 - alpha) A (w + e) + decay w), w = w - lr v, with e = rho g / ||g||, g = A w."""
    velocity = torch.zeros_like(w)
    for step in range(steps):
        gradient = a @ w
        climb = gradient * ANALOG if analog else gradient
        e = rhos[step] * climb / climb.square().sum().sqrt()
        mixed = alpha * gradient + (1 - alpha) * (a @ (w + e))
        velocity = MOMENTUM * velocity + mixed + DECAY * w
        w = w - LR * velocity
    return w


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("perturb", ["all", "analog"])
def test_closed_form(steps: int, alpha: float, perturb: str) -> None:
    model = Quadratic()
    expected = by_hand(model.w.detach(), model.A, steps, [RHO] * steps, alpha, perturb == "analog")
    engine = engine_of(model)
    for _ in range(steps):
        SAM(rho=RHO, perturb=perturb, alpha=alpha).step(engine, batch(), ON)
    torch.testing.assert_close(model.w.detach(), expected, rtol=1e-11, atol=1e-12)


def test_the_schedule_is_the_radius() -> None:
    model = Quadratic()
    expected = by_hand(model.w.detach(), model.A, 2, [0.25, 0.5], 0.0, analog=False)
    engine = engine_of(model)
    for step in (2, 4):
        SAM(rho=Linear(1.0, warmup=0.8)).step(engine, batch(), Progress(step, 10))
    torch.testing.assert_close(model.w.detach(), expected, rtol=1e-11, atol=1e-12)


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
    SAM(rho=RHO).step(engine_of(model), batch(), ON)
    assert torch.equal(model.w, torch.zeros(12, dtype=torch.float64))


def test_agrees_with_pytorch_optimizer() -> None:
    """Its SAM (not adaptive) takes one norm over all parameter groups plus 1e-12, as ours does: two SGD steps agree.

    It sums the norm in float32, so the radius differs by 6e-8 of itself and the weights by 1e-9, where plain SGD or one
    norm per tensor would differ by 1e-3.
    """
    theirs = pytest.importorskip("pytorch_optimizer")
    ours, other = smooth_net(), smooth_net()
    first, second = list(other.parameters())[:2], list(other.parameters())[2:]
    optimizer = theirs.SAM(
        [{"params": first}, {"params": second}],
        torch.optim.SGD,
        rho=RHO,
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=DECAY,
    )
    engine = Engine(ours, torch.optim.SGD(ours.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY))
    for step in range(2):
        data = batch(step=step, dtype=torch.float64)

        def closure(data=data) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(other(data.inputs), data.labels)
            loss.backward()
            return loss

        closure()
        optimizer.step(closure)
        SAM(rho=RHO).step(engine, data, ON)
        close(weights(ours), weights(other), rtol=0.0, atol=1e-8)


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
    with pytest.raises(UserError, match="expected batches same or different, got 'other'"):
        SAM(batches="other")  # type: ignore[arg-type]
    assert SAM().visitable
    assert not SAM(batches="different").visitable
