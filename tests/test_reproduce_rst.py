"""RST's grid: the published cells, its schedules against the formulas, and pictures of families of points."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from grids import cells, keys, printed, value

from noiserobust.papers import rst
from noiserobust.papers.grid import MINI, PAPER, SMALL, Scale, artefacts_of, grid_of
from noiserobust.papers.grid.derived import Best
from noiserobust.papers.grid.pictures import draw
from noiserobust.training.probability import Piecewise
from noiserobust.training.rules.rst import GRST, RST

AT = grid_of("rst", PAPER)


class TestCells:
    def test_at_the_papers_scale_all_published_cells_and_no_others(self) -> None:
        """Beyond them: table 2, which holds formulas, and the figures, of which two points each are stated."""
        whole = set(keys("rst", PAPER, list(artefacts_of("rst"))))
        assert printed("rst") <= whole
        assert {name for name, *_ in whole - printed("rst") if not name.startswith("figure")} == {"table2"}

    @pytest.mark.parametrize("scale", [MINI, SMALL], ids=lambda scale: scale.name)
    def test_a_smaller_scale_leaves_out_steps_whose_numbers_are_lost(self, scale: Scale) -> None:
        left_out = printed("rst") - set(keys("rst", scale, list(artefacts_of("rst"))))
        assert not left_out & printed("rst", lost=False)
        assert {name for name, *_ in left_out} == {"table6", "table7", "table8", "table10", "table11"}
        assert {row.rsplit(" ", 1)[0].split(", ")[1] for _, row, *_ in left_out} == {
            "RST constant", "RST piecewise1", "RST linear1",
        }  # fmt: skip


class TestSettings:
    def test_one_data_set_for_both_has_one_radius(self) -> None:
        for scale, radii in ((MINI, {0.05}), (SMALL, {0.025}), (PAPER, {0.05, 0.1})):
            methods = [
                rst.run(grid_of("rst", scale), "ResNet-18", data, rst.sam(grid_of("rst", scale))).method
                for data in rst.SETS
            ]
            assert {method.rho for method in methods} == radii  # type: ignore[attr-defined]

    def test_cutout(self) -> None:
        sides = {
            scale.name: [
                rst.run(grid_of("rst", scale), "WRN-28-10", data, rst.sgd, cutout=True).cutout
                for data in ("CIFAR-10", "CIFAR-100")
            ]
            for scale in (MINI, SMALL, PAPER)
        }
        assert sides == {"mini": [4, 4], "small": [16, 16], "paper": [16, 8]}

    def test_vits(self) -> None:
        runs = {
            name: {run for cell in cells("rst", name) if "ViT" in cell.row for run in cell.quantity.runs}
            for name in ("table3", "table11")
        }
        assert {run.epochs for run in runs["table3"]} == {1200}
        assert {run.epochs for run in runs["table11"]} == {300}
        assert {run.optimizer for run in runs["table3"] | runs["table11"]} == {"Adam"}

    def test_g_rst_doubles_the_penalty_at_half_the_steps(self) -> None:
        for name in ("table3", "table4", "table12"):
            methods = [run.method for cell in cells("rst", name) if "G-RST" in cell.row for run in cell.quantity.runs]
            assert methods
            for method in methods:
                assert isinstance(method, GRST)
                assert (method.p, method.a) == (0.5, 2.0)

    def test_figure5_holds_the_regularisation_along_its_rows(self) -> None:
        for cell in cells("rst", "figure5"):
            method = cell.quantity.runs[0].method
            assert isinstance(method, GRST)
            assert method.p == cell.x
            assert method.a * method.p == pytest.approx(float(cell.row), abs=1e-5)


class TestSchedules:
    @pytest.mark.parametrize("m", rst.STEPS)
    def test_the_first_linear_group_rises_through_its_middle(self, m: float) -> None:
        line = rst.rising(m)
        assert line.at(0.5) == pytest.approx(m)
        assert (line.at(0) == 0) is (m <= 0.5)
        assert (line.at(1) == pytest.approx(1)) is (m >= 0.5)
        assert line.a > 0

    @pytest.mark.parametrize("parameter", rst.STEPS)
    def test_what_the_groups_cost(self, parameter: float) -> None:
        """Table 2's formulas, and 1/2 for the two groups that vary with the parameter only in order."""
        for family, extra in {
            "constant": parameter, "piecewise1": 1 - parameter, "piecewise2": parameter, "piecewise3": 0.5,
            "linear1": parameter,
            "linear2": 0.5,
        }.items():  # fmt: skip
            run = rst.run(AT, "ResNet-18", "CIFAR-10", rst.rst(AT, rst.FAMILIES[family](parameter)))
            assert value(rst.extra(run)) == pytest.approx(extra, abs=1.1e-3)

    def test_table2_counts_what_its_formulas_say(self) -> None:
        counts = {(cell.row, cell.column): value(cell.quantity) for cell in cells("rst", "table2")}
        for (row, column), counted in counts.items():
            assert counted == pytest.approx(counts[row, "formula"], abs=1.1e-3), (row, column)

    def test_the_texts_64_percent_are_sin1s_alone(self) -> None:
        counts = {
            cell.row.split()[-1]: value(cell.quantity)
            for cell in cells("rst", "text")
            if cell.quantity.unit == "extra_propagations"
        }
        assert counts == pytest.approx(
            {"cos1": 0.5, "cos2": 0.5, "sin1": 2 / math.pi, "sin2": 1 - 2 / math.pi}, abs=2e-3
        )

    def test_coins_are_the_rules_own(self) -> None:
        """At p 0 none, at p 1 all; in between the share of heads is the mean of p: 200 coins of standard deviation at
        most 0.5 leave their mean within 4.5 / 2 / sqrt(200) = 0.16 but with a probability of 1e-5."""
        assert {coin for _, coin in rst.coins(Piecewise(0.0, 1.0))} == {0.0}
        assert {coin for _, coin in rst.coins(Piecewise(1.0, 1.0))} == {1.0}
        for p in rst.TRIGONOMETRIC.values():
            heads = [coin for _, coin in rst.coins(p, 200)]
            assert abs(np.mean(heads) - p.mean(200)) < 0.16


