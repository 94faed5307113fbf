"""Noise budgets: a closed form, the meaning of the interval, and one clear line where there is no answer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from experiments import budget_coverage
from noiserobust import UserError
from noiserobust.evaluation import budget, monte_carlo
from noiserobust.evaluation.design.crossing import Axis, Point, first_crossing
from noiserobust.report import budget_table
from noiserobust.report.design_plots import budget_figure

SIZE = 400


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
    @pytest.mark.parametrize("within", [1.0, 5.0, 20.0])
    def test_gaussian(self, data: tuple[Tensor, Tensor], within: float) -> None:
        """The interval at 99.99 % misses in 1e-4; the value lies within 5 standard errors (6e-7) of the mean loss."""
        found = budget(linear(), data, "gaussian:{x}", (0, 3), within, draws=20, confidence=0.9999)
        answer = found.answers.iloc[0]
        assert answer["state"] == "found"
        assert answer["low"] < sigma_that_loses(within) < answer["high"]
        loss = 100 * stats.norm.sf(math.sqrt(2) / answer["value"])
        assert abs(loss - within) < 0.02 * within + 5 * math.sqrt(within * (100 - within) / (20 * SIZE))
        assert answer["clean"] == 100
        assert answer["evaluated"] == len(found.curve)

    def test_any_text_with_one_number(self, data: tuple[Tensor, Tensor]) -> None:
        """An error is a difference of two Laplace ones: its upper tail is e^-z (2 + z) / 4 at z = 2 / b."""
        answer = budget(linear(), data, "gaussian:0.0+laplace:{x}", (0.01, 2), 5.0, draws=20, confidence=0.9999).answers
        low, high = (100 * math.exp(-2 / b) * (2 + 2 / b) / 4 for b in (answer["low"].iloc[0], answer["high"].iloc[0]))
        assert low < 5 < high

    def test_several_models_are_the_unit(self, data: tuple[Tensor, Tensor]) -> None:
        models = {"one": linear(), "three": [linear(), linear(), linear()]}
        answers = budget(models, data, "gaussian:{x}", (0, 2), 5.0, draws=5).answers.set_index("method")
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
        """The least whole number, counted down from the fine end, is what trying every one finds."""
        model = Graded()
        found = budget(model, data, "quantize:{x}", (2, 10), 2.0, draws=2)
        answer = found.answers.iloc[0]
        assert answer["easy"] > answer["hard"]

        def lost(bits: int) -> float:
            rows = monte_carlo.evaluate(model, data, ["gaussian:0", f"quantize:{bits}"], draws=1).rows
            rows = rows[rows["metric"] == "accuracy"]
            return float(rows["value"].iloc[0] - rows["value"].iloc[1])

        assert answer["value"] == min(bits for bits in range(2, 11) if lost(bits) <= 2.0)
        assert "least x of quantize:{x}" in budget_table(found.answers)

    def test_largest_tile(self, data: tuple[Tensor, Tensor]) -> None:
        """A tile's scale is the largest weight on it, so that larger tiles have more noise."""
        template = "gaussian:0.2,reference=tile,rows={x},columns=1"
        answer = budget(Graded(), data, template, (1, SIZE), 3.0, draws=5).answers.iloc[0]
        assert answer["state"] == "found"
        assert answer["easy"] < answer["hard"]
        assert answer["value"] % 1 == answer["low"] % 1 == 0

    def test_time(self, data: tuple[Tensor, Tensor]) -> None:
        """Drift makes weights fall, some more than others; a decade later is harder."""
        found = budget(Graded(), data, "pcm", ("25s", "10y"), 3.0, draws=3, vary_time=True)
        assert found.rows["t"].nunique() == len(found.curve)
        assert found.curve["x"].min() == 25
        table = budget_table(found.answers)
        assert "time of pcm" in table
        assert "25 s" in table
        budget_figure(found.answers, found.curve).draw_without_rendering()

    def test_every_strength_meets_the_same_draws(self, data: tuple[Tensor, Tensor]) -> None:
        """An image that is lost at some sigma is lost at every larger one: each draw's own curve never falls."""
        rows = budget(linear(), data, "gaussian:{x}", (0, 3), 5.0, draws=3).rows
        rows = rows[rows["metric"] == "accuracy"].sort_values("strength")
        for _, own in rows.groupby("draw"):
            assert (np.diff(own["value"]) <= 1e-6).all()


