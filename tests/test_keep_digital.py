"""Layers to keep digital: chosen jointly, verified on fresh draws."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from noiserobust import Stream, UserError, evaluate
from noiserobust.evaluation import Search, Stop, Where, keep_digital
from noiserobust.evaluation.design.digital_layers import _gain

NOISE = "gaussian:2.0"


class Redundant(nn.Module):
    """``a`` and ``b`` carry the same signal side by side, and either alone is enough; ``c`` carries another one.

    A noisy path gives at least -0.9 and a clean one 1, so one clean path of the two decides rightly whatever the other
    one says. Of the images, 150 depend on a or b, 30 on c.
    """

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Linear(150, 1, bias=False),
            nn.Linear(150, 1, bias=False),
            nn.Linear(30, 1, bias=False),
        )
        for layer in (self.a, self.b, self.c):
            nn.init.constant_(layer.weight, 3.0)

    def forward(self, x: Tensor) -> Tensor:
        signal, other = x[:, :150], x[:, 150:]
        paths = (self.a(signal), self.b(signal), self.c(other))
        total = sum(nn.functional.hardtanh(path, -0.9, 1.0) for path in paths)
        return torch.cat([total, -total], 1)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """Every image has a weight of its own, so that errors are independent."""
    return torch.eye(180), torch.zeros(180, dtype=torch.long)


def test_a_redundant_layer_is_not_chosen_twice(data: tuple[Tensor, Tensor]) -> None:
    """By single effects a and b come first; jointly c gains more beside either.

    The gap between the single effects is about 3 points with a standard error of 0.6: 1e-6 to be the other way round.
    """
    model = Redundant()
    kept = keep_digital(model, data, NOISE, draws=20)
    steps = kept.summary()
    chosen = list(steps["layer"])
    assert chosen[0] == ""
    assert chosen[1] in ("a.weight", "b.weight")
    assert chosen[2] == "c.weight"

    def verified(*digital: str) -> float:
        rows = evaluate(model, data, NOISE, draws=20, where=Where(exclude=digital)).rows
        return rows[rows["metric"] == "accuracy"]["value"].mean()

    singles = {name: verified(name) - verified() for name in ("a.weight", "b.weight", "c.weight")}
    assert set(sorted(singles, key=lambda name: -singles[name])[:2]) == {"a.weight", "b.weight"}
    assert steps["accuracy"].iloc[2] == pytest.approx(verified(chosen[1], "c.weight"))
    assert steps["accuracy"].iloc[2] == 100
    assert verified("a.weight", "b.weight") < 97
    # Single effects count the redundant path twice.
    two = evaluate(model, data, NOISE, draws=20, where=kept.where(2)).summary()
    assert two["mean"].iloc[0] == 100
    last = steps.iloc[3]
    assert last["sum_of_singles"] == pytest.approx(sum(singles.values()))
    assert last["sum_of_singles"] > last["gain"] + 5


def test_verification_has_draws_of_its_own(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    few = Search(draws=3, images=60)
    kept = keep_digital(Redundant(), data, NOISE, draws=4, seed=7, search=few, out=tmp_path / "rows.parquet")
    rows = kept.rows[(kept.rows["metric"] == "accuracy") & (kept.rows["strength"] > 0)]
    search, fresh = rows[rows["seed"] == -8], rows[rows["seed"] == 7]
    assert len(search) + len(fresh) == len(rows)
    assert set(search["images"]) == {60}
    assert set(fresh["images"]) == {180}
    assert search["draw"].max() == 2
    assert fresh["draw"].max() == 3
    step = kept.summary().iloc[1]
    values = fresh[fresh["analog"] == f"-{step['layer']}"]["value"]
    assert step["accuracy"] == pytest.approx(values.mean())
    seen = search[search["analog"] == f"-{step['layer']}"]["value"]
    assert step["search_accuracy"] == pytest.approx(seen.mean())


def test_stops(data: tuple[Tensor, Tensor]) -> None:
    def steps(draws: int = 3, per_mac: bool = False, **limits: float) -> pd.DataFrame:
        search, stop = Search(per_mac=per_mac), Stop(**limits)
        return keep_digital(Redundant(), data, NOISE, draws, stop=stop, search=search).summary()

    assert len(steps(max_layers=1)) == 2
    assert steps(within=0)["search_accuracy"].iloc[-1] == 100
    assert len(steps(within=100)) == 1
    # a and b cost 150 of 330 each, c 30: only c is below 20 %.
    assert list(steps(max_share=20)["layer"]) == ["", "c.weight"]
    assert list(steps(20, per_mac=True)["layer"])[1] == "c.weight"


def test_candidates_limit_the_search(data: tuple[Tensor, Tensor]) -> None:
    whole = keep_digital(Redundant(), data, NOISE, draws=20)
    some = keep_digital(Redundant(), data, NOISE, draws=20, search=Search(candidates=1))
    assert list(some.summary()["layer"]) == list(whole.summary()["layer"][:2])
    assert len(some.rows) < len(whole.rows)


def test_what_is_digital_anyway_counts(data: tuple[Tensor, Tensor]) -> None:
    where = Where(exclude=["c.weight"])
    kept = keep_digital(Redundant(), data, NOISE, draws=3, where=where, stop=Stop(max_layers=1))
    assert kept.summary()["macs_share"].tolist() == pytest.approx([100 * 30 / 330, 100 * 180 / 330])
    assert kept.where(0) == where
    assert kept.where() == Where((), ["c.weight", *kept.chosen["Redundant"]])


def test_groups(data: tuple[Tensor, Tensor]) -> None:
    steps = keep_digital(Redundant(), data, NOISE, draws=5, groups=["[ab].weight"]).summary()
    assert steps["layers"].iloc[-1] == ["[ab].weight", "c.weight"]
    assert steps["accuracy"].iloc[-1] == 100


class Hidden(nn.Module):
    """Its weight multiplies element by element, so that no matrix product can be attributed to it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * self.a.weight).sum(-1)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"within": -1}, "within >= 0"),
        ({"max_share": 0}, "max_share in percent"),
        ({"max_share": 120}, "max_share in percent"),
        ({"max_layers": 0}, "max_layers >= 1"),
    ],
)
def test_limits_that_cannot_be(options: dict, fragment: str) -> None:
    with pytest.raises(UserError, match=fragment):
        Stop(**options)


