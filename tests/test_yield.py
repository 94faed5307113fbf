"""Exact bounds against scipy's and by brute force; which chips they speak of."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluation_rows import only, table
from scipy import stats

from noiserobust.errors import UserError
from noiserobust.evaluation import yields
from noiserobust.evaluation.design.chip_yield import chips_needed, share_bounds, tolerance_bound


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_share_bounds_invert_the_binomial(confidence: float) -> None:
    for chips in (1, 7, 299):
        for reached in {0, 1, chips // 2, chips}:
            low, high = share_bounds(reached, chips, confidence)
            assert reached or low == 0
            assert reached == 0 or stats.binom.sf(reached - 1, chips, low) == pytest.approx(1 - confidence)
            assert reached == chips or stats.binom.cdf(reached, chips, high) == pytest.approx(1 - confidence)
            assert reached < chips or high == 1


def test_chips_needed_are_the_fewest() -> None:
    assert [chips_needed(0.99, 0.95, failures) for failures in range(3)] == [299, 473, 628]  # a known table
    assert chips_needed(0.9, 0.9) == 22
    for share, confidence, failures in itertools.product((0.2, 0.5, 0.9, 0.999), (0.05, 0.5, 0.99), (0, 1, 4)):
        chips = chips_needed(share, confidence, failures)
        assert stats.binom.cdf(failures, chips, 1 - share) <= 1 - confidence
        assert chips == failures + 1 or stats.binom.cdf(failures, chips - 1, 1 - share) > 1 - confidence
        # With one chip less there is no such bound; with these it is the worst one but ``failures``.
        assert tolerance_bound(np.arange(chips), share, confidence) == failures
        assert tolerance_bound(np.arange(chips - 1), share, confidence) != failures


def test_the_tolerance_bound_is_scipys_and_agrees_with_the_share() -> None:
    generator = np.random.default_rng(5)
    for _ in range(300):
        values = np.round(generator.normal(70, 3, generator.integers(1, 400)), 1)  # with ties
        share, confidence = generator.uniform(0.3, 0.995), generator.uniform(0.5, 0.99)
        above = np.round(generator.normal(66, 5), 1)
        bound = tolerance_bound(values, share, confidence)
        test = stats.quantile_test(values, p=1 - share, alternative="greater")
        assert bound == pytest.approx(test.confidence_interval(confidence).low, nan_ok=True)
        low, _ = share_bounds(int((values >= above).sum()), len(values), confidence)
        assert (low >= share) == (bound >= above)


def test_a_line_per_network_or_pooled() -> None:
    rows = table({0: [60, 70, 80, 90], 1: [70, 70, 70, 50]})
    first, second = yields(rows, above=70, share=0.5).summary(0.9).to_dict("records")
    assert (first["model"], first["chips"], first["reached"], first["models"]) == ("sgd-0.pt", 4, 3, 1)
    assert first["low"] == pytest.approx(stats.beta.ppf(0.1, 3, 2))
    assert first["bound"] == 60  # P(Binomial(4, 1/2) >= 1) = 0.9375, but >= 2 only 0.6875
    assert (second["reached"], second["needed"]) == (3, 4)
    line = only(yields(rows, above=70, share=0.5, pooled=True).summary(0.9))
    expected = ("2 models", 8, 6, 60)  # P(Binomial(8, 1/2) >= 3) = 0.855
    assert (line["model"], line["chips"], line["reached"], line["bound"]) == expected
    line = only(yields(rows, pooled=True).summary())
    assert math.isnan(line["above"])
    assert math.isnan(line["bound"])  # 299 chips are needed
    assert math.isnan(yields(table({0: [1.0, math.nan]}), above=2).summary().iloc[0]["reached"])


def test_reads_of_a_chip_are_one_chip_and_no_noise_is_no_chip() -> None:
    rows = pd.concat([table({0: [60, 70]}, read=0), table({0: [62, 72]}, read=1)])
    clean = table({0: [95, 95]}, noise="none").assign(strength=0.0)
    line = only(yields(pd.concat([rows, clean]), above=71).summary())
    assert (line["noise"], line["chips"], line["reached"]) == ("gaussian:0.1", 2, 1)
    with pytest.raises(UserError, match="rows with noise, got only none"):
        yields(clean)


def test_percentiles_lie_between_order_statistics() -> None:
    generator = np.random.default_rng(8)
    values = generator.normal(70, 3, 200)
    points = yields(table({0: values.tolist()})).percentiles((1, 10, 50)).set_index("percent")
    ordered = np.sort(values)
    assert points.loc[50, "value"] == ordered[99]
    # Conover: the interval [x(l), x(u)] covers with P(l <= Binomial < u).
    for percent in (10, 50):
        low, high = (int(np.searchsorted(ordered, points.loc[percent, end])) + 1 for end in ("low", "high"))
        binomial = stats.binom(200, percent / 100)
        assert binomial.cdf(low - 1) <= 0.025 < binomial.cdf(low)
        assert binomial.sf(high - 1) <= 0.025 < binomial.sf(high - 2)
    assert points.loc[1, "low"] == -math.inf
    assert math.isnan(only(yields(table({0: [1, math.nan]})).percentiles((50,)))["value"])
    single = only(yields(table({0: [5.0]})).percentiles((50,)))
    assert (single["value"], single["low"], single["high"]) == (5, -math.inf, math.inf)


def test_the_curve_is_the_shares_of_every_value() -> None:
    rows = table({0: [60, 70, 70, 90]})
    curve = yields(rows).distribution(confidence=0.9)
    assert list(curve["value"]) == [60, 70, 90]
    assert list(curve["reaching"]) == [1, 0.75, 0.25]
    for point in curve.to_dict("records"):
        line = only(yields(rows, above=point["value"]).summary(0.9))
        assert (point["low"], point["high"]) == (pytest.approx(line["low"]), pytest.approx(line["high"]))
    with pytest.raises(UserError, match="got NaN on every line"):
        yields(table({0: [math.nan]})).distribution()


def test_a_fraction_is_not_taken_for_a_percentage() -> None:
    for above in (0.9, 1):
        with pytest.raises(UserError, match=rf"got {above}; accuracy is in percent: 90 for 90 %"):
            yields(table({0: [95]}), above=above)
    assert only(yields(table({0: [95]}), above=0).summary())["reached"] == 1
    losses = yields(table({0: [0.4, 0.2]}, metric="loss"), above=0.3, metric="loss")
    assert only(losses.summary())["reached"] == 1  # less is better: that of 0.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: yields(table({0: [1]}), share=99), "share of chips between 0 and 1, got 99; 0.99 means"),
        (lambda: yields(table({0: [1]})).summary(95), "confidence between 0 and 1, got 95"),
        (lambda: yields(table({0: [1]}), metric="loss"), r"metric of the table \('accuracy'\), got 'loss'"),
        (lambda: yields(table({0: [1, 2], 1: [1]}), pooled=True), "as many draws .* to pool, got 1 to 2"),
        (lambda: yields(table({0: [1], 1: [1]}).assign(replicate=0), pooled=True), "they share noise draws"),
        (lambda: yields(table({0: [1]})).percentiles((100,)), "percentiles between 0 and 100, got 100"),
        (lambda: chips_needed(1.0), "share of chips between 0 and 1"),
        (lambda: chips_needed(failures=-1), "failures >= 0, got -1"),
    ],
)
def test_bad_input_is_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message):
        call()


def test_table_and_picture_say_what_the_bounds_are(tmp_path: Path) -> None:
    generator = np.random.default_rng(9)
    rows = pd.concat(
        [
            table({m: generator.normal(mean, 3, 40).tolist() for m in range(2)}, method=name, t=3600.0)
            for name, mean in (("sgd", 70), ("rwp", 74))
        ]
    )
    text = yields(rows, 70, 0.9).table(percents=(5, 50))
    assert "noise: gaussian:0.1, t 1 h" in text
    assert "rwp, replicate 1" in text
    assert "90 % of all reach" in text
    assert "median" in text
    assert "each bound alone with 95 % confidence" in text
    assert "about chips of that one network" in text
    assert "needs 299 chips" in str(yields(rows))
    pooled = yields(rows, 70, 0.9, pooled=True)
    assert "Pooled: chips of these networks" in pooled.table(percents=None)
    assert "| network | chips |" in pooled.table(markdown=True)
    assert "2 models" in pooled._repr_html_()
    (axis,) = pooled.plot(tmp_path / "yield.png").axes
    assert (tmp_path / "yield.png").stat().st_size > 0
    dots = {tuple(line.get_xydata()[0]) for line in axis.lines if line.get_marker() == "o"}
    assert dots == {(bound, 90.0) for bound in pooled.summary()["bound"]}
    assert len(yields(rows).plot().axes[0].collections) == 0  # four lines: no bands


@pytest.mark.parametrize("above", [math.nan, math.inf, 101.0])
def test_what_no_chip_can_reach_is_refused(above: float) -> None:
    rows = table({0: [80.0, 70.0, 60.0]})
    with pytest.raises(UserError, match="expected accuracy that can be reached as above, got"):
        yields(rows, above=above)
