"""docs/extending.md: its files, its Python and its commands run as they stand, in a folder of their own."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from noiserobust.cli import main
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.storage.rows import read_rows

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
FILES = {match[1]: block for block in BLOCKS if (match := re.match(r"# (my_\w+)\.py\n", block))}
COMMANDS = re.search(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a person's own with the page's files in it, which is the present one."""
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name, None)


def test_each_is_a_short_file() -> None:
    assert set(FILES) == {f"my_{kind}" for kind in ("noise", "rule", "measure", "task", "metric", "data", "model")}
    assert all(len([line for line in text.splitlines() if line]) <= 25 for text in FILES.values())


def test_in_python(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    with torch.random.fork_rng():
        for block in BLOCKS:
            if block not in FILES.values():
                exec(compile(block, "docs/extending.md", "exec", dont_inherit=True), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert "my_rule:HalfNoisy(my_noise:Uniform(0.1),clean=0.3)" in printed
    assert re.search(r"my_noise:Uniform\(0.1\)\s+accuracy", printed)
    assert "my_metric:top(k=1)" in printed
    assert "largest: mean" in printed


def test_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS is not None
    before = list(sys.path)
    for line in COMMANDS[1].splitlines():
        main(shlex.split(line)[1:])
    assert sys.path == before
    printed = capsys.readouterr().out
    assert "noise: my_noise:Uniform" in printed
    rows = read_rows(next(folder.glob("evaluation-*.parquet")))
    assert set(rows["noise"]) == {"my_noise:Uniform(0.05)", "my_noise:Uniform(0.1)"}
    assert set(rows["metric"]) == {"accuracy", "loss", "my_metric:top(k=1)"}
    assert set(rows["method"]) == {"my_rule:HalfNoisy(my_noise:Uniform(0.1))"}
    assert read_rows(next(folder.glob("sharpness-*.parquet")))["value"].gt(0).all()
    (run,) = (folder / "own").iterdir()
    about = read_checkpoint(run).about
    assert about["model"] == "my_model:mlp(width=16)"
    assert about["settings"]["data"] == "my_data:stripes(200)"
    assert "my_measure:LargestWeight" in (run / "log.csv").read_text()


def test_what_a_checkpoint_names_is_not_started(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS is not None
    train, evaluate, _ = (shlex.split(line)[1:] for line in COMMANDS[1].splitlines())
    main(train)
    for name in FILES:
        sys.modules.pop(name, None)
    for flag, fragment in (
        ("--model", "expected --model my_model:mlp(width=16)"),
        ("--data", "my_data:stripes out of a file"),
    ):
        at = evaluate.index(flag)
        with pytest.raises(SystemExit) as stopped:
            main([*evaluate[:at], *evaluate[at + 2 :]])
        assert stopped.value.code == 2
        assert fragment in capsys.readouterr().err
