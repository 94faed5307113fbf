"""MESA's moving average. (Its update: test_rules_closed_form.py.)"""

from __future__ import annotations

import pytest
import torch
from methods import batch, normed_net, sgd, state
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from noiserobust.errors import UserError
from noiserobust.training import MESA, Progress
from noiserobust.training.averages import follow, values_of


def forwards(model: nn.Module) -> list[bool]:
    """Mode (training or not) of every forward pass from here on."""
    seen: list[bool] = []
    model.register_forward_hook(lambda module, *_: seen.append(module.training))
    return seen


def test_no_forward_of_the_average_before_its_start() -> None:
    model = normed_net()
    engine, seen = sgd(model), forwards(model)
    for epoch in range(4):
        MESA(start=2).step(engine, batch(step=epoch), Progress(epoch, 4, epoch, 4))
        assert seen == ([True] if epoch < 2 else [False, True])
        assert MESA(start=2).cost(Progress(epoch, 4, epoch, 4)) == (len(seen), 1)
        seen.clear()
    assert model.training


def test_weights_and_buffers_are_averaged_and_counters_copied() -> None:
    """v = beta v + (1 - beta) w after every step, from the initial weights on, whatever the start."""
    model = normed_net()
    engine = sgd(model)
    names = list(model.state_dict())
    average = dict(zip(names, state(model), strict=True))
    for step in range(3):
        MESA(beta=0.7, start=100).step(engine, batch(step=step), Progress(step, 3, 0, 101))
        for name, value in model.state_dict().items():
            average[name] = 0.7 * average[name] + 0.3 * value if value.is_floating_point() else value.clone()
    assert set(engine.memory["mesa"]) == set(names)
    for name in names:
        torch.testing.assert_close(engine.memory["mesa"][name], average[name])
    assert {int(v) for n, v in engine.memory["mesa"].items() if "num_batches" in n} == {3}


def test_a_term_that_would_never_be_active_is_refused() -> None:
    engine = sgd(normed_net())
    with pytest.raises(
        UserError, match="mesa: expected more than start=5 epochs, got 1: its term would never be active"
    ):
        MESA().step(engine, batch(), Progress(0, 10))


def test_the_average_of_a_bfloat16_network_moves() -> None:
    """A step of 1 - beta = 5e-4 of the way is less than bfloat16 can add."""
    model = normed_net().bfloat16()
    engine = sgd(model)
    start = model[0].weight.detach().float().clone()
    MESA(start=0).prepare(engine)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    follow(engine.memory["mesa"], values_of(model), get_ema_multi_avg_fn(0.9995), 1)
    moved = engine.memory["mesa"]["0.weight"]
    torch.testing.assert_close(moved - start, torch.full_like(start, 5e-4), rtol=0.02, atol=0)
