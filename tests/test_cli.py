"""The commands as a person types them, and every refusal: one line on stderr, no traceback, exit code 2."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from noiserobust.cli import COMMANDS, Train, main
from noiserobust.results import read_rows

TINY = ["--epochs", "1", "--batch-size", "400", "--model", "digits:4", "--select-draws", "1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods with two seeds each, trained as briefly as can be."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("plain", "rwp:gaussian(0.2)"):
        main(["train", *TINY, "--method", method, "--seeds", "0", "1", "--out", str(folder)])
    return folder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the refusal printed."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("noiserobust: error: ")
    return line


def test_training_says_what_it_wrote(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", *TINY, "--seeds", "0", "--out", str(runs)])  # finished already: found, not trained again
    out = capsys.readouterr().out
    assert "kept epoch 0 (validation, accuracy" in out
    written = Path(out.split("weights: ")[1].strip())
    assert written.parent.parent == runs
    assert written.is_file()
    assert (written.parent / "log.csv").is_file()


def test_evaluation_prints_table_coverage_and_where_things_are(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / name for name in ("rows.parquet", "accuracy.png", "table.md")]
    options = ["--out", str(files[0]), "--plot", str(files[1]), "--table", str(files[2])]
    sweep = ["--noise", "gaussian:1", "--strengths", "0", "0.2", "--draws", "2"]
    main(["evaluate", str(runs), *sweep, *options])
    out = capsys.readouterr().out
    assert "sigma 0.2" in out
    assert "rwp:gaussian(0.2)" in out
    assert "coverage: " in out
    assert "weights noisy" in out
    for file in files:
        assert str(file) in out
        assert file.stat().st_size > 0
    assert "| plain |" in files[2].read_text()
    assert len(read_rows(files[0])) == 4 * 2 * 2 * 2
    main(["report", str(files[0]), "--baseline", "plain"])
    assert "rwp:gaussian(0.2) - plain, accuracy" in capsys.readouterr().out


def test_labels_tell_networks_apart(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = sorted(runs.glob("plain-*"))
    places, rows = [f"first={one}", f"second={two}", f"again={one}"], str(tmp_path / "rows.parquet")
    main(["evaluate", *places, "--draws", "1", "--out", rows])
    printed = capsys.readouterr().out
    main(["report", rows, rows])
    for out in (printed, capsys.readouterr().out):
        assert all(re.search(rf"^{label} +\d", out, re.MULTILINE) for label in ("first", "second", "again"))


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["train", "--method", "rwp:gauss(0.1)"], "got 'gauss(0.1)'"),
        (["train", "--method", "sam:-0.1"], "sam: expected a finite rho >= 0, got -0.1"),
        (["train", "--epochs", "0"], "expected epochs >= 1, got 0"),
        (["train", "--data", "nowhere"], "expected digits, cifar10, cifar100 or the path of an image folder"),
        (["train", "--optimizer", "sgdm"], "expected an optimizer of torch.optim"),
        (["train", "--device", "cuda:99"], "cuda"),
        (["evaluate"], "expected at least one checkpoint, got none"),
        (["evaluate", "nowhere.safetensors"], "nowhere.safetensors: there is none"),
        (["evaluate", "RUNS", "--noise", "gaussian:-0.1"], "gaussian: expected a finite sigma >= 0, got -0.1"),
        (["evaluate", "RUNS", "--noise", "pink:0.1"], "got 'pink:0.1'"),
        (["evaluate", "RUNS", "--exclude", "*"], "expected at least one analog weight"),
        (["evaluate", "RUNS", "--exclude", "layer9"], "expected a pattern that matches a parameter, got 'layer9'"),
        (["evaluate", "RUNS", "--model", "resnet18:4"], "missing (stem.conv.weight"),
        (["evaluate", "RUNS", "--model", "digits:8"], "of another shape (conv1"),
        (["evaluate", "RUNS", "--data", "EMPTY"], "EMPTY"),
        (
            ["evaluate", "RUNS", "--noise", "gaussian:0", "--strengths", "0.1"],
            "expected a noise with a strength to sweep",
        ),
        (["evaluate", "RUNS", "--device", "abacus"], "expected a device that is there, such as cpu or cuda"),
        (["evaluate", "RUNS", "--out", "EMPTY"], "expected a file for the rows, got the folder"),
        (["evaluate", "RUNS", "--images", "0"], "expected a sample of 1 to 500 images"),
        (["evaluate", "RUNS", "--draws", "0"], "expected draws >= 1, got 0"),
        (["report", "nowhere.parquet"], "expected a file of result rows (parquet), got nowhere.parquet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals(
    arguments: list[str], fragment: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "EMPTY" / "train" / "a").mkdir(parents=True)
    (tmp_path / "EMPTY" / "test" / "a").mkdir(parents=True)
    places = {"RUNS": str(runs), "EMPTY": str(tmp_path / "EMPTY")}
    out = [] if arguments[0] == "report" or "--out" in arguments else ["--out", str(tmp_path / "out")]
    assert fragment in refused([*(places.get(word, word) for word in arguments), *out], capsys)


@pytest.mark.parametrize("command", list(COMMANDS.values()))
def test_help_names_every_flag(command: type[Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command.__name__.lower(), "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    names = {field.name for field in dataclasses.fields(command)}
    positional = {"checkpoints", "rows", "runs"} & names
    hidden = {"seed"} if command is Train else set()  # its seeds are the flag
    assert ("positional arguments" in out) == bool(positional)
    flags = {f"--{name.replace('_', '-')}" for name in names - positional - hidden}
    assert {flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", out)} == set()
    assert not re.search(r"--seed(?![\w-])", out) or not hidden
