"""The page of results, seen in a real browser: every chart drawn, no errors, and the rows' own numbers."""

from __future__ import annotations

import html
import json
import math
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from commands import TINY, refused
from PIL import Image

from noiserobust import UserError
from noiserobust.cli.app import main
from noiserobust.data import load
from noiserobust.evaluation import evaluate, paired, sensitivity, summarize
from noiserobust.evaluation.settings import Chips, Compute
from noiserobust.models import ModelSpec
from noiserobust.page import live, write_page
from noiserobust.page.charts import lines
from noiserobust.page.commands import evaluation_commands, training_commands
from noiserobust.page.results import Results, runs_in
from noiserobust.page.sections import sections_of
from noiserobust.storage.rows import read_rows
from noiserobust.training import TrainSettings, fit

pytest.importorskip("altair")
pytest.importorskip("vl_convert")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """Rows over strengths and times, of layers, and the runs behind them."""
    folder = tmp_path_factory.mktemp("results")
    runs = [
        fit(TrainSettings(epochs=2, batch_size=128, method=method, seed=seed, select_draws=1), folder / "runs")
        for method in ("plain", "sam:0.1")
        for seed in (0, 1)
    ]
    models = [run.checkpoint for run in runs]
    files = [folder / f"{name}.parquet" for name in ("strengths", "times", "layers")]
    noises = [f"gaussian:{sigma}" for sigma in (0, 0.1, 0.2)]
    evaluate(models, None, noises, 3, out=files[0])
    evaluate(models, None, "pcm", 2, chips=Chips(times=["25s", "1d"], compensation=["none", "global"]), out=files[1])
    sensitivity(models[0], None, "gaussian:0.1", 2, images=100, out=files[2])
    return folder, files


@pytest.fixture(scope="module")
def page(made: tuple[Path, list[Path]]) -> Path:
    folder, files = made
    return write_page(files[:2], folder / "page.html")


