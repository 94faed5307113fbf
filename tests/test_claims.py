"""Verdicts: they follow from intervals, and say how much could have been seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from noiserobust.papers.claims import CLAIMS
from noiserobust.papers.grid import MINI, Bench, grid_of
from noiserobust.papers.grid.claim import Change, Claim, Contrast, Measured, OverEpochs, claims_text
from noiserobust.papers.grid.quantity import Quantity

AT, BENCH = grid_of("incorruptible", MINI), Bench(MINI, Path("nowhere"))


@dataclass(frozen=True)
class Given(Quantity):
    """A quantity whose copies are known."""

    copies: tuple[float, ...]
    unit: str = "accuracy"

    def values(self, bench: Bench) -> pd.DataFrame:
        # Two draws each, half a point to either side of the copy's mean.
        draws = [(copy, draw, value + shift) for copy, value in enumerate(self.copies)
                 for draw, shift in enumerate((-0.5, 0.5))]  # fmt: skip
        return pd.DataFrame(draws, columns=["replicate", "draw", "value"]).assign(x=np.nan)


def judged(*contrasts: Contrast) -> str:
    return Claim("paper", "says", "source", lambda at: contrasts).judged(AT, BENCH).verdict


class TestContrast:
    def test_is_paired_over_copies_with_a_t_interval(self) -> None:
        measured = Contrast("a - b", Given((71.0, 62.0, 83.0)), Given((70.0, 60.0, 80.0))).measured(BENCH, 0.95)
        # Differences 1, 2, 3: mean 2, std 1, t(.975, 2) = 4.3027.
        assert (measured.n, measured.mean, measured.std) == (3, 2, 1)
        assert measured.low == pytest.approx(2 - 4.302653 / np.sqrt(3))
        assert measured.high == pytest.approx(2 + 4.302653 / np.sqrt(3))

    @pytest.mark.parametrize(
        ("copies", "within", "verdict"),
        [
            ((5.0, 5.1, 4.9), None, "holds"),
            ((-5.0, -5.1, -4.9), None, "does not hold here"),
            ((5.0, -5.0, 1.0), None, "cannot tell"),
            ((0.1, -0.1, 0.0), 1.0, "holds"),
            ((5.0, 5.1, 4.9), 1.0, "does not hold here"),
            ((1.0, 1.1, 0.9), 1.0, "cannot tell"),
            ((5.0,), None, "cannot tell"),
        ],
    )
    def test_verdicts(self, copies: tuple[float, ...], within: float | None, verdict: str) -> None:
        assert judged(Contrast("a", Given(copies), within=within)) == verdict

    def test_a_claim_holds_when_all_of_it_does_and_fails_with_any_part(self) -> None:
        yes, no, maybe = (Contrast("a", Given(c)) for c in ((5.0, 5.1, 4.9), (-5.0, -5.1, -4.9), (5.0, -5.0, 1.0)))
        assert judged(yes, yes) == "holds"
        assert judged(yes, maybe) == "cannot tell"
        assert judged(yes, maybe, no) == "does not hold here"

    def test_intervals_of_several_parts_are_wider(self) -> None:
        contrast = Contrast("a", Given((1.0, 2.0, 3.0)))
        alone, joint = (
            Claim("p", "s", "x", lambda at, k=k: [contrast] * k).judged(AT, BENCH).measured[0] for k in (1, 4)
        )
        assert joint.low < alone.low
        assert Contrast("a", Given((1.0, 2.0, 3.0))).measured(BENCH, 1 - 0.05 / 4).low == joint.low


def test_the_detectable_difference_is_seen_four_times_in_five() -> None:
    n, trials = 5, 4000
    contrast = Contrast("a", Given((0.0,) * n))
    effect = Measured(contrast, n, 0.0, 0.0, 0.0, 1.0).detectable
    samples = np.random.default_rng(0).normal(effect, 1.0, (trials, n))
    low = samples.mean(1) - 2.776445 * samples.std(1, ddof=1) / np.sqrt(n)
    # The usual (t + t) approximation is a little generous at few copies; binomial standard error 0.6 %.
    assert 0.76 < (low > 0).mean() < 0.90


def test_the_copies_that_would_do() -> None:
    contrast = Contrast("a", Given((0.0, 0.0)), published=2.0)
    needed = int(Measured(contrast, 3, 0.5, -1.0, 2.0, 1.0).needed)
    assert Measured(contrast, needed, 0, 0, 0, 1.0).detectable <= 2.0
    assert Measured(contrast, needed - 1, 0, 0, 0, 1.0).detectable > 2.0


def test_the_copies_that_would_show_two_equal() -> None:
    contrast, trials = Contrast("a", Given((0.0, 0.0)), within=1.0), 4000
    n = int(Measured(contrast, 5, 0.0, -2.0, 2.0, 1.5).needed)
    samples = np.random.default_rng(0).normal(0.0, 1.5, (trials, n))
    half = stats.t.ppf(0.975, n - 1) * samples.std(1, ddof=1) / np.sqrt(n)
    shown = (np.abs(samples.mean(1)) + half < 1).mean()
    assert 0.77 < shown < 0.87
    fewer = Measured(contrast, 5, 0.5, -2.0, 2.0, 1.5).needed
    assert n < fewer < np.inf
    assert Measured(contrast, 5, 1.2, -2.0, 2.0, 1.5).needed == np.inf


def test_no_copies_are_named_for_a_difference_on_the_other_side() -> None:
    assert Measured(Contrast("a", Given((0.0, 0.0))), 5, -0.5, -2.0, 2.0, 1.5).needed == np.inf


def test_change_is_the_last_value_minus_that_at_a_share_of_training(tmp_path: Path) -> None:
    bench = Bench(MINI, tmp_path)
    run = AT.run("CIFAR-10", "ResNet-18")
    for seed in bench.seeds:
        folder = bench.training(run, seed).result.parent
        folder.mkdir(parents=True)
        pd.DataFrame({"epoch": range(7), "cosine": [1, 0.9, 0.8, 0.5, 0.4, 0.3, seed / 10]}).to_csv(folder / "log.csv")
    values = Change(run, "cosine").values(bench)["value"]
    np.testing.assert_allclose(values, [-0.8, -0.7, -0.6])
    np.testing.assert_allclose(Change(run, "cosine", falls=True).values(bench)["value"], [0.8, 0.7, 0.6])
    means = OverEpochs(run, "cosine").values(bench)
    np.testing.assert_allclose(means["value"], [(3.9 + seed / 10) / 7 for seed in bench.seeds])
    assert means["replicate"].tolist() == list(bench.seeds)


def test_the_text_says_what_could_have_been_seen() -> None:
    claim = Claim("paper", "RWP is best", "table 1",
                  lambda at: [Contrast("RWP minus SGD", Given((5.0, -5.0, 1.0)), published=2.5)])  # fmt: skip
    text = claims_text([claim.judged(AT, BENCH)], [], MINI)
    assert "| paper | RWP is best (table 1) | cannot tell |" in text
    assert "RWP minus SGD: +0.33 points [-12.1" in text
    assert "so many would have shown" in text
    assert "copies would show the published difference" in text
    assert "published +2.50" in text


@pytest.mark.parametrize(
    ("contrast", "said"),
    [
        (Contrast("x", Given((0.9, -0.9, 0.1)), within=1.0), "would show them equal (power 80 %), if they differ as"),
        (Contrast("x", Given((3.0, -0.9, 1.5)), within=1.0), "no number of copies would show them equal"),
        (Contrast("x", Given((-3.0, 0.9, -1.5))), "the measured difference is on the other side"),
        (Contrast("x", Given((3.0, -0.9, 1.5))), "copies would show this one"),
    ],
)
def test_what_is_open_says_what_would_settle_it(contrast: Contrast, said: str) -> None:
    (line,) = Claim("paper", "x", "table 1", lambda at: [contrast]).judged(AT, BENCH).lines()
    assert said in line


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.says[:40])
def test_every_claim_can_be_stated_at_mini(claim: Claim) -> None:
    contrasts = claim.contrasts(grid_of(claim.paper, MINI))
    assert contrasts
    assert all(one.pieces(BENCH) for one in contrasts)
