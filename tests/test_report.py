"""Tables by their text, pictures by their axes."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from PIL import Image

from noiserobust.errors import UserError
from noiserobust.minima.labels import without_strength
from noiserobust.report.colours import HUES, colours_of
from noiserobust.report.plots import strength_figure, time_figure
from noiserobust.report.style import panels, remark, save, spread_remarks
from noiserobust.report.table import paired_table, robustness_table, seconds
from noiserobust.storage.rows import completed


def line(method: str, noise: str, strength: float, mean: float, **extra: object) -> dict[str, object]:
    spreads = {"noise_std": math.nan if strength == 0 else 0.4, "weight_std": 0.25}
    sizes = {"models": 3, "draws": 1 if strength == 0 else 10, "interval_over": "models", "confidence": 0.95}
    key = {"method": method, "noise": noise, "strength": strength, "t": math.nan, "metric": "accuracy", "mean": mean}
    return key | spreads | sizes | extra


def grid(noises: list[str], methods: list[str], **extra: object) -> pd.DataFrame:
    lines = [line(method, "none", 0.0, 93, **extra) for method in methods]
    for method, noise, strength in itertools.product(methods, noises, (0.1, 0.2)):
        lines.append(line(method, noise.replace("S", str(strength)), strength, 90 - 100 * strength, **extra))
    return pd.DataFrame(lines)


SUMMARY = pd.DataFrame(
    [
        line("sgd", "gaussian:0.1", 0.1, 71.234),
        line("sgd", "none", 0.0, 94.0),
        line("rwp:gaussian(0.1)", "none", 0.0, 93.5),
        line("rwp:gaussian(0.1)", "gaussian:0.1", 0.1, 88.0, weight_std=math.nan),
        line("sgd", "gaussian:0.05", 0.05, 85.0),
        line("sgd", "gaussian:0.1,reference=layer", 0.1, 60.0, noise_std=12.3),
        line("sgd", "gaussian:0.1", 0.1, 1.5, metric="loss"),
    ]
)

TABLE = """\
noise: gaussian
method             noise-free    sigma 0.05           sigma 0.1
-----------------  ------------  -------------------  -------------------
sgd                94.00 ± 0.25  85.00 ± 0.40 ± 0.25  71.23 ± 0.40 ± 0.25
rwp:gaussian(0.1)  93.50 ± 0.25  –                    88.00 ± 0.40 ± –

noise: gaussian:reference=layer
method             noise-free    sigma 0.1
-----------------  ------------  --------------------
sgd                94.00 ± 0.25  60.00 ± 12.30 ± 0.25
rwp:gaussian(0.1)  93.50 ± 0.25  –