class TestNoAnswer:
    def test_always(self, data: tuple[Tensor, Tensor]) -> None:
        answers = budget(linear(), data, "gaussian:{x}", (0, 0.1), 1.0, draws=2).answers
        assert answers["state"].iloc[0] == "always"
        assert answers["value"].iloc[0] == math.inf
        assert "always within range: even 0.1 loses no more than 1 points" in budget_table(answers)
        assert "above 0.1" in budget_table(answers)

    def test_never(self, data: tuple[Tensor, Tensor]) -> None:
        found = budget(linear(), data, "gaussian:{x}", (2, 4), 1.0, draws=2)
        assert found.answers["state"].iloc[0] == "never"
        assert found.answers["value"].iloc[0] == -math.inf
        assert "never within range: even 2 loses more than 1 points" in budget_table(found.answers)
        budget_figure(found.answers, found.curve).draw_without_rendering()

    def test_a_single_draw_has_no_interval(self, data: tuple[Tensor, Tensor]) -> None:
        found = budget(linear(), data, "gaussian:{x}", (0, 3), 5.0, draws=1)
        assert math.isnan(found.answers["low"].iloc[0])
        assert math.isfinite(found.answers["value"].iloc[0])
        assert "nan" not in budget_table(found.answers)
        budget_figure(found.answers, found.curve).draw_without_rendering()

    @pytest.mark.parametrize(
        ("arguments", "options", "fragment"),
        [
            (("gaussian:0.1", (0, 1)), {}, r"one free number \{x\}"),
            (("gaussian:{x}", (1, 2)), {"vary_time": True}, "vary the time of"),
            (("gaussian:{x}", (1, 0)), {}, "smaller to a larger"),
            (("gaussian:{x}", ("a", 1)), {}, "a number as an end"),
            (("gaussian:{x}", (-1, 1)), {}, "sigma >= 0"),
            (("gaussian:{x}", (0, 1)), {"log": True}, "above 0 for a logarithmic"),
            (("gaussian:{x}", (0, 1)), {"within": -1}, "within >= 0"),
            (("gaussian:{x}", (0, 1)), {"points": 1}, "at least 2 points"),
            (("gaussian:{x}", (0, 1)), {"tolerance": 0}, "a tolerance of"),
            (("gaussian:{x}", (0, math.inf)), {}, "sigma"),
            (("unknown:{x}", (0, 1)), {}, "a noise model"),
            (("quantize:{x}", (2.5, 6)), {}, "whole number"),
            (("pcm", ("soon", "1y")), {"vary_time": True}, "a time such as"),
            (("gaussian:{x}", (0, 1)), {"converters": ["none"]}, "one converters"),
        ],
    )
    def test_refusals(self, data: tuple[Tensor, Tensor], arguments: tuple, options: dict, fragment: str) -> None:
        with pytest.raises(UserError, match=fragment):
            budget(linear(), data, *arguments, **({"within": 1.0, "draws": 2} | options))


def test_nothing_is_computed_twice(
    data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.parquet"
    first = budget(linear(), data, "gaussian:{x}", (0, 3), 5.0, draws=3, out=out)
    monkeypatch.setattr(monte_carlo.ModelOnChips, "score", lambda *_, **__: pytest.fail("computed again"))
    again = budget(linear(), data, "gaussian:{x}", (0, 3), 5.0, draws=3, out=out)
    assert first.answers.equals(again.answers)


def test_the_picture_shows_where_the_limit_is_met(data: tuple[Tensor, Tensor]) -> None:
    found = budget({"a": linear(), "b": linear()}, data, "gaussian:{x}", (0, 10), 5.0, draws=5)
    figure = budget_figure(found.answers, found.curve)
    figure.draw_without_rendering()
    (axis,) = figure.axes
    low, high = axis.get_xlim()
    assert low == 0
    assert found.answers["high"].max() < high < 10
    assert axis.get_ylim()[1] == 15
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "a (clean 100.0 %)" in labels


def exactly(curve: dict[float, float] | None, function: object = None) -> object:
    """A curve without uncertainty."""

    def measure(x: float) -> Point:
        y = curve[x] if curve else function(x)  # type: ignore[operator]
        return Point(x, y, y, y)

    return measure


class TestSearch:
    def test_a_root_to_tolerance_in_few_evaluations(self) -> None:
        for root in (0.013, 0.2, 0.77):
            found = first_crossing(exactly(None, lambda x, r=root: (x / r) ** 2), Axis(0, 1, tolerance=0.002), 1.0)
            assert found.value == found.low == found.high
            assert found.value == pytest.approx(root, rel=0.002)
            assert len(found.points) <= 22
            assert found.crossings == 1

    def test_the_first_of_several_crossings_is_taken_and_told(self) -> None:
        found = first_crossing(exactly(None, lambda x: math.sin(9 * x) + x), Axis(0, 1), 0.9, points=9)
        values = np.linspace(0, 1, 10001)
        first = values[np.argmax(np.sin(9 * values) + values > 0.9)]
        assert found.value == pytest.approx(first, rel=0.02)
        assert found.crossings > 1

    def test_whole_numbers_are_found_exactly(self) -> None:
        for root in range(1, 40):
            found = first_crossing(exactly(None, lambda x, r=root: x - r), Axis(1, 40, whole=True), 0.5)
            assert found.value == (root if root < 40 else math.inf)
            down = first_crossing(exactly(None, lambda x, r=root: r - x), Axis(1, 40, whole=True), 0.5)
            assert down.value == (root if root > 1 else -math.inf)

    def test_a_logarithmic_axis(self) -> None:
        found = first_crossing(exactly(None, math.log), Axis(1, 1e9, log=True), math.log(12345.0))
        assert found.value == pytest.approx(12345.0, rel=0.01)

    def test_not_a_number_is_as_hard_as_can_be(self) -> None:
        found = first_crossing(exactly(None, lambda x: x if x < 0.5 else math.nan), Axis(0, 1), 0.3)
        assert found.value == pytest.approx(0.3, rel=0.02)
        assert first_crossing(exactly(None, lambda x: math.nan), Axis(0, 1), 0.3).state == "never"

    def test_ends_that_are_equal_are_told_apart_by_harm(self) -> None:
        def flat(x: float) -> Point:
            return Point(x, 0.0, 0.0, 0.0, harm=-x)

        found = first_crossing(flat, Axis(2, 8, whole=True), 1.0)
        assert (found.state, found.hard, found.value) == ("always", 2, -math.inf)


@pytest.mark.parametrize(("models", "draws"), [(1, 10), (5, 4)])
def test_the_interval_covers_as_often_as_it_says(models: int, draws: int) -> None:
    """Nominal 0.95; 5 standard errors of 400 repetitions are 0.054 (false alarm 6e-7)."""
    covered, _ = budget_coverage.coverage(models, draws, "normal", 400, seed=0)
    assert abs(covered - 0.95) < 0.054
