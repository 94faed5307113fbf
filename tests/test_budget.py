"""Noise budgets: a closed form, the meaning of the interval, and one clear line where there is no answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from experiments import budget_coverage
from noiserobust import UserError
from noiserobust.evaluation import Axis, Chips, budget, evaluate, on_chips
from noiserobust.evaluation.design.crossing import Crossing, Point, Range, crossing, search

SIZE = 400
COARSE = Axis(points=3, tolerance=0.1)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """Every image has a weight of its own, so that errors are independent."""
    return torch.eye(SIZE), torch.zeros(SIZE, dtype=torch.long)


def linear() -> nn.Module:
    """Logits +1 and -1: under Gaussian noise of std sigma each image is right with probability Phi(sqrt(2) / sigma)."""
    model = nn.Linear(SIZE, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, SIZE))
    return model


def sigma_that_loses(points: float) -> float:
    return math.sqrt(2) / stats.norm.ppf(1 - points / 100)


class TestClosedForm:
    @pytest.mark.parametrize("within", [1.0, 20.0])
    def test_gaussian(self, data: tuple[Tensor, Tensor], within: float) -> None:
        """The interval at 99.99 % misses in 1e-4; the value lies within 5 standard errors (6e-7) of the mean loss."""
        result = budget(linear(), data, "gaussian:{x}", (0, 3), within, draws=20, axis=Axis(confidence=0.9999))
        answer = result.summary(confidence=0.9999).iloc[0]
        assert answer["state"] == "found"
        assert answer["low"] < sigma_that_loses(within) < answer["high"]
        loss = 100 * stats.norm.sf(math.sqrt(2) / answer["value"])
        assert abs(loss - within) < 0.02 * within + 5 * math.sqrt(within * (100 - within) / (20 * SIZE))
        assert answer["clean"] == 100
        assert answer["evaluated"] == len(result.curve())
        usual = result.summary().iloc[0]
        assert usual["value"] == answer["value"]
        assert answer["low"] < usual["low"] < usual["high"] < answer["high"]

    def test_another_confidence_than_the_searched_one(self, data: tuple[Tensor, Tensor]) -> None:
        """Its ends are interpolated between the values tried, which lie close together."""
        searched, read = (
            budget(linear(), data, "gaussian:{x}", (0, 3), 5.0, draws=20, axis=Axis(confidence=c)).summary(0.99).iloc[0]
            for c in (0.99, 0.95)
        )
        for end in ("low", "value", "high"):
            assert read[end] == pytest.approx(searched[end], rel=0.03)

    def test_any_text_with_one_number(self, data: tuple[Tensor, Tensor]) -> None:
        """An error is a difference of two Laplace ones: its upper tail is e^-z (2 + z) / 4 at z = 2 / b."""
        axis = Axis(confidence=0.9999)
        result = budget(linear(), data, "gaussian:0.0+laplace:{x}", (0.01, 2), 5.0, draws=20, axis=axis)
        answer = result.summary(confidence=0.9999).iloc[0]
        low, high = (100 * math.exp(-2 / b) * (2 + 2 / b) / 4 for b in (answer["low"], answer["high"]))
        assert low < 5 < high

    def test_several_models_are_the_unit(self, data: tuple[Tensor, Tensor]) -> None:
        models = {"one": linear(), "three": [linear(), linear(), linear()]}
        answers = budget(models, data, "gaussian:{x}", (0, 2), 5.0, draws=2, axis=COARSE).summary().set_index("method")
        assert answers.loc["one", "interval_over"] == "draws"
        assert answers.loc["three", "interval_over"] == "models"
        assert list(answers["models"]) == [1, 3]


class Graded(nn.Module):
    """An image is right as long as its own weight, quantised, keeps its sign: it needs a fine enough step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(SIZE, 1, bias=False)
        with torch.no_grad():
            self.weight.weight.copy_(torch.linspace(0.002, 1.0, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        signal = self.weight(x)
        return torch.cat([signal, torch.full_like(signal, 1e-6)], 1)


class TestKinds:
    def test_fewest_bits(self, data: tuple[Tensor, Tensor]) -> None:
        """The least whole number, counted down from the fine end, is what trying every one gives."""
        model = Graded()
        result = budget(model, data, "quantize:{x}", (2, 10), 2.0, draws=2)
        answer = result.summary().iloc[0]
        assert answer["easy"] > answer["hard"]

        def lost(bits: int) -> float:
            rows = evaluate(model, data, ["gaussian:0", f"quantize:{bits}"], draws=1).rows
            rows = rows[rows["metric"] == "accuracy"]
            return float(rows["value"].iloc[0] - rows["value"].iloc[1])

        assert answer["value"] == min(bits for bits in range(2, 11) if lost(bits) <= 2.0)
        assert "least x of quantize:{x}" in result.table()

    def test_largest_tile(self, data: tuple[Tensor, Tensor]) -> None:
        """A tile's scale is the largest weight on it, so that larger tiles have more noise."""
        template = "gaussian:0.2,reference=tile,rows={x},columns=1"
        answer = budget(Graded(), data, template, (1, SIZE), 3.0, draws=2).summary().iloc[0]
        assert answer["state"] == "found"
        assert answer["easy"] < answer["hard"]
        assert answer["value"] % 1 == answer["low"] % 1 == 0

    def test_time(self, data: tuple[Tensor, Tensor]) -> None:
        """Drift makes weights fall, some more than others; a decade later is harder."""
        result = budget(Graded(), data, "pcm", ("25s", "10y"), 3.0, draws=3, axis=Axis(time=True))
        assert result.rows["t"].nunique() == len(result.curve())
        assert result.curve()["x"].min() == 25
        assert "time of pcm" in result.table()
        assert "25 s" in result.table()
        result.plot().draw_without_rendering()

    def test_every_strength_meets_the_same_draws(self, data: tuple[Tensor, Tensor]) -> None:
        """An image that is lost at some sigma is lost at every larger one: each draw's own curve never falls."""
        rows = budget(linear(), data, "gaussian:{x}", (0, 3), 5.0, draws=3).rows
        rows = rows[rows["metric"] == "accuracy"].sort_values("strength")
        for _, draw in rows.groupby("draw"):
            assert (np.diff(draw["value"]) <= 1e-6).all()


class TestNoAnswer:
    def test_always(self, data: tuple[Tensor, Tensor]) -> None:
        result = budget(linear(), data, "gaussian:{x}", (0, 0.1), 1.0, draws=2)
        assert result.summary()["state"].iloc[0] == "always"
        assert result.summary()["value"].iloc[0] == math.inf
        assert "always within range: even 0.1 loses no more than 1 points" in result.table()
        assert "above 0.1" in result.table()

    def test_never(self, data: tuple[Tensor, Tensor]) -> None:
        result = budget(linear(), data, "gaussian:{x}", (2, 4), 1.0, draws=2)
        assert result.summary()["state"].iloc[0] == "never"
        assert result.summary()["value"].iloc[0] == -math.inf
        assert "never within range: even 2 loses more than 1 points" in result.table()
        result.plot().draw_without_rendering()

    def test_a_single_draw_has_no_interval(self, data: tuple[Tensor, Tensor]) -> None:
        result = budget(linear(), data, "gaussian:{x}", (0, 3), 5.0, draws=1, axis=COARSE)
        assert math.isnan(result.summary()["low"].iloc[0])
        assert math.isfinite(result.summary()["value"].iloc[0])
        assert "nan" not in result.table()
        result.plot().draw_without_rendering()

    @pytest.mark.parametrize(
        ("arguments", "options", "fragment"),
        [
            (("gaussian:0.1", (0, 1)), {}, r"one free number \{x\}"),
            (("gaussian:{x}", (1, 2)), {"axis": Axis(time=True)}, "vary the time of"),
            (("gaussian:{x}", (1, 0)), {}, "smaller to a larger"),
            (("gaussian:{x}", ("a", 1)), {}, "a number as an end"),
            (("gaussian:{x}", (-1, 1)), {}, "sigma >= 0"),
            (("gaussian:{x}", (0, 1)), {"axis": Axis(log=True)}, "above 0 for a logarithmic"),
            (("gaussian:{x}", (0, 1)), {"within": -1}, "within >= 0"),
            (("gaussian:{x}", (0, 1)), {"axis": Axis(points=1)}, "at least 2 points"),
            (("gaussian:{x}", (0, 1)), {"axis": Axis(tolerance=0)}, "a tolerance of"),
            (("gaussian:{x}", (0, math.inf)), {}, "sigma"),
            (("unknown:{x}", (0, 1)), {}, "a noise model"),
            (("quantize:{x}", (2.5, 6)), {}, "whole number"),
            (("pcm", ("soon", "1y")), {"axis": Axis(time=True)}, "a time such as"),
            (("gaussian:{x}", (0, 1)), {"chips": Chips(converters=["none", "io:adc=4"])}, "one of converters, got 2"),
        ],
    )
    def test_refusals(self, data: tuple[Tensor, Tensor], arguments: tuple, options: dict, fragment: str) -> None:
        with pytest.raises(UserError, match=fragment):
            budget(linear(), data, *arguments, **({"within": 1.0, "draws": 2} | options))


def test_nothing_is_computed_twice(
    data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.parquet"
    first = budget(linear(), data, "gaussian:{x}", (0, 3), 5.0, draws=2, out=out, axis=COARSE)
    monkeypatch.setattr(on_chips.ModelOnChips, "score", lambda *_, **__: pytest.fail("computed again"))
    again = budget(linear(), data, "gaussian:{x}", (0, 3), 5.0, draws=2, out=out, axis=COARSE)
    assert first.summary().equals(again.summary())


def test_the_picture_shows_where_the_limit_is_met(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    result = budget({"a": linear(), "b": linear()}, data, "gaussian:{x}", (0, 10), 5.0, draws=3, axis=COARSE)
    figure = result.plot(tmp_path / "budget.png")
    assert (tmp_path / "budget.png").stat().st_size > 0
    (axis,) = figure.axes
    low, high = axis.get_xlim()
    assert low == 0
    assert result.summary()["high"].max() < high < 10
    assert axis.get_ylim()[1] == 15
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "a (clean 100.0 %)" in labels


def first_crossing(
    curve: Callable[[float], float], axis: Range, limit: float, points: int = 5, spread: float = 0.0
) -> tuple[Crossing, list[Point]]:
    """Of a curve whose interval reaches that fraction of its height to either side."""

    def measure(x: float) -> Point:
        y = curve(x)
        return Point(x, y, y - spread * abs(y), y + spread * abs(y))

    tried = search(measure, axis, limit, points)
    return crossing(tried, axis, limit), tried


class TestSearch:
    @pytest.mark.parametrize("root", [0.013, 0.2, 0.77])
    def test_a_root_to_tolerance_in_few_evaluations(self, root: float) -> None:
        answer, tried = first_crossing(lambda x: (x / root) ** 2, Range(0, 1, tolerance=0.002), 1.0)
        assert answer.value == answer.low == answer.high
        assert answer.value == pytest.approx(root, rel=0.002)
        assert len(tried) <= 16
        assert answer.crossings == 1

    @pytest.mark.parametrize("root", [0.05, 0.2, 0.77])
    def test_the_ends_of_the_interval_share_what_was_measured(self, root: float) -> None:
        answer, tried = first_crossing(lambda x: (x / root) ** 2, Range(0, 1), 1.0, spread=0.2)
        ends = [answer.low, answer.value, answer.high]
        assert ends == pytest.approx([root / math.sqrt(1.2), root, root / math.sqrt(0.8)], rel=0.02)
        assert len(tried) <= 18

    def test_the_first_of_several_crossings_is_taken_and_told(self) -> None:
        answer, _ = first_crossing(lambda x: math.sin(9 * x) + x, Range(0, 1), 0.9, points=9)
        values = np.linspace(0, 1, 10001)
        first = values[np.argmax(np.sin(9 * values) + values > 0.9)]
        assert answer.value == pytest.approx(first, rel=0.02)
        assert answer.crossings > 1

    @pytest.mark.parametrize("log", [False, True])
    def test_whole_numbers_are_answered_exactly(self, log: bool) -> None:
        axis = Range(1, 40, log=log, whole=True)
        for root in range(1, 40):
            up, tried = first_crossing(lambda x, r=root: x - r, axis, 0.5)  # type: ignore[misc]
            assert up.value == root
            assert len(tried) <= 11
            down, _ = first_crossing(lambda x, r=root: r - x, axis, 0.5)  # type: ignore[misc]
            assert down.value == (root if root > 1 else -math.inf)

    def test_a_logarithmic_axis(self) -> None:
        answer, _ = first_crossing(math.log, Range(1, 1e9, log=True), math.log(12345.0))
        assert answer.value == pytest.approx(12345.0, rel=0.01)

    def test_a_range_too_narrow_for_the_digits_of_what_is_tried(self) -> None:
        answer, tried = first_crossing(lambda x: x, Range(1.0, 1.002, log=True, tolerance=0.001), 1.0013)
        assert answer.value == pytest.approx(1.0013, abs=0.001)
        assert len(tried) <= 5

    def test_ends_with_more_digits_than_what_is_tried(self) -> None:
        for axis in (Range(25.0, 315576012.0, log=True), Range(1.23456, 9.87654), Range(1.23444, 9.87644, log=True)):
            for limit in (-0.5, 0.5):
                answer, tried = first_crossing(lambda x, a=axis: (x >= a.high) - (x <= a.low), axis, limit)  # type: ignore[misc]
                end = axis.low if limit < 0 else axis.high
                assert answer.value == pytest.approx(end, rel=0.5 if axis.high > 10 else 0.05)
                assert all(axis.low <= point.x <= axis.high for point in tried)
                assert answer.state == "found"

    def test_not_a_number_is_as_hard_as_can_be(self) -> None:
        answer, _ = first_crossing(lambda x: x if x < 0.5 else math.nan, Range(0, 1), 0.3)
        assert answer.value == pytest.approx(0.3, rel=0.02)
        edge, _ = first_crossing(lambda x: 0.0 if x < 0.4 else math.nan, Range(0, 1), 0.3)
        assert edge.value == pytest.approx(0.4, rel=0.02)
        assert first_crossing(lambda x: math.nan, Range(0, 1), 0.3)[0].state == "never"

    @pytest.mark.parametrize("luck", [-10.0, 10.0])
    def test_ends_that_differ_by_luck_are_told_apart_by_harm(self, luck: float) -> None:
        """A robust network: no noise and the most lose the same to the interval, whichever mean is lower."""
        axis = Range(0.0, 0.02)
        points = search(lambda x: Point(x, luck * x, luck * x - 1, luck * x + 1, harm=x), axis, 2.0)
        answer = crossing(points, axis, 2.0)
        assert (answer.state, answer.value, answer.easy) == ("always", math.inf, 0.0)

    def test_ends_that_are_equal_are_told_apart_by_harm(self) -> None:
        axis = Range(2, 8, whole=True)
        answer = crossing(search(lambda x: Point(x, 0.0, 0.0, 0.0, harm=-x), axis, 1.0), axis, 1.0)
        assert (answer.state, answer.hard, answer.value) == ("always", 2, -math.inf)


@pytest.mark.parametrize(("models", "draws"), [(1, 10), (5, 4)])
def test_the_interval_covers_as_often_as_it_says(models: int, draws: int) -> None:
    """Nominal 0.95; 5 standard errors of 400 repetitions are 0.054 (false alarm 6e-7)."""
    covered, _ = budget_coverage.coverage(models, draws, "normal", 400, seed=0)
    assert abs(covered - 0.95) < 0.054
