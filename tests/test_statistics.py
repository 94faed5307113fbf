"""Means, spreads, intervals: by hand on a small table, and by simulation on many."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evaluation_rows import only, table
from scipy import stats

from noiserobust.errors import UserError
from noiserobust.evaluation.statistics.components import components, interval
from noiserobust.evaluation.statistics.summary import paired, summarize


def test_summary_by_hand() -> None:
    # Means 80, 84; variances over draws 4, 16; variance of the means 8; t_1(97.5 %) = 12.7062.
    line = only(summarize(table({0: [78, 80, 82], 1: [80, 84, 88]})))
    assert line["mean"] == 82
    assert line["noise_variance"] == 10
    assert line["noise_std"] == pytest.approx(math.sqrt(10))
    assert line["weight_std"] == pytest.approx(math.sqrt(8))
    assert line["weight_variance"] == pytest.approx(8 - 10 / 3)
    half = 12.706204736 * math.sqrt(8 / 2)
    assert (line["low"], line["high"]) == (pytest.approx(82 - half), pytest.approx(82 + half))
    assert (line["interval_over"], line["models"], line["draws"]) == ("models", 2, 3)


def test_one_model_has_an_interval_over_its_draws() -> None:
    line = only(summarize(table({4: [78, 80, 82]}), confidence=0.9))
    half = 2.91998558 * 2 / math.sqrt(3)  # t_2(95 %)
    assert (line["low"], line["high"]) == (pytest.approx(80 - half), pytest.approx(80 + half))
    assert (line["interval_over"], line["models"], line["draws"]) == ("draws", 1, 3)
    assert math.isnan(line["weight_std"])
    assert math.isnan(line["weight_variance"])


def test_one_draw_has_no_noise_spread() -> None:
    line = only(summarize(table({0: [90.0], 1: [92.0]})))
    assert line["mean"] == 91
    assert line["weight_std"] == pytest.approx(math.sqrt(2))
    assert math.isnan(line["noise_std"])
    assert math.isnan(line["weight_variance"])
    single = only(summarize(table({0: [90.0]})))
    assert single["mean"] == 90
    assert math.isnan(single["low"])


@pytest.mark.parametrize(("name", "right", "wrong"), [("seed", 1, 3), ("semantics", 1, 2), ("device", "cpu", "cuda")])
def test_pairs_are_of_the_same_noise(name: str, right: Any, wrong: Any) -> None:
    """A draw of another seed, device or version is other noise; without noise none of them matters."""
    a = table({0: [78.0, 80.0]}, method="a").assign(**{name: right})
    b = table({0: [70.0, 74.0]}, method="b")
    assert only(paired(pd.concat([a, b.assign(**{name: right})]), "a", "b"))["mean"] == 7
    assert only(paired(pd.concat([a, b]), "a", "b"))["mean"] == 7  # older rows do not say
    other = pd.concat([a, b.assign(**{name: wrong})])
    with pytest.raises(
        UserError, match=f"expected the same noise .* got draws of {name} {right} \\(a\\) and {wrong} \\(b\\)"
    ):
        paired(other, "a", "b")
    assert only(paired(other.assign(strength=0.0), "a", "b"))["mean"] == 7


def test_reads_are_averaged_within_their_draw_first() -> None:
    first, second = table({0: [78, 80, 82]}, read=0), table({0: [80, 82, 84]}, read=1)
    line = only(summarize(pd.concat([first, second])))
    assert (line["mean"], line["noise_std"], line["draws"]) == (81, pytest.approx(2), 3)


def test_lines_come_in_order_of_first_appearance_and_row_order_is_irrelevant() -> None:
    parts = [
        table({0: [1, 2], 1: [3, 5]}, method="z", t=t, noise=noise)
        for t, noise in ((3600.0, "pcm"), (math.nan, "none"), (1.0, "pcm"))
    ]
    rows = pd.concat([*parts, table({0: [7, 9]}, method="a")], ignore_index=True)
    summary = summarize(rows)
    assert list(summary["noise"]) == ["pcm", "none", "pcm", "gaussian:0.1"]
    assert list(summary["t"].fillna(-1)) == [3600, -1, 1, -1]
    keys = ["method", "noise", "t"]
    shuffled = summarize(rows.sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(
        shuffled.sort_values(keys, ignore_index=True), summary.sort_values(keys, ignore_index=True)
    )


def test_a_value_that_is_not_finite_shows() -> None:
    assert math.isnan(only(summarize(table({0: [1, math.nan], 1: [2, 3]})))["mean"])
    line = only(summarize(table({0: [1, math.inf], 1: [2, 3]}, metric="loss")))
    assert line["mean"] == math.inf
    assert math.isnan(line["noise_std"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (table({0: [1, 2, 3], 1: [1, 2]}), "got 3 for replicate 0 but 2 for replicate 1"),
        (
            pd.concat([table({0: [1], 1: [1]}), table({0: [1]}, noise="pcm")]),
            "got 1 for replicate 0 but 0 for replicate 1",
        ),
        (
            pd.concat([table({0: [1, 2]}).assign(images=images) for images in (100, 500)]),
            r"they differ in images \(100, 500\)",
        ),
        (table({0: [1, 2]}).assign(semantics=[2, 3]), r"differ in semantics \(2, 3\): choose with --where"),
        (pd.concat([table({0: [1, 2]})] * 2), "got several for sgd-0.pt, gaussian:0.1 .accuracy., draw 0, read 0"),
        (pd.concat([table({0: [1, 2]}), table({0: [1]}, read=1)]), "expected 2 reads of every draw"),
        (pd.concat([table({0: [1, 2]}), table({0: [1, 2]}, model="b.pt")]), "sgd-0.pt and b.pt both as replicate 0"),
        (table({0: [1]}).drop(columns=["t", "read"]), "a table without t, read"),
        (table({}), "at least one evaluation row"),
    ],
)
def test_a_table_that_is_not_a_nested_design_is_refused(rows: pd.DataFrame, message: str) -> None:
    with pytest.raises(UserError, match=message):
        summarize(rows)


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_confidence_is_a_probability(confidence: float) -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        summarize(table({0: [1, 2]}), confidence)


def test_paired_difference_by_hand() -> None:
    # On shared replicates 0 and 1 the mean differences are 4 and 6; replicate 2 has no partner and draw 2 neither.
    a = table({0: [13, 15], 1: [26, 26], 2: [0, 0]}, method="a")
    b = table({0: [10, 10, 99], 1: [21, 19, 99]}, method="b")
    line = only(paired(pd.concat([a, b]), "a", "b"))
    half = 12.706204736 * math.sqrt(2 / 2)  # the variance of 4 and 6 is 2
    assert line["mean"] == 5
    assert (line["low"], line["high"]) == (pytest.approx(5 - half), pytest.approx(5 + half))
    assert (line["interval_over"], line["models"], line["draws"]) == ("models", 2, 2)
    assert (line["method_a"], line["method_b"], line["noise"]) == ("a", "b", "gaussian:0.1")


def test_paired_on_one_replicate_is_over_draws() -> None:
    rows = pd.concat([table({3: [13, 15]}, method="a"), table({3: [10, 10], 4: [0, 0]}, method="b")])
    line = only(paired(rows, "a", "b"))
    assert (line["mean"], line["interval_over"], line["models"], line["draws"]) == (4, "draws", 1, 2)
    assert line["high"] - line["mean"] == pytest.approx(12.706204736 * math.sqrt(2 / 2))
    assert only(paired(rows, "b", "a"))["mean"] == -4


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b"), r"got replicate \[0\] \(a\) and \[1\] \(b\); .* training seeds"),
        (("a", "d"), r"got noise \['gaussian:0.1'\] \(a\) and \['pcm'\] \(d\); .* with the same noise"),
        (("a", "c"), "method of the table .'a', 'b', 'd'., got 'c'"),
        (("a", "a"), "twice"),
    ],
)
def test_what_cannot_be_paired_is_refused(names: tuple[str, str], message: str) -> None:
    rows = pd.concat([table({0: [1, 2]}, method="a"), table({1: [1, 2]}, method="b")])
    rows = pd.concat([rows, table({0: [1, 2]}, method="d", noise="pcm")])
    with pytest.raises(UserError, match=message):
        paired(rows, *names)
    with pytest.raises(UserError, match=r"a metric of the table \('accuracy'\), got 'loss'"):
        paired(rows, "a", "b", metric="loss")


def simulated(cells: int, models: int, draws: int, weight_std: float, noise_std: float, seed: int) -> np.ndarray:
    """(cells, models, draws): independent nested experiments with mean 0."""
    generator = np.random.default_rng(seed)
    weight = weight_std * generator.standard_normal((cells, models, 1))
    return weight + noise_std * generator.standard_normal((cells, models, draws))


@pytest.mark.parametrize(("models", "draws", "weight_std"), [(4, 5, 1.0), (3, 4, 0.0), (1, 8, 0.0)])
def test_intervals_cover_and_components_are_unbiased(models: int, draws: int, weight_std: float) -> None:
    cells, noise_std = 1500, 2.0
    values = simulated(cells, models, draws, weight_std, noise_std, seed=models)
    lower, upper = interval(values)
    # Each bound below is two-sided with a false-alarm rate of 1e-4.
    low, high = stats.binom.ppf([0.5e-4, 1 - 0.5e-4], cells, 0.95)
    assert low <= ((lower <= 0) & (upper >= 0)).sum() <= high
    estimates = components(values)
    truths = {"noise_variance": noise_std**2} | ({"weight_variance": weight_std**2} if models > 1 else {})
    for name, truth in truths.items():
        standard_error = estimates[name].std(ddof=1) / math.sqrt(cells)
        assert abs(estimates[name].mean() - truth) < 3.9 * standard_error


def test_the_paired_interval_covers_although_draws_are_shared() -> None:
    cells, models, draws = 400, 3, 4
    common = simulated(cells, models, draws, 0.0, 5.0, seed=20)
    sides = [
        rows_of(common + simulated(cells, models, draws, 1.0, 1.0, seed=seed), method)
        for method, seed in (("a", 21), ("b", 22))
    ]
    line = paired(pd.concat(sides), "a", "b")
    low, high = stats.binom.ppf([0.5e-4, 1 - 0.5e-4], cells, 0.95)  # false alarms: 1e-4
    assert low <= ((line["low"] <= 0) & (line["high"] >= 0)).sum() <= high
    # What the pairing buys: the common noise is gone (variance of a difference of means: 2 (1 + 1/4) / 3).
    assert line["mean"].var() == pytest.approx(2 * 1.25 / 3, rel=3.9 * math.sqrt(2 / cells))  # false alarms: 1e-4


def rows_of(values: np.ndarray, method: str) -> pd.DataFrame:
    """Each experiment under a noise name of its own."""
    cell, model, draw = (index.ravel() for index in np.indices(values.shape))
    return pd.DataFrame(
        {"model": model, "method": method, "replicate": model, "noise": cell, "strength": 0.1, "draw": draw}
        | {"read": 0, "t": math.nan, "metric": "accuracy", "value": values.ravel()}
    )
