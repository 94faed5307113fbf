"""The commands as a person types them, and every refusal: one line on stderr, no traceback, exit code 2."""

from __future__ import annotations

import pathlib
import re
from pathlib import Path

import pytest
import torch
from commands import TINY, refused
from evaluation_rows import table

from noiserobust.cli import main
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.storage.rows import read_rows, write_rows

CIFAR = str(Path(__file__).parent.parent / "docs" / "results" / "cifar10.parquet")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods with two seeds each, trained as briefly as can be."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("plain", "rwp:gaussian(0.2)"):
        main(["train", *TINY, "--method", method, "--seeds", "0", "1", "--out", str(folder)])
    return folder


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


def test_report_and_yield_of_stored_rows(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, area, chips, table = (str(tmp_path / name) for name in ("rows.parquet", "area.png", "chips.png", "table.md"))
    sweep = ["--noise", "gaussian:1", "--strengths", "0", "0.1", "0.2", "--draws", "3"]
    main(["evaluate", str(runs), *sweep, "--out", rows])
    capsys.readouterr()
    main(["report", rows, "--area", "--intervals", "--baseline", "plain", "--plot", area])
    out = capsys.readouterr().out
    assert "gaussian, strength 0 to 0.2" in out
    assert "area in %: mean [its 95 % interval]; 2 models x 3 draws" in out
    assert re.search(r"^area: [+-]\d+\.\d points \[95 %:", out, re.MULTILINE)
    main(["report", rows, "--design", "crossed"])
    assert "2 models x 3 draws, crossed: the models share their draws" in capsys.readouterr().out
    main(
        ["yield", rows, "--above", "20", "--share", "0.5", "--where", "strength > 0", "--plot", chips, "--table", table]
    )
    out = capsys.readouterr().out
    assert re.search(r"^plain, replicate 1 +3 +\d", out, re.MULTILINE)
    assert "5 if X is the worst of them" in out
    assert "reach 20 %" in Path(table).read_text()
    main(["yield", rows, "--pooled", "--percentiles"])
    assert "– (needs 299 chips)" in capsys.readouterr().out
    assert Path(area).stat().st_size > 0
    assert Path(chips).stat().st_size > 0


def test_a_table_of_another_tool_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, old = tmp_path / "other.parquet", tmp_path / "old.parquet"
    write_rows(table({0: [1.0, 2.0], 1: [3.0, 5.0]}, method="other").assign(noise=0.1), other)
    write_rows(table({0: [1.0, 2.0]}, method="old", noise="0.1").assign(compensation="none"), old)
    main(["report", str(other), str(old), "--baseline", "old"])
    out = capsys.readouterr().out
    assert "other - old, accuracy" in out
    assert "over draws only" in out


def test_converters_are_compared_on_the_same_chips(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "rows.parquet")
    one = str(next(runs.glob("plain-*")))
    main(["evaluate", one, "--draws", "2", "--converters", "none", "io:adc=3,percentile=99.0", "--out", out])
    assert "converters io:adc=3,percentile=99.0" in capsys.readouterr().out
    assert set(read_rows(Path(out))["converters"]) == {"none", "io:adc=3,percentile=99.0"}


def test_labels_tell_networks_apart(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = sorted(runs.glob("plain-*"))
    places, rows = [f"first={one}", f"second={two}", f"again={one}"], str(tmp_path / "rows.parquet")
    main(["evaluate", *places, "--draws", "1", "--out", rows])
    printed = capsys.readouterr().out
    main(["report", rows, rows])
    for out in (printed, capsys.readouterr().out):
        assert all(re.search(rf"^{label} +\d", out, re.MULTILINE) for label in ("first", "second", "again"))


def test_a_torch_file_of_a_persons_own_is_evaluated(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = runs.glob("plain-seed0-*")
    weights = {f"module.{name}": value for name, value in read_checkpoint(run).weights.items()}
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "mynet.pth")
    options = ["--model", "digits:4", "--data", "digits", "--draws", "1"]
    values = []
    for place in (f"mine={tmp_path / 'mynet.pth'}", f"mine={run}"):
        rows = tmp_path / f"{len(values)}.parquet"
        main(["evaluate", place, *options, "--out", str(rows)])
        values.append(read_rows(rows)[["method", "metric", "value"]])
    assert values[0].equals(values[1])
    assert set(values[0]["method"]) == {"mine"}


def test_models_are_listed_with_their_cost(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "digits:4", "resnet18:width=4", "--classes", "7"])
    head, digits, resnet, note = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "input", "classes", "parameters", "forward", "+", "backward"]
    assert digits.split()[:4] == ["digits:4", "1x8x8", "7", "1,651"]
    assert resnet.split()[:4] == ["resnet18:4", "3x32x32", "7", "44,523"]
    assert "GFLOPs" in note


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["train", "--method", "rwp:gauss(0.1)"], "got 'gauss(0.1)'"),
        (["train", "--method", "sam:-0.1"], "sam: expected a finite rho >= 0, got -0.1"),
        (["train", "--epochs", "0"], "expected epochs >= 1, got 0"),
        (["train", "--data", "nowhere"], "sums, svhn, text) or the path of an image folder"),
        (["train", "--optimizer", "sgdm"], "expected an optimizer of torch.optim"),
        (["train", "--device", "cuda:99"], "cuda"),
        (["evaluate"], "or a folder of runs; noiserobust evaluate --help shows what there is"),
        (["report"], "evaluate writes them; noiserobust report --help shows"),
        (["sweep", "--out", "rows.csv"], "rows.parquet in it becomes .csv by noiserobust report --wide"),
        (["evaluate", "nowhere.safetensors"], "nowhere.safetensors: there is none"),
        (["evaluate", "RUNS", "--noise", "gaussian:-0.1"], "gaussian: expected a finite sigma >= 0, got -0.1"),
        (["evaluate", "RUNS", "--noise", "pink:0.1"], "got 'pink:0.1'"),
        (["evaluate", "RUNS", "--noise", "measured:nowhere.csv"], "expected a table (CSV), got nowhere.csv"),
        (["evaluate", "RUNS", "--converters", "io:dac=1"], "io: expected 2 to 24 bits, got 1"),
        (["evaluate", "RUNS", "--converters", "adc:8"], "got 'adc:8'"),
        (["evaluate", "RUNS", "--exclude", "*"], "expected at least one analog weight"),
        (["evaluate", "RUNS", "--exclude", "layer9"], "expected a pattern that matches a parameter, got 'layer9'"),
        (["evaluate", "RUNS", "--include", "head.bias"], "a matrix, got 'head.bias', which matches vectors alone"),
        (["evaluate", "RUNS", "--model", "resnet18:4"], "missing (stem.conv.weight"),
        (["evaluate", "RUNS", "--model", "digits:8"], "of another shape (conv1"),
        (["evaluate", "RUNS", "--data", "EMPTY"], "EMPTY"),
        (["evaluate", "RUNS", "--noise", "gaussian:0", "--strengths", "0.1"], "expected a noise with a strength to"),
        (["evaluate", "RUNS", "--device", "abacus"], "expected a device that is there, such as cpu or cuda"),
        (["evaluate", "RUNS", "--out", "EMPTY"], "expected the name of a file to write, got the folder"),
        (["evaluate", "RUNS", "--out", "rows.txt"], "ends in .parquet, .csv or .jsonl, got rows.txt"),
        (["evaluate", "RUNS", "--table", "a.doc"], "expected a table that ends in .md, .csv or .tex, got a.doc"),
        (["evaluate", "RUNS", "--wide", "a.html"], "expected a file of rows that ends in .parquet, .csv or .jsonl"),
        (["report", CIFAR, "--page", "a.pdf"], "expected a page that ends in .html or .htm, got a.pdf"),
        (["sweep", "--table", "/proc/no/a.md"], "expected a folder that can be written for /proc/no/a.md"),
        (["sharpness", "RUNS", "--measures", "loss", "--plot", "a.png"], "expected measures at two or more strengths"),
        (["sweep", "--vary", "lr=fast"], "lr: expected a number, got 'fast'"),
        (["evaluate", "RUNS", "--images", "0"], "expected a sample of 1 to 500 images"),
        (["evaluate", "RUNS", "--draws", "0"], "expected draws >= 1, got 0"),
        (["yield", "nowhere.parquet"], "expected a file of result rows (parquet), got nowhere.parquet"),
        (["yield", CIFAR, "--share", "99"], "expected a share of chips between 0 and 1, got 99.0"),
        (["yield", CIFAR, "--percentiles", "0"], "expected percentiles between 0 and 100, got 0"),
        (["yield", CIFAR, "--where", "strength == 0"], "expected rows with noise"),
        (["report", CIFAR, "--area", "--where", "strength == 0.1"], "expected a noise at two or more strengths"),
        (["evaluate", "RUNS", "--model", "factory:no_nets:net"], "ModuleNotFoundError: No module named 'no_nets'"),
        (["evaluate", "TRAP", "--model", "digits"], "PurePosixPath: loading that runs code"),
        (["train", "--cutout", "-1"], "expected a cutout of 0 pixels or more, got -1"),
        (["train", "--model", "vit-cifar"], "takes inputs of shape (1, 8, 8), got vit-cifar:512: Wrong image height!"),
        (["models", "resnet19"], "expected a model (deit-s, digits, factory"),
        (["models", "torchvision:resnet19"], "expected a network of torchvision.models (resnet"),
        (["models", "digits", "--size", "0"], "expected channels, size and classes >= 1, got 1, 0 and 10"),
        (["report", "nowhere.parquet"], "expected a file of result rows (parquet), got nowhere.parquet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals(
    arguments: list[str], fragment: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "EMPTY" / "train" / "a").mkdir(parents=True)
    (tmp_path / "EMPTY" / "test" / "a").mkdir(parents=True)
    torch.save({"model": pathlib.PurePosixPath("x")}, tmp_path / "trap.pt")
    places = {"RUNS": str(runs), "EMPTY": str(tmp_path / "EMPTY"), "TRAP": str(tmp_path / "trap.pt")}
    writes = arguments[0] in ("train", "evaluate") and "--out" not in arguments
    out = ["--out", str(tmp_path / "out")] if writes else []
    assert fragment in refused([*(places.get(word, word) for word in arguments), *out], capsys)


def test_pictures_without_matplotlib_are_one_clear_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from noiserobust.cli import app

    def lacks(words: list[str]) -> None:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr(app, "_run", lacks)
    with pytest.raises(SystemExit) as ended:
        app.main(["report"])
    assert ended.value.code == 2
    assert "pip install 'noiserobust[plots]'" in capsys.readouterr().err
