"""Schedules of strength at their ends and in between."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from methods import batch, sgd, smooth_net
from scipy import stats

from noiserobust.errors import UserError
from noiserobust.training import SAM, Progress, Schedule, Uniform

WARMING = {"linear": 0.5, "quadratic": 0.25, "off-to-on": 0.0}
"""Share of the maximum when half of the warm-up has passed."""


def at(text: str, step: int, steps: int = 100) -> float:
    return Schedule.parse(text)(Progress(step, steps))


@pytest.mark.parametrize("name", WARMING)
@pytest.mark.parametrize("warmup", ["40", "0.4"])
def test_shape(name: str, warmup: str) -> None:
    text = f"{name}(0.8,warmup={warmup})"
    assert at(text, 0) == 0
    assert at(text, 20) == pytest.approx(0.8 * WARMING[name])
    assert at(text, 39) < 0.8
    assert [at(text, step) for step in (40, 41, 99, 100)] == [0.8] * 4
    values = [at(text, step) for step in range(100)]
    assert values == sorted(values)


@pytest.mark.parametrize("name", WARMING)
@pytest.mark.parametrize("warmup", ["0", "0.0"])
def test_no_warmup(name: str, warmup: str) -> None:
    assert at(f"{name}(0.8,warmup={warmup})", 0) == 0.8


def draws(text: str, steps: int = 4000, seed: int = 0) -> list[float]:
    schedule = Schedule.parse(text)
    return [schedule(Progress(step, steps, seed=seed)) for step in range(steps)]


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("uniform(0.2,spread=0.5)", stats.uniform(0.1, 0.2)),
        ("uniform(0.2)", stats.uniform(0.0, 0.4)),
        ("half-normal(0.2)", stats.halfnorm(scale=0.2 * math.sqrt(math.pi / 2))),
        ("normal(0.2,spread=0.5)", stats.foldnorm(2.0, scale=0.1)),
    ],
)
def test_a_drawn_strength_is_so_distributed_around_its_mean(text: str, distribution: Any) -> None:
    """Chance of a false alarm 1e-6 each; half-normal and uniform have the mean that is given."""
    values = draws(text)
    assert stats.kstest(values, distribution.cdf).pvalue > 1e-6
    assert text.startswith("normal") or distribution.mean() == pytest.approx(0.2)
    assert values == draws(text)
    assert values != draws(text, seed=1)


def test_a_drawn_strength_follows_the_schedule_around_which_it_is() -> None:
    around, alone = draws("uniform(linear(0.8,warmup=40),spread=0.5)", 60), draws("uniform(1.0,spread=0.5)", 60)
    assert around == pytest.approx([0.8 * min(1, step / 40) * one for step, one in enumerate(alone)])
    assert Schedule.parse("half-normal(0.0)")(Progress(0, 1)) == 0


def test_a_rule_draws_by_the_engines_seed() -> None:
    drawn = [
        SAM(Uniform(0.1)).step(sgd(smooth_net(), seed=seed), batch(dtype=torch.float64), Progress(5, 9))
        for seed in (3, 4)
    ]
    assert [out.strength for out in drawn] == [Uniform(0.1)(Progress(5, 9, seed=seed)) for seed in (3, 4)]


def test_constant() -> None:
    assert [at("constant:0.3", step) for step in (0, 50, 100)] == [0.3] * 3


def test_a_whole_number_is_steps_and_a_fraction_follows_the_length() -> None:
    assert at("linear(1.0,warmup=1)", 1, steps=50) == 1
    assert at("linear(1.0,warmup=1.0)", 1, steps=50) == pytest.approx(1 / 50)
    assert at("linear(1.0,warmup=40)", 20, steps=1000) == 0.5
    assert at("linear(1.0,warmup=0.5)", 250, steps=1000) == 0.5
    assert Schedule.parse("linear(1.0,warmup=1)") == Schedule.parse(str(Schedule.parse("linear(1.0,warmup=1)")))


def test_off_to_on_switches_exactly_at_the_end_of_the_warmup() -> None:
    """For every fraction of two digits: 0.07 of 100 steps is step 7, although 0.07 * 100 > 7 in floating point."""
    for percent in range(1, 101):
        text = f"off-to-on(0.8,warmup={percent / 100:.2f})"
        assert [at(text, percent - 1), at(text, percent)] == [0, 0.8], text


def test_between_whole_steps_the_warmup_ends_at_the_next() -> None:
    assert [at("off-to-on(1.0,warmup=0.25)", step, steps=10) for step in (2, 3)] == [0, 1]


@pytest.mark.parametrize("name", WARMING)
@pytest.mark.parametrize(
    "arguments", ["-0.1", "nan", "inf", "1,warmup=-1", "1,warmup=1.5", "1,warmup=-0.1", "1,warmup=nan"]
)
def test_bad_settings(name: str, arguments: str) -> None:
    with pytest.raises(UserError, match=f"{name}: expected") as error:
        Schedule.parse(f"{name}({arguments})")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["cubic(1)", "linear", "linear(x)", "constant(-1)", "linear(1,2,3)"])
def test_bad_text(text: str) -> None:
    with pytest.raises(UserError):
        Schedule.parse(text)
