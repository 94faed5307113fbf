"""Areas of curves that are known, and sweeps that cannot be compared."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from evaluation_rows import only, table

from noiserobust.errors import UserError
from noiserobust.evaluation import area, paired, summarize
from noiserobust.report import paired_table, robustness_table
from noiserobust.report.area_plot import area_figure
from noiserobust.report.style import save


def sweep(strengths: list[float], drop: float = 100.0, method: str = "sgd", noise: str = "gaussian:S") -> pd.DataFrame:
    """Accuracy 90 - (drop + 10 draw + replicate) s of 2 copies under 3 draws: linear in the strength s."""
    parts = []
    for s in strengths:
        values = {m: [90 - (drop + 10 * k + m) * s for k in range(3)] for m in range(2)}
        text = noise.replace("S", str(s))
        parts.append(table(values, method=method, noise=text).assign(strength=s))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("strengths", [[0.0, 0.3], [0.0, 0.1, 0.15, 0.3], [0.3, 0.0, 0.2]])
def test_a_line_has_the_area_of_its_middle(strengths: list[float]) -> None:
    rows = area(sweep(strengths))
    assert len(rows) == 6
    assert set(rows["metric"]) == {"area"}
    assert set(rows["noise"]) == {"gaussian, strength 0 to 0.3"}
    assert rows["strength"].isna().all()
    for row in rows.to_dict("records"):
        assert row["value"] == pytest.approx(90 - (100 + 10 * row["draw"] + row["replicate"]) * 0.15)


def test_an_uneven_grid_is_weighted_by_its_steps() -> None:
    rows = pd.concat([table({0: [v]}, noise=f"gaussian:{s}").assign(strength=s) for s, v in [(0.1, 80), (0.2, 60)]])
    rows = pd.concat([rows, table({0: [10]}, noise="gaussian:0.5").assign(strength=0.5)])
    assert only(area(rows))["value"] == pytest.approx((0.1 * 70 + 0.3 * 35) / 0.4)


def test_an_area_is_a_metric_like_any_other() -> None:
    rows = area(pd.concat([sweep([0, 0.2]), sweep([0, 0.2], drop=50, method="rwp")]))
    line = summarize(rows).iloc[0]
    assert (line["mean"], line["models"], line["draws"]) == (pytest.approx(90 - 110.5 * 0.1), 2, 3)
    assert line["noise_std"] == pytest.approx(1)
    difference = paired(rows, "rwp", "sgd", metric="area")
    assert only(difference)["mean"] == pytest.approx(5)
    assert "area in %: mean ± std over noise draws" in robustness_table(summarize(rows), "area")
    assert "area: +5.0 points [95 %:" in paired_table(difference)


def test_noise_free_rows_are_strength_zero_of_every_noise() -> None:
    swept, layer = sweep([0.1, 0.2]), sweep([0.1, 0.2], noise="gaussian:S,reference=layer")
    clean = table({0: [90], 1: [90]}, noise="none").assign(strength=0.0)  # one draw stands for all
    rows = area(pd.concat([swept, layer, clean]))
    assert list(rows["noise"].unique()) == [
        "gaussian, strength 0 to 0.2",
        "gaussian:reference=layer, strength 0 to 0.2",
    ]
    expected = area(sweep([0, 0.1, 0.2])).sort_values(["replicate", "draw"])["value"]
    for _, block in rows.groupby("noise"):
        assert np.allclose(block.sort_values(["replicate", "draw"])["value"], expected)
    own = pd.concat([sweep([0, 0.1, 0.2]), clean.assign(value=0.0)])  # its own strength 0 counts, and once
    assert np.allclose(area(own).sort_values(["replicate", "draw"])["value"], expected)


def test_every_time_has_its_area_and_other_noises_are_left_out() -> None:
    hours = pd.concat([sweep([0.1, 0.2]).assign(t=t) for t in (60.0, 3600.0)])
    rows = area(pd.concat([hours, table({0: [1, 2, 3], 1: [1, 2, 3]}, noise="pcm").assign(strength=1.0)]))
    assert sorted(rows["t"].unique()) == [60, 3600]
    assert set(rows["noise"]) == {"gaussian, strength 0.1 to 0.2"}


def test_a_value_that_is_not_finite_shows() -> None:
    rows = sweep([0, 0.1])
    rows.loc[0, "value"] = math.nan
    assert area(rows)["value"].isna().sum() == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            pd.concat([sweep([0, 0.1, 0.2]), sweep([0, 0.2], method="rwp")]),
            r"same strengths of gaussian for every model and draw, got 0, 0.1, 0.2 for sgd \(sgd-0.pt, draw 0\) but "
            r"0, 0.2 for rwp",
        ),
        (sweep([0, 0.1, 0.2]).iloc[:-1], r"got 0, 0.1, 0.2 for sgd .* but 0, 0.1 for sgd \(sgd-1.pt, draw 2\)"),
        (sweep([0.1]), "two or more strengths, got gaussian:0.1"),
        (sweep([0]).assign(noise="none"), "two or more strengths, got none"),
        (pd.concat([sweep([0, 0.1])] * 2), "got several for"),
        (sweep([0, 0.1]).assign(metric="loss"), r"metric of the table \('loss'\), got 'accuracy'"),
        (sweep([0, 0.1]).drop(columns="t"), "a table without t"),
    ],
)
def test_what_has_no_comparable_area_is_refused(rows: pd.DataFrame, message: str) -> None:
    with pytest.raises(UserError, match=message):
        area(rows)


def test_the_picture_shows_means_and_intervals(tmp_path) -> None:  # type: ignore[no-untyped-def]
    summary = summarize(area(pd.concat([sweep([0, 0.2]), sweep([0, 0.2], drop=50, method="rwp")])))
    figure = area_figure(summary)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["sgd", "rwp"]
    spans = [line.get_xdata() for line in axis.lines if len(line.get_xdata()) == 2]
    assert np.allclose(spans, summary[["low", "high"]])
    assert save(figure, tmp_path / "area.png").stat().st_size > 0