def test_the_best_of_the_first_piecewise_group_is_among_those_drawn() -> None:
    best = [cell.quantity for cell in cells("rst", "figure2", MINI) if cell.row.endswith("best")]
    assert len(best) == 4
    for quantity in best:
        assert isinstance(quantity, Best)
        assert quantity.labels == ("b 0.2", "b 0.4", "b 0.6", "b 0.8")
        assert all(isinstance(choice.run.method, RST) for choice in quantity.parts)


class TestPicture:
    """Families of points: a panel per column, what has no place on the x axis left out."""

    def rows(self) -> pd.DataFrame:
        lines = [
            *(("f 0.2", "p(t)", "function", x, 0, x) for x in (0.0, 0.5, 1.0)),
            *(("f 0.4", "p(t)", "function", x, 0, 1 - x) for x in (0.0, 0.5, 1.0)),
            *((f"N, RST f {p:g}", "CIFAR-10", "error", p, copy, 5 - p + copy) for p in (0.2, 0.4) for copy in (0, 1)),
            ("N, RST f SAM", "CIFAR-10", "error", 1.0, 0, 4.0),
            ("M, RST f 0.2", "time, against a", "extra_time", 0.2, 0, 0.25),
            ("N, RST f best", "CIFAR-100", "error", np.nan, 0, 4.0),
        ]
        return pd.DataFrame(lines, columns=["row", "column", "quantity", "x", "replicate", "value"])

    @pytest.mark.parametrize("kind", ["epochs", "trajectory"])
    def test_a_line_is_of_the_epochs_that_all_its_copies_logged(self, kind: str) -> None:
        lines = [(x, copy, x + copy) for copy in (0, 1) for x in ((1, 10, 20) if copy == 0 else (1, 20))]
        rows = pd.DataFrame(lines, columns=["x", "replicate", "value"])
        rows = rows.assign(row="SGD", column="", draw=0, epoch=rows["x"], quantity="loss")
        (axis,) = draw(rows, kind, "title", "x", "y").axes
        drawn = next(line for line in axis.lines if len(line.get_xdata()) > 1)
        assert list(drawn.get_xdata()) == [1, 20]
        assert drawn.get_ydata() == pytest.approx([1.5, 20.5])

    def test_panels_lines_and_bars(self) -> None:
        figure = draw(self.rows(), "families", "title", "extra", "y")
        titles = [axis.get_title() for axis in figure.axes]
        assert titles == ["p(t)", "CIFAR-10", "time, against a"]
        functions, errors, times = figure.axes
        assert [line.get_label() for line in functions.lines] == ["0.2", "0.4"]
        assert list(errors.lines[0].get_xdata()) == [0.2, 0.4, 1.0]
        assert errors.lines[0].get_ydata() == pytest.approx([5.3, 5.1, 4.0])
        assert [text.get_text() for text in errors.texts] == ["SAM"]
        assert (errors.get_xlabel(), errors.get_ylabel()) == ("extra", "test error (%)")
        assert (functions.get_xlabel(), functions.get_ylabel()) == ("share of training", "p")
        assert times.get_xlabel() == "a"
        assert len(times.lines) >= 2  # the points, and where time would be as counted
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["N", "M"]
