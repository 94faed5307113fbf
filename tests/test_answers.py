"""What commands print: one JSON object for programs, tables that fit for people, nothing where the reader has left."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import TINY, refused
from processes import LIMIT

from noiserobust import UserError, doctor
from noiserobust.bars import Bar
from noiserobust.cli import COMMANDS, app, main
from noiserobust.cli.output import Part, plain, print_for_people
from noiserobust.evaluation import wide
from noiserobust.limits import TABLE_WIDTH
from noiserobust.report.table import aligned
from noiserobust.report.tex import as_tex
from noiserobust.storage.rows import read_rows

FEW = ["--images", "20", "--draws", "2"]
WORDS: dict[str, list[str]] = {
    "train": [*TINY, "--out", "runs"],
    "recommend": [*TINY, "--budget", "9", "--vary", "method=plain|sam:0.1", "--copies", "2", "--draws", "1"],
    "demo": ["--seeds", "0", "--epochs", "1", "--draws", "1", "--out", "demo"],
    "sweep": [*TINY, "--vary", "method=plain|sam:0.1", "--dry-run"],
    "curves": ["runs"],
    "evaluate": ["runs", *FEW, "--noise", "gaussian:0", "gaussian:0.1"],
    "corrupted": ["runs", "--folder", "corrupted", "--corruptions", "fog", "--severities", "1"],
    "report": ["rows.jsonl"],
    "yield": ["rows.jsonl", "--where", "strength > 0"],
    "sharpness": ["runs", "--images", "20", "--measures", "loss"],
    "landscape": ["runs", "--images", "20", "--points", "3", "--dimensions", "1"],
    "sensitivity": ["runs", *FEW, "--groups", "conv*"],
    "keep-digital": ["runs", *FEW, "--max-layers", "1", "--per-mac"],
    "budget": ["runs", *FEW, "--vary", "gaussian:{x}", "--between", "0", "0.5", "--points", "3"],
    "program": ["runs"],
    "reproduce": ["incorruptible", "table2", "--dry-run"],
    "list": [],
    "models": ["digits:4"],
    "doctor": [],
}
"""What to call every command with: a new one is missing here, and its test fails."""
HELD: dict[str, str] = {
    **dict.fromkeys(("evaluate", "corrupted", "report", "yield", "sharpness", "landscape", "curves"), "summary"),
    **dict.fromkeys(("demo", "sensitivity", "keep-digital", "budget", "recommend"), "summary"),
    "train": "runs",
    "sweep": "trainings",
    "program": "crossbars",
    "reproduce": "trainings",
    "list": "noises",
    "models": "models",
    "doctor": "findings",
}
"""A key of every command's answer."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, rows of it, and corrupted images."""
    folder = tmp_path_factory.mktemp("place")
    main(["train", *TINY, "--out", str(folder / "runs"), "--quiet"])
    words = ["evaluate", str(folder / "runs"), *FEW, "--noise", "gaussian:1", "--strengths", "0", "0.1"]
    main([*words, "--out", str(folder / "rows.jsonl"), "--quiet"])
    (folder / "corrupted").mkdir()
    np.save(folder / "corrupted" / "fog.npy", np.zeros((10, 8, 8, 1), np.uint8))
    np.save(folder / "corrupted" / "labels.npy", np.arange(10))
    return folder


def no_constant(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


@pytest.mark.parametrize("command", COMMANDS)
def test_one_json_object_and_nothing_else(
    command: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(doctor, "TESTS", {})
    monkeypatch.setattr(doctor, "OPTIONAL", {})
    capsys.readouterr()
    main([command, *WORDS[command], "--json"])
    told = json.loads(capsys.readouterr().out, parse_constant=no_constant)
    assert told["command"] == command
    assert told[HELD[command]]
    if command == "keep-digital":
        assert told["summary"][-1]["layer"] in told["layers"]["plain"]
    assert "error" not in told


def test_the_object_holds_the_rows_own_numbers(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(place / "rows.jsonl"), "--json"])
    told = json.loads(capsys.readouterr().out, parse_constant=no_constant)
    rows = read_rows(place / "rows.jsonl")
    means = rows.groupby(["noise", "metric"])["value"].mean()
    assert {(line["noise"], line["metric"]): line["mean"] for line in told["summary"]} == pytest.approx(means.to_dict())
    assert told["summary"][0]["weight_std"] is None  # a single copy: NaN is null


def test_an_error_is_in_the_object_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["report", str(tmp_path / "none.parquet")], ["report", "--unknown"]):
        with pytest.raises(SystemExit):
            main([*words, "--json"])
        shown = capsys.readouterr()
        assert shown.err == f"noiserobust: error: {json.loads(shown.out)['error']}\n"


def test_values_that_json_has_not() -> None:
    table = pd.DataFrame({"n": np.array([1], "int32"), "x": [float("-inf")], "t": [pd.NaT]})
    assert json.dumps(plain({"a": table, "b": {Path("c")}, "d": np.float32("nan"), 3: np.arange(2)})) == (
        '{"a": [{"n": 1, "x": null, "t": null}], "b": ["c"], "d": null, "3": [0, 1]}'
    )


def test_quiet_leaves_the_answer_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(place / "runs"), *FEW, "--out", str(place / "quiet.csv"), "--quiet"]
    main(words)
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.startswith("noise: gaussian\n")
    assert "rows:" not in shown.out
    main(["train", *TINY, "--out", str(place / "runs"), "--quiet"])
    assert capsys.readouterr() == ("", "")


