"""The programs of experiments/: flags from docstrings, one line for bad input, pages that follow from their rows."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "experiments" / "benchmarks"))  # where a benchmark's own imports lie when it is started

from experiments import cost_model, publish  # noqa: E402
from experiments.benchmarks import common, peers  # noqa: E402
from experiments.start import start  # noqa: E402
from noiserobust.errors import UserError  # noqa: E402


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


def test_the_page_follows_from_the_rows_of_esam_by_hand() -> None:
    rows, page = pd.read_csv(ROOT / "docs/results/esam_by_hand.csv"), (ROOT / "docs/regime.md").read_text()
    last = rows[rows["epoch"] == 4].set_index("rule")["train_loss"]
    for rule, says in {
        "esam": "training loss of {:.2f} (ours",
        "sam": "SAM at {:.2f} (ours",
        "selection": "is at {:.2f}, a",
        "random half": "half at {:.2f}:",
    }.items():
        assert says.format(last[rule]) in page, rule


class TestPeers:
    def test_the_page_follows_from_the_rows(self) -> None:
        page = (ROOT / "docs/comparison.md").read_text()
        assert common.markdown(peers.table(pd.read_csv(peers.OUT))) in page

    @pytest.mark.parametrize(
        ("error", "sigma", "digits"),
        [("gaussian 0.05, 2 slices of 4 bits", 0.05, [1, 16]), ("gaussian 0.1, 4 slices of 1 bit", 0.1, [1, 2, 4, 8])],
    )
    def test_sliced_weights_err_in_both_as_by_hand(self, error: str, sigma: float, digits: list[int]) -> None:
        """The digits' errors by their shares, and rounding to ``largest`` steps: uniform, of std 1 / sqrt(12) step."""
        largest = {2: 255, 4: 15}[len(digits)]
        variance = sigma**2 * sum(digit**2 for digit in digits) / sum(digits) ** 2 + 1 / (12 * largest**2)
        rows = pd.read_csv(peers.WEIGHTS)
        large = rows[(rows["error"] == error) & rows["layer"].isin(["conv2.conv", "conv3.conv"])]  # of many weights
        assert len(large) == 6
        for tool in ("noiserobust", "CrossSim"):
            np.testing.assert_allclose(large[tool], variance**0.5, rtol=0.01)

    def test_of_one_network_the_interval_is_welchs(self) -> None:
        random = np.random.default_rng(0)
        ours, theirs = random.normal(90, 1, 20), random.normal(89, 3, 20)
        rows = pd.DataFrame({"data": "d", "tool": "t", "error": "e", "network": "n", "ours": ours, "theirs": theirs})
        low, high = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
        (line,) = peers.table(rows).itertuples()
        assert line.difference == f"{ours.mean() - theirs.mean():+.2f} [{low:+.2f}, {high:+.2f}]"

    def test_of_several_networks_it_covers_as_often_as_it_says(self) -> None:
        random, covered = np.random.default_rng(0), 0
        for _ in range(400):
            truth = np.repeat(random.normal(80, 10, 3), 10)
            rows = pd.DataFrame({"data": "d", "tool": "t", "error": "e", "network": np.repeat([*"abc"], 10)})
            rows = rows.assign(ours=random.normal(truth, 2), theirs=random.normal(truth, 5))
            (line,) = peers.table(rows).itertuples()
            low, high = line.difference.partition("[")[2].rstrip("]").split(", ")
            covered += float(low) <= 0 <= float(high)
        assert 370 <= covered <= 390
