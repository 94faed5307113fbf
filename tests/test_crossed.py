"""Draws that all trained copies share: components by hand, an interval that covers, and tables that are not crossed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_rows import only, table
from scipy import stats

from experiments import statistics_simulation as simulation
from noiserobust import evaluate
from noiserobust.cli import main
from noiserobust.errors import UserError
from noiserobust.evaluation.statistics.components import components, interval
from noiserobust.evaluation.statistics.summary import paired, summarize

HAND = {0: [1.0, 3.0, 5.0], 1: [3.0, 7.0, 5.0]}
# Means 3, 5 over draws; 2, 5, 5 over copies; A = 3 * 2 = 6, B = 2 * 3 = 6, R = (3 * 6 - 10) / 2: see the test.


def test_components_and_interval_by_hand() -> None:
    line = only(summarize(table(HAND), design="crossed"))
    a, b, r = 3 * 2, 2 * 3, 2.0  # residuals ±(0, 1, 1): their squares sum to 4, over (2 - 1)(3 - 1)
    assert line["mean"] == 4
    assert line["weight_std"] == pytest.approx(math.sqrt(2))
    assert line["weight_variance"] == pytest.approx((a - r) / 3)
    assert line["shared_variance"] == pytest.approx((b - r) / 2)
    assert line["noise_variance"] == pytest.approx(4)  # 4 over the draws of either copy; shared 2 plus residual 2
    t_models, t_draws = 12.706204736, 4.30265273
    half = math.sqrt((t_models**2 * a + t_draws**2 * (b - r)) / 6)  # the wider way to subtract R
    assert line["high"] - 4 == pytest.approx(half)
    assert (line["interval_over"], line["design"]) == ("models and draws", "crossed")


def test_without_noise_both_designs_say_the_same() -> None:
    rows = table({0: [90.0, 90.0], 1: [92.0, 92.0], 2: [91.0, 91.0]})
    nested, crossed = (only(summarize(rows, design=design)) for design in ("nested", "crossed"))
    assert (crossed["low"], crossed["high"]) == (pytest.approx(nested["low"]), pytest.approx(nested["high"]))
    assert crossed["shared_variance"] == pytest.approx(0)


def test_one_model_or_one_draw() -> None:
    one = only(summarize(table({0: [78, 80, 82]}), design="crossed"))
    assert (one["interval_over"], one["high"]) == ("draws", pytest.approx(80 + 4.30265273 * 2 / math.sqrt(3)))
    draw = only(summarize(table({0: [1.0], 1: [2.0]}), design="crossed"))
    assert (draw["interval_over"], draw["high"]) == ("models", pytest.approx(1.5 + 12.706204736 * 0.5))
    assert all(math.isnan(line[name]) for line in (one, draw) for name in ("weight_variance", "shared_variance"))
    assert math.isnan(only(summarize(table({0: [1.0]}), design="crossed"))["low"])
    bad = only(summarize(table({0: [1, math.nan], 1: [2, 3]}), design="crossed"))
    assert math.isnan(bad["mean"])


def test_draws_are_matched_by_their_name() -> None:
    rows = table(HAND)
    expected = summarize(rows, design="crossed")
    pd.testing.assert_frame_equal(summarize(rows.sample(frac=1, random_state=1), design="crossed"), expected)
    named = rows.assign(draw=rows["draw"].map({0: "x", 1: "y", 2: "z"}))
    pd.testing.assert_frame_equal(summarize(named, design="crossed"), expected)
    # Nested, a draw's name means nothing beyond its model; crossed, the same table lacks half of its cells.
    rows.loc[rows["replicate"] == 1, "draw"] += 10
    assert only(summarize(rows))["mean"] == 4
    with pytest.raises(UserError, match=r"got none named 10 for sgd-0.pt \(replicate 0\)"):
        summarize(rows, design="crossed")


def test_models_on_one_replicate_are_crossed_and_refused_as_nested() -> None:
    rows = table(HAND).assign(replicate=0)
    expected = summarize(table(HAND), design="crossed")
    pd.testing.assert_frame_equal(summarize(rows, design="crossed"), expected)
    with pytest.raises(UserError, match=r"they share noise draws; .* or analyse the design as crossed"):
        summarize(rows)
    mixed = pd.concat([rows, table({5: [1, 2, 3]})])
    with pytest.raises(UserError, match="got 3 models on 2 replicates; number the copies"):
        summarize(mixed, design="crossed")
    other = table(HAND, method="b")
    with pytest.raises(UserError, match="both as replicate 0 of sgd: they share noise draws; give each trained copy"):
        paired(pd.concat([rows, other]), "sgd", "b", design="crossed")
    with pytest.raises(UserError, match=r"expected a design .nested or crossed., got 'split'"):
        summarize(rows, design="split")  # type: ignore[arg-type]


def test_a_paired_difference_is_a_crossed_table_too() -> None:
    effect = {0: [10.0, 30.0, 50.0], 1: [90.0, 40.0, 70.0]}
    a = table({m: list(np.add(effect[m], HAND[m])) for m in HAND}, method="a")
    line = only(paired(pd.concat([a, table(effect, method="b")]), "a", "b", design="crossed"))
    expected = only(summarize(table(HAND), design="crossed"))
    for name in ("mean", "low", "high", "noise_std", "weight_variance", "shared_variance"):
        assert line[name] == pytest.approx(expected[name])


def test_arrays_and_rows_give_the_same() -> None:
    values = np.random.default_rng(3).normal(70, 3, (5, 4, 6))
    for design in ("nested", "crossed"):
        low, high = interval(values, design)
        estimates = components(values, design) | {"low": low, "high": high}
        for index, one in enumerate(values):
            line = only(summarize(table(dict(enumerate(one.tolist()))), design=design))
            for name, all_of_them in estimates.items():
                assert line[name] == pytest.approx(all_of_them[index], nan_ok=True)


@pytest.mark.parametrize(("models", "draws"), [(3, 5), (3, 50), (10, 5)])
@pytest.mark.parametrize(("weight", "shared"), [(0, 0), (0, 1), (1, 0), (0.1, 0.3), (1, 1)])
def test_the_interval_covers_and_components_are_unbiased(models: int, draws: int, weight: float, shared: float) -> None:
    values = simulation.tables("test", models, draws, weight, shared)
    covered = simulation.coverage(values, "crossed") / 100 * len(values)
    assert covered >= stats.binom.ppf(1e-4, len(values), 0.945)  # false alarms: 1e-4 at a true coverage of 94.5 %
    estimates = components(values, "crossed")
    for name, truth in {"noise_variance": 1 + shared, "weight_variance": weight, "shared_variance": shared}.items():
        standard_error = estimates[name].std() / math.sqrt(len(values))
        error = estimates[name].mean() - truth
        assert abs(error) < 4.5 * standard_error  # false alarms: 7e-6 if normal, 1e-4 if skewed


class Net(torch.nn.Linear):
    """A method of the table needs a module of its own name."""


def test_modules_evaluated_one_at_a_time_share_their_draws() -> None:
    """The recipe of docs/statistics.md; twins show it, since a draw hurts both alike."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(64, 8, generator=generator), torch.randint(0, 4, (64,), generator=generator)
    copies = [Net(8, 4), Net(8, 4)]
    with torch.no_grad():
        for copy in copies:
            copy.weight.copy_(torch.linspace(-1, 1, 32).reshape(4, 8))
            copy.bias.zero_()
    alone = [evaluate({"net": copy}, (x, y), "gaussian:0.3", draws=4).rows for copy in copies]
    rows = pd.concat([part.assign(replicate=number) for number, part in enumerate(alone)])
    losses = rows[rows["metric"] == "loss"]
    line = only(summarize(losses, design="crossed"))
    assert line["shared_variance"] == pytest.approx(line["noise_variance"])
    assert line["noise_variance"] > 0
    own = evaluate({"net": copies}, (x, y), "gaussian:0.3", draws=4).rows
    assert only(summarize(own[own["metric"] == "loss"]))["weight_std"] > 0


def test_the_page_shows_what_the_simulation_prints(request: pytest.FixtureRequest) -> None:
    page = (request.config.rootpath / "docs" / "statistics.md").read_text()
    lines = simulation.shared_draws()
    for _, line in zip(range(3), lines, strict=False):
        assert f"| {' | '.join(line)} |" in page


def test_a_page_of_modules_that_were_evaluated_one_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their chips are the same noise, so no yield can be told; all else is."""
    data = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    copies = [evaluate({"net": torch.nn.Linear(4, 3)}, data, "gaussian:0.1", draws=3).rows for _ in range(2)]
    rows = pd.concat([one.assign(model=f"copy {index}") for index, one in enumerate(copies)])
    rows.to_parquet(tmp_path / "rows.parquet")
    page = tmp_path / "page.html"
    main(["report", str(tmp_path / "rows.parquet"), "--page", str(page), "--design", "crossed"])
    text = page.read_text()
    assert "gaussian" in text
    assert 'id="yield"' not in text
    assert "Traceback" not in capsys.readouterr().err
