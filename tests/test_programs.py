"""The programs of experiments/: flags from docstrings, one line for bad input, pages that follow from their rows."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from experiments import cost_model, publish
from experiments.start import start
from noiserobust.errors import UserError

ROOT = Path(__file__).parent.parent


@dataclass
class Study:
    """A program."""

    copies: int = 3
    """How many."""

    def run(self) -> None:
        raise UserError(f"expected many copies, got {self.copies}; ask for more")


class TestStart:
    def said(self, program: object, words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
        monkeypatch.setattr(sys, "argv", ["program.py", *words])
        with pytest.raises(SystemExit) as end:
            start(program)  # type: ignore[arg-type]
        return int(end.value.code or 0)

    def test_bad_input_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert self.said(Study, ["--copies", "2"], monkeypatch) == 2
        assert capsys.readouterr().err == "error: expected many copies, got 2; ask for more\n"
        assert self.said(publish.main, [str(tmp_path / "nowhere")], monkeypatch) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: expected a folder that noiserobust reproduce wrote, got ")

    def test_help_lists_the_flags(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.said(Study, ["--help"], monkeypatch) == 0
        said = capsys.readouterr().out
        assert "--copies" in said
        assert "How many." in said


def test_every_program_starts_so() -> None:
    programs = {path.name: path.read_text() for path in (ROOT / "experiments").glob("*.py")}
    own = {"start.py", "demo.py"}  # demo.py is a command of noiserobust
    assert len(programs) > 12
    assert not [name for name, text in programs.items() if name not in own and "    start(" not in text]


def test_the_page_of_the_cost_model_follows_from_its_rows() -> None:
    rows, page = pd.read_csv(ROOT / "docs/results/cost_model.csv"), (ROOT / "docs/scale.md").read_text()
    text = cost_model.text_of(rows)
    assert not [line for line in text.splitlines() if line not in page]
    # The coefficients by the normal equations, in place of NNLS: both are positive.
    small = rows[rows["fitted"]]
    for noise in cost_model.NOISES:
        x = small[["weights", "tensors"]].div(small[noise], axis=0)
        a, b = pd.Series(cost_model.coefficients(rows)[noise])
        residual = 1 - a * x["weights"] - b * x["tensors"]
        assert a > 0 < b
        for column in x:
            assert (residual * x[column]).sum() == pytest.approx(0, abs=1e-6 * x[column].sum())