accuracy in %: mean ± std over noise draws ± std over trained models; 3 models x 10 draws"""


def test_table_text() -> None:
    assert robustness_table(SUMMARY) == TABLE


def test_markdown_table() -> None:
    rows = SUMMARY[SUMMARY["strength"] == 0].replace("sgd", "sgd|wd")
    assert robustness_table(rows, markdown=True) == (
        "**without noise**\n\n| method | noise-free |\n| --- | --- |\n| sgd\\|wd | 94.00 ± 0.25 |\n"
        "| rwp:gaussian(0.1) | 93.50 ± 0.25 |\n\naccuracy in %: mean ± std over trained models; 3 models x 1 draw"
    )


def test_a_spread_that_nothing_has_is_left_out() -> None:
    text = robustness_table(SUMMARY.assign(weight_std=math.nan, models=[1, 1, 1, 2, 1, 1, 1]))
    assert "71.23 ± 0.40\n" in text
    assert text.endswith("accuracy in %: mean ± std over noise draws; 1 to 2 models x 10 draws")


def test_other_metrics_have_no_unit() -> None:
    text = robustness_table(SUMMARY, metric="loss")
    assert "1.500 ± 0.400 ± 0.250" in text
    assert "\nloss: mean" in text
    with pytest.raises(UserError, match="the metric 'entropy', got one with accuracy, loss"):
        robustness_table(SUMMARY, metric="entropy")


def test_times_are_columns_and_a_wide_table_continues_below() -> None:
    times = [25.0, 3600.0, 86400.0, 30 * 86400.0, 365 * 86400.0, 10 * 365 * 86400.0]
    text = robustness_table(pd.DataFrame([line("sgd", "pcm", math.nan, 80, t=t, noise_std=1) for t in times]))
    assert "noise: pcm" in text
    assert "method  t 25 s" in text
    assert "t 10 y" in text
    wide = robustness_table(pd.DataFrame([line("sgd", "pcm", math.nan, 80, t=float(t)) for t in range(1, 30)]))
    assert max(map(len, wide.splitlines())) <= 140
    assert wide.count("method") == wide.count("sgd") == 5


@pytest.mark.parametrize(
    ("noise", "strength", "expected"),
    [
        ("gaussian:0.05", 0.05, "gaussian"),
        ("gaussian:0.0,reference=layer", 0.0, "gaussian:reference=layer"),
        ("gaussian:sigma=1e-05,reference=layer", 1e-5, "gaussian:reference=layer"),
        ("gaussian(0.02,reference=layer)+quantize:6", 0.02, "gaussian:reference=layer+quantize:6"),
        ("gaussian:0.02+quantize:6", 0.02, "gaussian+quantize:6"),
        ("gaussian:0.5,reference=tile,rows=512", 512.0, "gaussian:0.5,reference=tile,rows=512"),
        ("lognormal:1.0", 1.0, "lognormal:1.0"),
        ("lognormal:1.0,strength=0.5", 0.5, "lognormal:1.0"),
        ("pcm:0.5,t=1d", 0.5, "pcm:t=1d"),
        ("pcm:0.5", 0.5, "pcm"),
        ("gaussian:0.02+laplace:0.01", 0.02, "gaussian+laplace:0.01"),
        ("measured:nowhere.csv,digest=0123456789ab,strength=0.5", 0.5, "measured:nowhere.csv,digest=0123456789ab"),
        ("ascent:0.05", 0.05, "ascent"),
        ("random:gaussian(0.1),over=all", 0.1, "random:gaussian,over=all"),
        ("somebody's:0.5", 0.5, "somebody's:0.5"),
        ("pcm", math.nan, "pcm"),
        ("none", 0.0, "none"),
    ],
)
def test_a_label_is_the_text_without_its_number(noise: str, strength: float, expected: str) -> None:
    assert without_strength(noise, strength) == expected


def test_seconds() -> None:
    texts = ["0.5 s", "25 s", "1.5 min", "2 h", "1 d", "9.99 y"]
    assert [seconds(t) for t in (0.5, 25, 90, 7200, 86400, 3.15e8)] == texts


def test_paired_table_text() -> None:
    both = {"method_a": "rwp", "method_b": "sgd"}
    rows = [
        line("", "gaussian:0.3", 0.3, 12.34, low=10.1, high=14.52, **both),
        line("", "gaussian:0.2", 0.2, -2.0, low=-3.0, high=-1.0, interval_over="draws", models=1, **both),
        line("", "none", 0.0, 0.5, low=math.nan, high=math.nan, models=1, **both),
    ]
    assert paired_table(pd.DataFrame(rows)) == (
        "rwp - sgd, accuracy, noise: gaussian\n"
        "noise-free: +0.5 points [no interval from a single draw], 1 model x 1 draw\n"
        "sigma 0.2: -2.0 points [95 %: -3.0, -1.0 over draws only], 1 model x 10 draws\n"
        "sigma 0.3: +12.3 points [95 %: +10.1, +14.5], 3 models x 10 draws"
    )


@pytest.mark.parametrize(
    "noises",
    [["gaussian:S"], ["gaussian:S", "laplace:S"], [f"gaussian:S,reference=tile,rows={n}" for n in (1, 2, 3, 4)]],
)
def test_a_panel_per_reading_and_a_line_per_method(noises: list[str]) -> None:
    methods = ["sgd", "sam:0.05", "rwp"]
    # The first method is absent from the last noise: colours follow the method, not its place in the panel.
    last = noises[-1].replace("S", "0.2")
    summary = grid(noises, methods)
    summary = summary[(summary["method"] != "sgd") | (summary["noise"] != last)]
    figure = strength_figure(summary)
    assert len(figure.axes) == len(noises)
    for axis in figure.axes:
        means = [drawn for drawn in axis.lines if drawn.get_marker() != "None"]
        assert all(
            same_color(drawn.get_color(), hue) for drawn, hue in zip(means, colours_of(methods).values(), strict=True)
        )
        assert len(means) == 3
        assert len(axis.collections) == 6  # two bands per method
        assert len(means[0].get_xdata()) == (2 if axis is figure.axes[-1] else 3)
        assert means[1].get_xdata().tolist() == [0, 0.1, 0.2]
        assert means[1].get_ydata().tolist() == [93, 80, 70]
    assert figure.axes[0].get_ylabel() == "test accuracy (%)"
    assert "σ, as a fraction of max|w|" in figure.axes[0].get_xlabel()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [*methods, "± std over noise draws", "± std over trained models"]


def test_a_rule_has_one_colour_in_every_picture() -> None:
    one = colours_of(["mine", "sam:0.5", "rwp:gaussian(0.1)", "plain"])
    other = colours_of(["SGD", "plain, clip 2 rms", "RWP, sigma 0.08", "Quadratic RWP", "ASAM", "SAM rho 0.2"])
    for first, second in {"plain": "SGD", "sam:0.5": "SAM rho 0.2", "rwp:gaussian(0.1)": "RWP, sigma 0.08"}.items():
        assert one[first] == other[second]
    assert len(set(other.values())) == 6
    assert one["mine"].upper() in HUES
    assert len(set(colours_of([f"rwp:gaussian({sigma})" for sigma in range(6)]).values())) == 6
    many = [f"network {number}" for number in range(20)]
    assert len(set(colours_of(many).values())) == len(set(colours_of(many, dark=True).values())) == 20


def test_four_methods_with_two_bands_have_a_panel_each() -> None:
    methods = ["sgd", "sam:0.05", "rwp", "esam"]
    figure = strength_figure(grid(["gaussian:S", "laplace:S"], methods))
    assert [axis.get_title().split("\n")[1] for axis in figure.axes] == 2 * methods
    for axis in figure.axes:
        assert len(axis.collections) == 2  # the bands of one method
        assert len([line for line in axis.lines if line.get_marker() != "None"]) == 1
        assert len([line for line in axis.lines if line.get_linestyle() == "-"]) == 5  # the others in the back
    assert len(strength_figure(grid(["gaussian:S"], methods, weight_std=math.nan)).axes) == 1  # one band: one panel


def test_remarks_keep_clear_of_each_other() -> None:
    figure, (axis,) = panels(1, "")
    axis.plot([0, 1], [0, 1], marker="o")
    for number in range(8):
        remark(axis, "ResNet-101", 0.5 + number / 100, 0.5)
    spread_remarks(figure)
    boxes = [word.get_window_extent() for word in axis.texts]
    assert all(box.count_overlaps(boxes) == 1 for box in boxes)  # itself
    assert all(axis.bbox.contains(*corner) for box in boxes for corner in (box.min, box.max))


def test_a_notebook_shows_a_picture() -> None:
    png = strength_figure(grid(["gaussian:S"], ["sgd"]))._repr_png_()
    assert Image.open(io.BytesIO(png)).size[0] > 400


def test_the_bands_are_the_two_spreads() -> None:
    figure = strength_figure(grid(["gaussian:S"], ["sgd"]))
    noise, weight = figure.axes[0].collections
    heights = {}
    for band in (noise, weight):
        points = band.get_paths()[0].vertices
        at = points[points[:, 0] == 0.2][:, 1]
        heights[band.get_alpha()] = at.max() - at.min()
    assert list(heights.values()) == [pytest.approx(0.8), pytest.approx(0.5)]
    assert noise.get_alpha() < weight.get_alpha()


def test_one_model_shows_no_weight_band() -> None:
    figure = strength_figure(grid(["gaussian:S"], ["sgd"], weight_std=math.nan))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sgd", "± std over noise draws"]
    assert len(figure.axes[0].collections) == 1


def test_each_time_has_its_panel() -> None:
    timeless = grid(["pcm+gaussian:S"], ["sgd"])
    noisy = timeless[timeless["strength"] > 0]
    summary = pd.concat([timeless[timeless["strength"] == 0], noisy.assign(t=1.0), noisy.assign(t=3600.0)])
    figure = strength_figure(summary)
    assert [axis.get_title() for axis in figure.axes] == ["pcm+gaussian, t = 1 s", "pcm+gaussian, t = 1 h"]
    assert len(figure.axes[1].lines[-1].get_xdata()) == 3


def test_against_time() -> None:
    lines = [
        line(method, "pcm", 1.0, mean, t=t, compensation=compensation)
        for method in ("sgd", "rwp")
        for compensation in ("none", "global")
        for t, mean in ((0.0, 90), (3600.0, 80), (86400.0, 70))
    ]
    figure = time_figure(pd.DataFrame(lines))
    panels = figure.axes
    assert [axis.get_title() for axis in panels] == ["pcm", "pcm, global compensation"]
    for axis in panels:
        assert axis.get_xscale() == "log"
        assert [text.get_text() for text in axis.get_xticklabels()] == ["0 s", "1 h", "1 d"]
        means = [drawn for drawn in axis.lines if drawn.get_marker() not in (None, "None")]
        assert len(means) == 2
        assert list(means[0].get_xdata()) == [360.0, 3600.0, 86400.0]
        assert list(means[0].get_ydata()) == [90, 80, 70]
    with pytest.raises(UserError, match="expected lines at two or more times to plot, got 1"):
        time_figure(pd.DataFrame(lines[:1]))


def test_what_is_done_around_the_chip_has_its_own_block() -> None:
    lines = [
        line("sgd", "pcm", 1.0, 90.0, t=3600.0),
        line("sgd", "pcm", 1.0, 91.0, t=3600.0, compensation="column", recalibration=500, backend="aihwkit"),
    ]
    text = robustness_table(completed(pd.DataFrame(lines[:1])))
    assert text.startswith("noise: pcm\nmethod  t 1 h\n")
    table = pd.concat([completed(pd.DataFrame([one])) for one in lines])
    assert "noise: pcm, column compensation, batch norm from 500 images, backend aihwkit\n" in robustness_table(table)


def test_png_is_written_and_long_labels_stay_inside(tmp_path: Path) -> None:
    methods = ["sgd $x$", "rwp:" + "gaussian(0.1,reference=layer)," * 5, "x" * 200, "_hidden"]
    summary = grid(["gaussian:S"], methods)
    figure = strength_figure(summary, title="word " * 60)
    figure.draw_without_rendering()
    assert "_hidden" in [text.get_text() for text in figure.legends[0].get_texts()]
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert figure.axes[0].get_window_extent().height > 120
    path = save(strength_figure(summary), tmp_path / "picture.png")
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 800
    assert path.stat().st_size < 150_000


def test_a_picture_is_what_its_suffix_says(tmp_path: Path) -> None:
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml"), ("", b"\x89PNG")):
        assert save(Figure(), tmp_path / f"picture{suffix}").read_bytes().startswith(start)
    with pytest.raises(UserError, match=r"expected a picture that ends in .png, .pdf or .svg, got picture.tiff"):
        save(Figure(), "picture.tiff")


def test_nothing_to_plot_is_said() -> None:
    with pytest.raises(UserError, match="swept strength"):
        strength_figure(pd.DataFrame([line("sgd", "none", 0.0, 90), line("sgd", "pcm", math.nan, 80)]))
    with pytest.raises(UserError, match="metric 'accuracy'"):
        strength_figure(SUMMARY[SUMMARY["metric"] == "loss"])