def browse(page: Path, *options: str, width: int = 1400) -> tuple[str, list[str]]:
    """The page's document after its scripts have run, and what they said to the console."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={width},5000", "--virtual-time-budget=20000", "--enable-logging=stderr", *options]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, re.findall(r"CONSOLE.*", done.stderr)


def table_of(document: str, name: str) -> pd.DataFrame:
    body = re.search(rf'<table id="{name}-table">(.*?)</table>', document, re.DOTALL)
    assert body is not None
    heads = re.findall(r"<button[^>]*>(.*?)</button>", body[1])
    rows = [
        re.findall(r"<td[^>]*>(.*?)</td>", row)
        for row in re.findall(r"<tr>(.*?)</tr>", body[1].split("<tbody>")[1], re.DOTALL)
    ]
    return pd.DataFrame([[html.unescape(cell) for cell in row] for row in rows], columns=heads)


@in_browser
@pytest.mark.parametrize(("width", "mode"), [(400, "dark"), (1400, "light")])
def test_every_chart_is_drawn_without_a_word_on_the_console(page: Path, width: int, mode: str, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    scheme = [f"--blink-settings=preferredColorScheme={0 if mode == 'dark' else 1}"]
    document, said = browse(page, "--dump-dom", *scheme, width=width)
    assert said == []
    charts = re.findall(r'<div class="chart[^"]*" id="chart\d+"[^>]*>', document)
    assert len(charts) >= 6
    assert all('data-drawn="yes"' in chart for chart in charts)
    drawn = document.count('class="mark-line role-mark') + document.count('class="mark-rect role-mark')
    assert drawn >= len(charts)
    browse(page, f"--screenshot={picture}", *scheme, width=width)
    with Image.open(picture) as opened:
        pixels = opened.convert("RGB")
    assert (max(pixels.getpixel((2, 2))) < 60) == (mode == "dark")
    # Nothing is wider than the window: its last columns are ground alone.
    edge = pixels.crop((pixels.width - 2, 300, pixels.width, 4000))
    assert len(edge.getcolors() or []) <= 3


@in_browser
def test_numbers_on_the_page_are_the_rows(made: tuple[Path, list[Path]], page: Path) -> None:
    document, _ = browse(page, "--dump-dom")
    rows = pd.concat([pd.read_parquet(file) for file in made[1][:2]], ignore_index=True)
    shown, summary = table_of(document, "summary"), summarize(rows)
    assert len(shown) == len(summary)
    for line, row in zip(summary.to_dict("records"), shown.to_dict("records"), strict=True):
        assert (row["method"], row["metric"]) == (line["method"], line["metric"])
        for column, name in {"mean": "mean", "std over copies": "weight_std", "low": "low", "high": "high"}.items():
            assert float(row[column]) == pytest.approx(line[name], rel=1e-3)
        assert int(row["copies"]) == line["models"]
    differences, twin = table_of(document, "difference"), paired(rows, "sam:0.1", "plain")
    assert differences["difference (points)"].astype(float).tolist() == pytest.approx(twin["mean"].tolist(), abs=0.006)


@in_browser
def test_tables_sort_by_number_and_lines_can_be_sought(page: Path, tmp_path: Path) -> None:
    acting = tmp_path / "acting.html"
    act = """<script type="module">
    const heads = [...document.querySelectorAll("#summary-table thead th")];
    const mean = heads.find((one) => one.textContent === "mean");
    mean.querySelector("button").click();
    const field = document.querySelector("[data-filter=summary-table]");
    field.value = "sam pcm"; field.dispatchEvent(new Event("input"));
    document.body.dataset.sort = mean.getAttribute("aria-sort");
    const rows = [...document.querySelectorAll("#summary-table tbody tr")];
    document.body.dataset.left = rows.filter((row) => !row.hidden).length;
    </script></body>"""
    before, _, after = page.read_text().rpartition("</body>")
    acting.write_text(before + act + after)
    document, said = browse(acting, "--dump-dom")
    assert said == []
    body = re.search(r'<table id="summary-table">.*?<tbody>(.*?)</tbody>', document, re.DOTALL)
    assert body is not None
    cells = [re.findall(r'data-value="(.*?)"', row) for row in re.findall(r"<tr.*?</tr>", body[1], re.DOTALL)]
    means = [float(row[3]) for row in cells]
    assert means == sorted(means)
    assert 'data-sort="ascending"' in document
    left = sum(row[0] == "sam:0.1" and row[1].startswith("pcm") for row in cells)
    assert f'data-left="{left}"' in document


def test_page_needs_nothing_from_elsewhere_and_is_small(page: Path) -> None:
    text = page.read_text()
    assert len(text) < 4_000_000
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']*""", text.split("<script")[0])
    assert not re.findall(r"<(?:link|img|iframe)[^>]*https?:", text)


def test_sections_follow_from_what_there_is(made: tuple[Path, list[Path]]) -> None:
    folder, files = made
    every = {one.name: one for one in sections_of(Results.read([*files, folder / "runs"]))}
    assert list(every) == [
        *("summary", "strength", "time", "area", "difference", "yield", "layers", "training", "coverage", "provenance")
    ]
    layers = every["layers"].table
    assert layers is not None
    studied = str(pd.read_parquet(files[2])["model"][0])
    twin = sensitivity(studied, None, "gaussian:0.1", 2, images=100, out=files[2])
    summary = twin.summary()
    alone = summary[(summary["effect"] == "alone") & (summary["metric"] == "accuracy")].set_index("layer")["mean"]
    shown = {row[1]: row[4] for row in layers.rows if "alone costs" in row[2]}
    assert shown == pytest.approx({name: alone[name] for name in shown})
    assert set(shown) == set(alone.index) - {"all layers"}
    commands = dict(every["provenance"].texts)
    assert "--seeds 0 1 --out" in commands["trained: sam:0.1"]
    first, second = commands["evaluated"].splitlines()
    assert "--noise gaussian:0.0 gaussian:0.1 gaussian:0.2 --draws 3 --images 500" in first
    assert "--noise pcm --times 25 86400 --compensation none global --draws 2" in second
    chips = every["yield"].table
    assert chips is not None
    assert {row[1]: row[-1] for row in chips.rows if row[0] == "plain"} == {
        **dict.fromkeys(("gaussian:0.1", "gaussian:0.2"), 6),
        **dict.fromkeys((f"pcm, t {t}{how}" for t in ("25 s", "1 d") for how in ("", ", global compensation")), 4),
    }
    clean = [row for row in every["summary"].table.rows if row[1] == "gaussian:0.0"]  # type: ignore[union-attr]
    assert all(math.isnan(row[4]) for row in clean)
    only = [one.name for one in sections_of(Results.read([folder / "runs"]))]
    assert only == ["training", "coverage", "provenance"]