def test_rows_of_two_commands_or_data_have_files_of_their_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    names = {
        app.command_class(name)(checkpoints=("runs",), **given).rows.name
        for name, given in (
            ("evaluate", {}),
            ("evaluate", {"data": "fashion-mnist"}),
            ("evaluate", {"task": "score:my.module:function"}),
            ("sensitivity", {}),
        )
    }
    assert names == {
        *("evaluation-digits.parquet", "evaluation-fashion-mnist.parquet", "sensitivity-digits.parquet"),
        "evaluation-digits-score-my.module-function.parquet",
    }


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_tables_fit_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    names = ["method", *(f"sigma {x / 100:g}" for x in range(12)), "a remark of many words that goes on and on, truly"]
    grid = [
        names,
        *([m, *["97.12 ± 0.31 ± 0.20"] * 12, "x"] for m in ("plain", "rwp:gaussian(0.1),clean_weight=0.5,more=1")),
    ]

    def parts() -> Any:
        yield Part("title\n" + aligned(grid) + "\n\n" + "a long caption " * 20)

    before = TABLE_WIDTH.get()
    try:
        print_for_people(parts(), quiet=False)
    finally:
        TABLE_WIDTH.set(before)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    assert out.count("97.12 ± 0.31 ± 0.20") == 24


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_bars_keep_their_numbers(columns: int) -> None:
    line = Bar.format_meter(
        *(1234, 5678, 12.0, columns),
        prefix="rwp:gaussian(0.1,reference=layer,schedule=quadratic(2.0)) seed 12: ",
        unit="read",
    )
    assert len(line) <= columns
    assert re.search(r"22%.* 1234/5678 \[00:12<00:43, 102\.83read/s\]$", line)


def test_bars_without_an_end_have_one_colon() -> None:
    assert Bar.format_meter(7, None, 2.0, prefix="plain: ", unit="draw") == "plain: 7draw [00:02,  3.50draw/s]"


def test_bars_in_a_file_are_few_lines(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in Bar(range(40), desc="steps"):
        time.sleep(0.01)  # 0.4 s: a terminal sees five lines
    lines = capfd.readouterr().err.split("\r")[1:]
    assert [re.search(r"\d+/40", line)[0] for line in lines] == ["0/40", "40/40"]  # type: ignore[index]


def test_tables_as_tex_and_csv(place: Path, tmp_path: Path) -> None:
    for name in ("a.tex", "a.csv", "a.md"):
        main(["report", str(place / "rows.jsonl"), "--table", str(tmp_path / name)])
    tex = (tmp_path / "a.tex").read_text()
    assert r"\begin{tabular}{lrr}" in tex
    assert r"method & noise-free & sigma 0.1 \\" in tex
    assert r"\pm" in tex
    summary = pd.read_csv(tmp_path / "a.csv")
    assert {"method", "metric", "mean", "noise_std", "low"} <= set(summary)
    assert len(summary) == 4
    hostile = r"| method | a |\n| --- | --- |\n| 50%_$x^2$ & \{b} \| ~#<\> | – |".replace(r"\n", "\n")
    assert (
        r"50\%\_\$x\textasciicircum{}2\$ \& \textbackslash{}\{b\} \textbar{} \textasciitilde{}\#\textless{}"
        r"\textbackslash{}\textgreater{} & -- \\"
    ) in as_tex(hostile)


def test_wide_rows_have_a_column_per_metric(place: Path, tmp_path: Path) -> None:
    rows = read_rows(place / "rows.jsonl")
    table = wide(rows)
    assert len(table) == len(rows) / 2
    for metric in ("accuracy", "loss"):
        assert table[metric].tolist() == rows[rows["metric"] == metric]["value"].tolist()
    assert not {"metric", "value"} & set(table)
    main(["report", str(place / "rows.jsonl"), "--wide", str(tmp_path / "wide.csv")])
    pd.testing.assert_frame_equal(read_rows(tmp_path / "wide.csv"), table)
    with pytest.raises(UserError, match="one value of accuracy"):
        wide(pd.concat([rows, rows]))
    with pytest.raises(UserError, match="without metric, value"):
        wide(table)
    rows.loc[rows.index[0], "torch"] = "9.9"  # a metric that a later version added
    assert len(wide(rows)) == len(table)


def test_targets_that_cannot_be_written_are_refused_before_work(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (tmp_path / "file").write_text("")
    for command in COMMANDS:
        kind = app.command_class(command)
        monkeypatch.setattr(kind, "run", lambda read: pytest.fail("work began"))
        for field in {"out", "plot", "table", "page", "wide", "layers_out", "keep"} & set(kind.__dataclass_fields__):
            flag = f"--{field.replace('_', '-')}"
            line = refused([command, *WORDS[command], flag, str(tmp_path / "file" / "further")], capsys)
            assert "file/further, got: Not a directory" in line


@pytest.mark.parametrize("words", [["list", "noises"], ["doctor"]])
def test_a_reader_that_leaves_is_no_error(words: list[str]) -> None:
    script = f"{sys.executable} -m noiserobust {' '.join(words)} | head -n 1; echo code ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=LIMIT)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 2
    assert done.stdout.splitlines()[-1] in ("code 0", "code 141")


@pytest.mark.parametrize("kind", ["none", "closed"])
@pytest.mark.parametrize("off", [False, True])
def test_work_goes_on_where_there_is_no_standard_error(monkeypatch: pytest.MonkeyPatch, kind: str, off: bool) -> None:
    """A service's process may have none, or a closed one; a bar that is off has no use for it."""
    shut = io.StringIO()
    shut.close()
    monkeypatch.setattr(sys, "stderr", None if kind == "none" else shut)
    assert list(Bar(range(3), disable=off)) == [0, 1, 2]
