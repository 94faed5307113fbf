"""Strata and what is estimated from them: unbiased, whatever the score; the refit against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special, stats

from noiserobust import Stream
from noiserobust.evaluation.precision.strata import FLOOR, Strata, prior, refitted, sampling_variance, score


def generator(*name: str | int) -> np.random.Generator:
    return np.random.default_rng(Stream(0, *name).integer())


def answers(images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Margins, the true chance of a right answer and the answers under one draw."""
    random = generator("answers", images)
    margin = random.normal(1, 2, images)
    chance = special.expit(1.5 * margin)
    return margin, chance, random.random(images) < chance


@given(images=st.integers(1, 300), wanted=st.integers(1, 160), seed=st.integers(0, 99), flat=st.booleans())
def test_every_image_lies_in_one_stratum_and_weights_sum_to_one(
    images: int, wanted: int, seed: int, flat: bool
) -> None:
    random = generator("cut", seed)
    margin = np.zeros(images) if flat else random.normal(size=images)
    strata = Strata.cut(margin, score(prior(margin)), wanted)
    assert sorted(strata.order) == list(range(images))
    assert strata.size.sum() == images
    assert (strata.size > 0).all()
    assert (strata.taken == np.minimum(strata.size, 4)).all()
    assert len(strata.size) <= max(wanted // 4, 1)
    subset = strata.subset(random)
    assert len(subset) == len(set(subset)) == strata.images == len(strata.represents)
    assert strata.represents.sum() == pytest.approx(1)
    # The images taken of each stratum are the stratum's own.
    home = np.empty(images, int)
    home[strata.order] = np.repeat(np.arange(len(strata.size)), strata.size)
    assert (np.bincount(home[subset]) == strata.taken).all()


def test_strata_follow_the_margin_and_share_the_score() -> None:
    margin = answers(2000)[0]
    chosen = score(prior(margin))
    strata = Strata.cut(margin, chosen, 64)
    assert (np.diff(margin[strata.order]) >= 0).all()
    mass = np.add.reduceat(chosen[strata.order], strata.size.cumsum() - strata.size)
    assert len(mass) == 16
    assert mass == pytest.approx(np.full(16, chosen.sum() / 16), abs=0.5)  # half an image's score at either end


def test_images_of_a_stratum_are_equally_likely_and_so_are_pairs() -> None:
    strata = Strata(np.arange(13)[::-1], np.array([6, 7]), np.array([4, 4]))
    random, draws = generator("pairs"), 20_000
    seen = np.zeros((13, 13))
    for _ in range(draws):
        subset = strata.subset(random)
        seen[np.ix_(subset, subset)] += 1
    # Inclusion with probability n/N; two of one stratum n(n-1)/(N(N-1)); chi-square of the pairs that are free to
    # vary would need their covariance, so each is judged alone: 5 standard errors, 13 + 36 of them: false alarms 3e-5.
    for first, size in ((7, 6), (0, 7)):
        inside = seen[first : first + size, first : first + size]
        for counts, p in ((np.diag(inside), 4 / size), (inside[np.triu_indices(size, 1)], 12 / (size * (size - 1)))):
            assert np.abs(counts - draws * p).max() < 5 * np.sqrt(draws * p * (1 - p))


@pytest.mark.parametrize("kind", ["prior", "uniform", "wrong"])
def test_the_estimate_and_its_variance_are_unbiased(kind: str) -> None:
    """Against the truth of 500 images; 4,000 subsets; each bound 5 standard errors, false alarms 6e-7."""
    margin, _, correct = answers(500)
    random = generator("unbiased", kind)
    scores = {"prior": score(prior(margin)), "uniform": np.ones(500), "wrong": random.uniform(FLOOR, 1, 500)}[kind]
    strata = Strata.cut(random.normal(size=500) if kind == "wrong" else margin, scores, 64)
    estimates = np.array([strata.estimate(correct[strata.subset(random)]) for _ in range(4000)])
    assert abs(estimates[:, 0].mean() - correct.mean()) < 5 * estimates[:, 0].std() / np.sqrt(4000)
    # By hand: the variance of a stratified sample without replacement from known answers.
    groups = np.split(correct[strata.order].astype(float), strata.size.cumsum()[:-1])
    by_hand = sum(
        (size / 500) ** 2 * (1 - taken / size) * group.var(ddof=1) / taken if size > taken else 0.0
        for size, taken, group in zip(strata.size, strata.taken, groups, strict=True)
    )
    assert abs(estimates[:, 1].mean() - by_hand) < 5 * estimates[:, 1].std() / np.sqrt(4000)
    excess = stats.kurtosis(estimates[:, 0])
    assert estimates[:, 0].var() == pytest.approx(by_hand, rel=5 * np.sqrt((excess + 2) / 4000))


def test_strata_by_margin_need_fewer_images() -> None:
    """The point of it all, on answers that the margin tells much about: no random test, exact variances."""
    margin, chance, _ = answers(2000)

    def variance(strata: Strata) -> float:
        groups = np.split(chance[strata.order], strata.size.cumsum()[:-1])
        spread = np.array([g.mean() * (1 - g.mean()) for g in groups])
        return float((strata.size / 2000) ** 2 @ (spread / strata.taken))

    simple = Strata(np.arange(2000), np.array([2000]), np.array([64]))
    assert variance(Strata.cut(margin, score(chance), 64)) < 0.6 * variance(simple)


def test_the_whole_set_is_exact() -> None:
    correct = answers(50)[2]
    strata = Strata.whole(50)
    assert strata.step == 0
    assert (strata.subset(generator("whole")) == np.arange(50)).all()
    assert strata.estimate(correct) == (pytest.approx(correct.mean()), 0.0)


def test_the_step_is_what_one_image_stands_for() -> None:
    assert Strata(np.arange(100), np.array([10, 90]), np.array([4, 4])).step == pytest.approx(90 / 4 / 100)
    assert Strata(np.arange(94), np.array([4, 90]), np.array([4, 4])).step == pytest.approx(90 / 4 / 94)


def test_the_refit_is_the_penalised_likelihoods_maximum() -> None:
    """Against scipy's minimiser on the same formula."""
    margin, _, correct = answers(400)
    random = generator("refit")
    positions, weight = random.integers(0, 400, 300), random.uniform(0.2, 3, 300)
    u = margin / np.abs(margin).mean()
    x = np.column_stack([np.ones(400), u, np.sign(u) * np.sqrt(np.abs(u))])
    sign, share = np.where(correct[positions], 1, -1), weight / weight.mean()

    def loss(beta: np.ndarray) -> float:
        return float(share @ np.logaddexp(0, -sign * (x[positions] @ beta)) + (beta[1:] ** 2).sum() / 2 / 1000)

    best = optimize.minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-8}).x
    estimates = refitted(margin, positions, correct[positions], weight)
    assert estimates == pytest.approx(special.expit(x @ best), abs=1e-4)