def test_refusals(data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match="candidates >= 1"):
        Search(candidates=0)
    with pytest.raises(UserError, match="draws >= 1"):
        keep_digital(Redundant(), data, NOISE, draws=2, search=Search(draws=0))
    kept = keep_digital({"a": Redundant(), "b": Redundant()}, data, NOISE, draws=2, stop=Stop(max_layers=1))
    assert kept.where(1, "a") == kept.where(method="a")
    for arguments, fragment in (((), "methods 'a', 'b', got None"), ((2, "a"), "a step from 0 to 1, got 2")):
        with pytest.raises(UserError, match=fragment):
            kept.where(*arguments)


def test_costs_that_cannot_be_told() -> None:
    data = Stream(0, "x").normal((20, 4)), torch.arange(20) % 2
    with pytest.raises(UserError, match=r"those of weight cannot be told"):
        keep_digital(Hidden(), data, NOISE, draws=2, search=Search(per_mac=True))
    kept = keep_digital(Hidden(), data, NOISE, draws=2)
    assert kept.summary()["accuracy"].iloc[1] == kept.summary()["clean"].iloc[1]
    assert "nan" not in kept.table()
    kept.plot().draw_without_rendering()


def test_the_verdict_in_words(data: tuple[Tensor, Tensor]) -> None:
    kept = keep_digital(Redundant(), data, NOISE, draws=5, stop=Stop(within=1.0))
    assert ": 0.00 points below clean on fresh draws, 1 allowed (interval 0.00 to 0.00: kept)" in kept.table()
    none = keep_digital(Redundant(), data, NOISE, draws=5, stop=Stop(within=1.0, max_share=1))
    assert ": missed)" in none.table()


def test_the_picture(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    kept = keep_digital({"one": Redundant(), "two": Redundant()}, data, NOISE, draws=3)
    figure = kept.plot(tmp_path / "digital.png")
    assert (tmp_path / "digital.png").stat().st_size > 0
    curve, names, *_ = figure.axes
    assert curve.get_xlabel() == "% of multiply-accumulates kept digital"
    assert "+ c.weight" in names.texts[0].get_text()
    assert len(figure.axes) == 4


def test_draws_that_are_undefined_are_the_worst() -> None:
    """A set of layers that is undefined under some draws gains nothing by what it is under the others."""
    base, whole, torn = (
        pd.DataFrame({"metric": "mse", "task": "regression", "value": values})
        for values in ([1.0, 1.0], [0.9, 0.9], [0.1, float("nan")])
    )
    assert _gain(base, whole) > 0 > _gain(base, torn)
    assert _gain(torn, base) == float("inf")
    assert _gain(torn, torn) == 0
