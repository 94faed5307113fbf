"""LookSAM's direction is measured once per climb: the same bits as measured at every step."""

from __future__ import annotations

import pytest
from methods import batch, full_strength, normed_net, same_bits, sgd, state

from noiserobust.training import LookSAM, Method


@pytest.mark.parametrize("text", ["looksam:0.1,k=4", "looksam:0.1,k=4,layerwise=true"])
def test_kept_lengths_change_no_bit(text: str) -> None:
    kept, anew = sgd(normed_net()), sgd(normed_net())
    rule = Method.parse(text)
    for step in range(9):
        for engine in (kept, anew):
            rule.step(engine, batch(step=step), full_strength(step))
        anew.memory["looksam"]["lengths"] = None
        assert same_bits(state(kept.model), state(anew.model))


def test_a_memory_from_before_lengths_were_kept_goes_on() -> None:
    whole, resumed = sgd(normed_net()), sgd(normed_net())
    for step in range(4):
        for engine in (whole, resumed):
            LookSAM(0.1).step(engine, batch(step=step), full_strength(step))
        saved = resumed.state_dict()
        saved["memory"]["looksam"].pop("lengths")
        resumed.load_state_dict(saved)
    assert same_bits(state(whole.model), state(resumed.model))


def test_a_layer_without_gradient_is_not_in_the_length() -> None:
    engine, twin = sgd(normed_net()), sgd(normed_net())
    for step in range(4):
        for one in (engine, twin):
            one.model[7].weight.requires_grad_(step != 2)
            LookSAM(0.1).step(one, batch(step=step), full_strength(step))
        twin.memory["looksam"]["lengths"] = None
        assert same_bits(state(engine.model), state(twin.model))