def test_the_refit_of_answers_that_all_agree_is_flat() -> None:
    margin = answers(20)[0]
    for right in (True, False):
        answer = np.full(20, right)
        assert (refitted(margin, np.arange(20), answer, np.ones(20)) == float(right)).all()


def test_separable_answers_and_equal_margins_stay_finite() -> None:
    margin = np.linspace(-1, 1, 40)
    assert np.isfinite(refitted(margin, np.arange(40), margin > 0, np.ones(40))).all()
    for same in (np.zeros(40), np.ones(40)):
        assert np.isfinite(prior(same)).all()
        assert np.isfinite(refitted(same, np.arange(40), margin > 0, np.ones(40))).all()


def test_scores_are_judged_by_the_variance_that_they_bring() -> None:
    """v_1 from answers against its formula mean(c) mean(p (1 - p) / c); 5 standard errors of 50,000 answers."""
    _, chance, _ = answers(2000)
    random = generator("judged")
    positions = random.integers(0, 2000, 50_000)
    correct = random.random(50_000) < chance[positions]
    for scores in (score(chance), np.ones(2000)):
        truth = scores.mean() * (chance * (1 - chance) / scores).mean()
        estimates = sampling_variance(scores, chance, positions, correct, np.ones(50_000))
        parts = scores.mean() * (correct - chance[positions]) ** 2 / scores[positions]
        assert abs(estimates - truth) < 5 * parts.std() / np.sqrt(50_000)