def test_an_undefined_value_hides_the_chips_of_its_condition_alone(
    made: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    rows = read_rows(made[1][0])
    broken = (rows["method"] == "plain") & (rows["strength"] == 0.2) & (rows["draw"] == 1)
    assert broken.any()
    rows.loc[broken, "value"] = math.nan
    rows.to_parquet(tmp_path / "rows.parquet")
    every = {one.name: one for one in sections_of(Results.read([tmp_path / "rows.parquet"]))}
    left, chips = every["yield"], every["yield"].table
    assert chips is not None
    whole = {("plain", "gaussian:0.1"), ("sam:0.1", "gaussian:0.1"), ("sam:0.1", "gaussian:0.2")}
    assert {tuple(row[:2]) for row in chips.rows} == whole
    assert left.says.endswith("Conditions under which a value is undefined are left out.")


def test_rows_of_layers_are_no_part_of_the_summary(made: tuple[Path, list[Path]]) -> None:
    _, files = made
    both, alone = Results.read([files[0], files[2]]), Results.read([files[2]])
    assert set(both.rows["images"]) == {500}
    assert set(alone.rows["analog"]) == {""}
    assert len(set(both.layers["analog"])) > 4


def test_hostile_names_are_text(made: tuple[Path, list[Path]], tmp_path: Path) -> None:
    rows = pd.read_parquet(made[1][0])
    evil = "</script><script>document.title='taken'</script>"
    rows.loc[rows["method"] == "plain", "method"] = evil
    rows.to_parquet(tmp_path / "evil.parquet")
    text = write_page([tmp_path / "evil.parquet"], tmp_path / "page.html", baseline=evil).read_text()
    assert evil not in text
    assert "&lt;/script&gt;" in text
    if CHROMIUM is not None:
        document, said = browse(tmp_path / "page.html", "--dump-dom")
        assert said == []
        assert "<title>noiserobust: results</title>" in document


def test_command_line_writes_it(
    made: tuple[Path, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["report", str(made[1][0]), "--page", str(tmp_path / "a.html")])
    assert capsys.readouterr().out == f"page: {tmp_path / 'a.html'}\n"
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")


def test_train_and_sweep_write_it_as_they_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[list[str]] = []
    write = live.write_results

    def noted(held: Results, *rest: Any) -> Path:
        written.append([f"{len(run.log)} epochs" for run in [*held.runs, *held.ongoing]] + [f"{len(held.rows)} rows"])
        return write(held, *rest) if len(held.rows) == 4 else rest[0]

    monkeypatch.setattr(live, "write_results", noted)
    for share, seen in ((10.0**9, ["1 epochs", "2 epochs", "2 epochs"]), (10.0**-9, ["1 epochs", "2 epochs"])):
        monkeypatch.setattr(live, "SHARE", share)
        train = ["train", *TINY[2:], "--epochs", "2", "--out", str(tmp_path / f"{share:g}")]
        main([*train, "--page", str(tmp_path / "train.html")])
        assert [names[0] for names in written] == seen
        assert f"page: {tmp_path / 'train.html'}\n" in capsys.readouterr().out
        written.clear()
    grid = ["--vary", "lr=0.1|0.2", "--images", "20", "--draws", "1", "--noise", "gaussian:0"]
    monkeypatch.setattr(live, "SHARE", 10.0**9)
    main(["sweep", *TINY, *grid, "--out", str(tmp_path / "sweep"), "--page", str(tmp_path / "sweep.html"), "--json"])
    assert json.loads(capsys.readouterr().out)["files"]["page"] == str(tmp_path / "sweep.html")
    assert written[0] == ["1 epochs", "0 rows"]
    assert written[-1] == [*["1 epochs"] * 2, "4 rows"]
    text = (tmp_path / "sweep.html").read_text()
    assert text.count("plain, lr 0.2") > 2
    (command,) = re.findall(r"noiserobust evaluate [^\n<]*", html.unescape(text))
    words = shlex.split(command)[1:]
    assert len([word for word in words if str(tmp_path / "sweep" / "runs") in word]) == 2
    main([*words, "--out", str(tmp_path / "again.parquet")])
    swept = read_rows(tmp_path / "sweep" / "rows.parquet").sort_values(["model", "metric"])
    again = read_rows(tmp_path / "again.parquet").sort_values(["model", "metric"])
    assert [*again["value"]] == [*swept["value"]]
    of_runs = Results.of_runs(runs_in([run.parent for run in (tmp_path / "sweep").glob("runs/*/model.safetensors")]))
    assert sorted(of_runs.methods) == ["plain, lr 0.1", "plain, lr 0.2"]  # without rows, too


def test_conditions_and_tables_beside_a_page(
    made: tuple[Path, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(tmp_path / name) for name in ("a.html", "a.md", "a.png")]
    words = ["--page", files[0], "--table", files[1], "--plot", files[2], "--intervals", "--design", "crossed"]
    main(["report", str(made[1][0]), str(made[0] / "runs"), "--where", "strength != 0.2", *words])
    assert "0.2" not in capsys.readouterr().out
    assert all(Path(file).stat().st_size for file in files)
    page = Path(files[0]).read_text()
    assert "gaussian:0.1<" in page
    assert "gaussian:0.2<" not in page
    held = Results.read([made[1][0]], where="method == 'plain'")
    assert held.methods[0] == "plain"
    assert set(held.rows["method"]) == {"plain"}
    for condition in ("method == 'none'", "method =="):
        with pytest.raises(UserError):
            Results.read([made[1][0]], where=condition)


def test_rows_that_do_not_belong_together(
    made: tuple[Path, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pd.read_parquet(made[1][0]).query("method == 'plain'")
    for column, value in {"images": 100, "task": "tokens", "data": "0123"}.items():
        rows.assign(**{column: value, "method": "another"}).to_parquet(tmp_path / "other.parquet")
        ways = [f'--where "{column} == {one!r}"' for one in (rows[column].tolist()[0], value)]
        both = ["report", str(made[1][0]), str(tmp_path / "other.parquet")]
        for further in ([], ["--page", str(tmp_path / "a.html")]):
            assert f"choose with {' or '.join(ways)}" in refused([*both, *further], capsys)
        main([*both, *shlex.split(ways[0])])
        assert "another" not in capsys.readouterr().out


def test_what_the_page_prints_makes_the_rows_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Own network, other data than those of training, a label of one's own, other normalisation."""
    code = "from torch.nn import *\nfrom noiserobust.data import load\n"
    code += "def net(channels, classes): return Sequential(Flatten(), Linear(64, classes))\n"
    code += "def few(): return load('digits').train.subset(range(90)), load('digits').test.subset(range(70))\n"
    (tmp_path / "pasted_code.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    few = load("pasted_code:few")
    settings = TrainSettings(model="pasted_code:net", epochs=1, select_on="none")
    own = fit(settings, "own", splits=few)
    usual = fit(replace(settings, model=ModelSpec.parse("digits:width=2")), "own")
    assert training_commands(usual, [0])[1:] == []
    assert "# the data were handed over in Python" in training_commands(own, [0])[1]
    asked: dict[str, Any] = {"noises": ["gaussian:0.1"], "draws": 2, "model": "pasted_code:net", "metrics": "top5"}
    rows = evaluate({"mine": [str(own.checkpoint)]}, few, **asked, compute=Compute(mean=0.3, std=0.4)).rows
    other = evaluate(str(usual.folder), "pasted_code:few", ["pcm"], 1, chips=Chips(times=["1d"])).rows
    first, second = evaluation_commands(pd.concat([rows, other]))
    for command, made in ((first, rows), (second, other)):
        main([*shlex.split(command)[1:], "--out", str(tmp_path / "again.parquet")])
        again = pd.read_parquet(tmp_path / "again.parquet")
        for name in ("method", "noise", "t", "draw", "metric", "value", "data", "inputs", "given"):
            pd.testing.assert_series_equal(again[name], made[name].reset_index(drop=True), check_dtype=False)
        (tmp_path / "again.parquet").unlink()
    (command,) = training_commands(usual, [0])
    main(shlex.split(command)[1:])
    assert "is finished already" in capsys.readouterr().err
    handed = evaluate(own.network, (few.test.normalized(), few.test.labels), "gaussian:0.1", 1).rows
    _, *notes = evaluation_commands(handed)
    assert [note[:22] for note in notes] == ["# the weights of Seque", "# the data were handed"]
    (_, note) = evaluation_commands(rows.drop(columns="given"))
    assert "older rows" in note


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="without any"):
        write_page([tmp_path], tmp_path / "page.html")
    with pytest.raises(UserError, match="nothing to show"):
        write_page([], tmp_path / "page.html")
    with pytest.raises(UserError, match="which is not a file"):
        write_page([tmp_path / "none.parquet"], tmp_path / "page.html")


def test_runs_of_own_networks_are_shown_where_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    code = "from torch.nn import *\ndef net(channels, classes): return Sequential(Flatten(), Linear(64, classes))\n"
    (tmp_path / "own_of_page.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    runs = [fit(TrainSettings(model="own_of_page:net", epochs=1, select_on="none", seed=s), tmp_path) for s in range(2)]
    folders = [run.folder for run in runs]
    assert runs_in(folders) == runs_in(folders, "own_of_page:other") == []
    assert "2 runs are not on the page (--model own_of_page:net shows own networks)" in caplog.text
    assert [run.folder for run in runs_in(folders, "own_of_page:net")] == folders


@in_browser
def test_names_that_are_long_or_code_stay_inside_the_page(made: tuple[Path, list[Path]], tmp_path: Path) -> None:
    rows = pd.read_parquet(made[1][0])
    names = {"plain": '</script><script>document.title = "run"</script>', "sam:0.1": "a" * 150}
    rows["method"] = rows["method"].map(names)
    rows.to_parquet(tmp_path / "rows.parquet")
    page = write_page([tmp_path / "rows.parquet"], tmp_path / "page.html")
    before, _, after = page.read_text().rpartition("</body>")
    measure = "document.body.dataset.wide = document.documentElement.scrollWidth - innerWidth;"
    page.write_text(f'{before}<script type="module">{measure}</script></body>{after}')
    document, said = browse(page, "--dump-dom", width=500)
    assert said == []
    assert 'data-wide="0"' in document
    assert "<title>noiserobust: results</title>" in document
    assert set(table_of(document, "area")["method"]) == set(names.values())


@pytest.mark.parametrize(("low", "least"), [(-40.0, 0.0), (80.0, None)])
def test_an_interval_beyond_0_does_not_stretch_the_axis_of_a_percentage(low: float, least: float | None) -> None:
    data = pd.DataFrame({"method": "plain", "strength": [0.1, 0.2], "y": [95.0, 90.0], "low": low, "high": 140.0})
    spec = lines(data, ["plain"], "strength", ("sigma", "accuracy (%)"), within=(0.0, 100.0))
    scales = [layer["encoding"]["y"]["scale"] for layer in spec["layer"] if "scale" in layer["encoding"]["y"]]
    assert scales
    assert all((scale["domainMax"], scale.get("domainMin")) == (100.0, least) for scale in scales)
