"""The designer's commands as a person types them: sensitivity, keep-digital, budget."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import TINY, refused

from noiserobust.cli import main
from noiserobust.evaluation import sensitivity
from noiserobust.storage.rows import read_rows

FEW = ["--images", "60", "--draws", "2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, trained as briefly as can be."""
    folder = tmp_path_factory.mktemp("runs")
    main(["train", *TINY, "--seeds", "0", "1", "--out", str(folder)])
    return folder


def asked(command: str, arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints; its rows, picture and table are there."""
    files = [folder / name for name in ("rows.parquet", "picture.png", "table.md")]
    capsys.readouterr()
    main([command, *arguments, "--out", str(files[0]), "--plot", str(files[1]), "--table", str(files[2])])
    out = capsys.readouterr().out
    for file in files:
        assert str(file) in out
        assert file.stat().st_size > 0
    assert "|" in files[2].read_text()
    assert {"analog", "draw", "noise", "value"} <= set(read_rows(files[0]))
    return out


def test_sensitivity(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(runs), *FEW, "--noise", "gaussian:0.3", "--groups", "conv*", "--rank", "spared"]
    out = asked("sensitivity", arguments, tmp_path, capsys)
    for part in ("conv*", "head.weight", "all layers", "single effects, added up", "2 models x 2 draws"):
        assert part in out
    # Python takes what the command line takes.
    result = sensitivity(str(runs), noise="gaussian:0.3", draws=2, groups=["conv*"], images=60)
    assert result.table(rank="spared") in out


def test_keep_digital(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(runs), *FEW, "--noise", "pcm", "--times", "1d", "--within", "90", "--search-images", "30"]
    out = asked("keep-digital", arguments, tmp_path, capsys)
    assert "0 layers digital" in out
    assert "t 1 d" in out


def test_budget(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timed = [str(runs), *FEW, "--vary-time", "pcm", "--between", "25s", "1y", "--compensation", "global"]
    assert "time of pcm" in asked("budget", [*timed, "--within", "50"], tmp_path, capsys)


@pytest.mark.parametrize(
    ("command", "arguments", "fragment"),
    [
        ("sensitivity", ["--noise", "gaussian:0.1", "pcm"], "expected nothing more, got pcm"),
        ("sensitivity", ["--noise", "gaussian:0"], "a noise with a strength"),
        ("sensitivity", ["--times", "1d", "1y"], "expected one of times, got 2"),
        ("sensitivity", ["--compensation", "none", "global"], "expected one of compensation, got 2"),
        ("sensitivity", ["--groups", "x*"], "a group that matches"),
        ("keep-digital", ["--max-share", "0"], "max_share in percent"),
        ("budget", [], "--vary with {x}"),
        ("budget", ["--vary", "gaussian:{x}", "--vary-time", "pcm"], "--vary with {x}"),
        ("budget", ["--vary", "gaussian:{x}"], "expected --between LOW HIGH"),
        ("budget", ["--vary", "gaussian:0.1", "--between", "0", "1"], "one free number {x}"),
        ("budget", ["--vary-time", "pcm", "--between", "soon", "1y"], "a time such as"),
    ],
)
def test_refusals(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, arguments: list[str], fragment: str
) -> None:
    assert fragment in refused([command, str(runs), *arguments, "--out", str(tmp_path / "rows.parquet")], capsys)
