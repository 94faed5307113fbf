"""RST's coins and probability schedules. (Its steps: test_rules_closed_form.py.)"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from methods import normed_net, sgd

from noiserobust.training import RST, Probability, Progress

STEPS = 2000
SCHEDULES = {
    "constant:0.3": 0.3,
    "piecewise:0.2,b=0.25": 0.25 * 0.2 + 0.75 * 0.8,
    "piecewise:1.0": 0.5,
    "linear:0.8,b=0.1": 0.5,
    "linear:-1.0,b=1.0": 0.5,
    "cos1": 0.5,
    "cos2": 0.5,
    "sin1": 2 / torch.pi,
    "sin2": 1 - 2 / torch.pi,
}
"""Text -> the mean of p over a long run."""


def tossed(rule: RST, seed: int = 0) -> torch.Tensor:
    engine = sgd(normed_net(), seed=seed)
    return torch.tensor([rule.coin(engine, Progress(step, STEPS)) for step in range(STEPS)]).double()


@pytest.mark.parametrize("text", SCHEDULES)
def test_as_many_heads_as_the_mean_of_p(text: str) -> None:
    """Within 5 std errors (of at most 1/2 / sqrt(2000)): false alarm 6e-7 each."""
    schedule = Probability.parse(text)
    assert schedule.mean(STEPS) == pytest.approx(SCHEDULES[text], abs=2e-3)
    assert abs(float(tossed(RST(p=schedule)).mean()) - SCHEDULES[text]) < 5 * 0.5 / STEPS**0.5 + 2e-3
    assert str(schedule) == text


def test_coins_depend_on_seed_and_step_alone() -> None:
    first, second, other = (tossed(RST(p=0.5), seed) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    backwards = sgd(normed_net(), seed=1)
    again = [RST(p=0.5).coin(backwards, Progress(step, STEPS)) for step in reversed(range(STEPS))]
    assert torch.equal(first, torch.tensor(again[::-1]).double())
    # A smaller p tosses the same coin: its heads are among the larger one's.
    assert (tossed(RST(p=0.3), 1) <= first).all()


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 10**6), st.data())
def test_probabilities_are_probabilities(text: str, steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, steps))
    assert 0 <= Probability.parse(text)(Progress(step, steps)) <= 1


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("cos1", (1.0, 0.5, 0.0)),
        ("cos2", (0.0, 0.5, 1.0)),
        ("sin1", (0.0, 1.0, 0.0)),
        ("sin2", (1.0, 0.0, 1.0)),
        ("linear:0.8,b=0.1", (0.1, 0.5, 0.9)),
        ("piecewise:0.2", (0.2, 0.8, 0.8)),
        ("constant:0.3", (0.3, 0.3, 0.3)),
    ],
)
def test_ends_and_middle(text: str, ends: tuple[float, ...]) -> None:
    schedule = Probability.parse(text)
    assert [schedule(Progress(step, 100)) for step in (0, 50, 100)] == pytest.approx(ends, abs=1e-12)


def test_expected_cost() -> None:
    assert RST(p=0.3).cost(Progress(0, 10)) == pytest.approx((1.3, 1.3))
    assert RST(p=Probability.parse("cos2")).cost(Progress(5, 10)) == pytest.approx((1.5, 1.5))
