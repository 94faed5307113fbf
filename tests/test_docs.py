"""The code on the documentation's pages runs as it stands, from top to bottom, and their links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import warnings
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
import torch

import noiserobust
from noiserobust.models import cost
from noiserobust.noise import NoiseModel
from noiserobust.storage.rows import read_rows
from noiserobust.training import Method, TrainSettings

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]
FOLDERS = ("docs", "experiments", "noiserobust")
LINKED = [page.relative_to(ROOT).as_posix() for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md"))]
PRINTED = {
    "docs/start.md": ["2,368 of 2,410 weights noisy", "RWP, clipped", "gaussian:0.3"],
    "docs/traps.md": ["gaussian:0.1,reference=layer", "bare - wrapped: [0.0]", "['draws']"],
    "docs/evaluation.md": ["std over noise draws", "gaussian:0.05"],
    "docs/precision.md": [" ± 2.0 after ", " image passes"],
    "README.md": ["2,368 of 2,410 weights noisy", "noise: gaussian:reference=layer"],
    "docs/own_loop.md": [
        "epoch 1: loss",
        "saf: remembers 1 epochs x 96 samples x 3 classes",
        "random:laplace(0.25),draws=1: 0.25",
    ],
    "docs/integrations.md": ["accelerate: 3 steps", "Lightning: 6 steps", "Trainer: 2 steps"],
    "docs/language_model.md": [
        "perplexity: mean ± std over noise draws",
        "digital: 640 in 1 x embedding",
        "acc/adds: mean",
    ],
    "docs/noise.md": [],
    "docs/hardware_aware_training.md": ["ranges of 0.weight, 2.weight", "noisy: 0.weight, 2.weight"],
    "docs/measured_chips.md": ["noise: chips:made,digest=", "crossbar"],
    "docs/layers.md": [
        "{(1,)}",
        "33.3 % of the multiply-accumulates are noisy; include '*.kernel@1'",
        "['0.kernel', '2.weight']",
    ],
    "docs/hardware_design.md": ["largest x of gaussian:{x}", "single effects, added up", "digital, too"],
    "docs/tasks.md": ["mse: mean ± std over noise draws", "that loses at most 0.01 of mse"],
    "docs/rules.md": ["max / rms of each column: 1.50", "the average of 20 steps"],
    "docs/recommend.md": ["sam:0.2", "noiserobust train "],
    "docs/sweep.md": ["rwp:gaussian(0.1)    2"],
    "docs/statistics.md": ["shared_variance", "gaussian, strength 0.1 to 0.4", "299"],
    "docs/data.md": ["(16, 3, 16, 16) ["],
    "docs/own_device_models.md": [
        "after 1e7 s: 0.368",
        "baked: 0.51",
        "disturbed: 0.4524",
        "failed: 0.031",
        "read at 85 °C: 0.693",
        "open columns: 0.10",
        "low in one read 0.10, in both 0.05",
        "shot noise: 0.0071",
        "noise: __main__:Bake(pcm(read=0.0),hours=2.0,celsius=100.0)",
    ],
    "docs/arrays.md": [
        "cells(pcm(read=0),number=4): 0.021",
        "tolerance=0.02): 0.014",
        "measured:",
        ",digest=",
        "+gaussian:0.005,per=read",
        "{}",
    ],
    "docs/devices.md": ["noise: pcm, global compensation", "t 1 d"],
    "docs/from_aihwkit.md": ["noise: aihwkit", "0.0 aihwkit", "1.0 aihwkit", "apart by at most 1e-6: True"],
    "docs/full_chip.md": ["2 of 2 noisy weights on 2 tiles", "noise: pcm, backend aihwkit:inp_bits=6"],
}
"""Pages with code, and what that must print."""
OF_AIHWKIT = ("docs/devices.md", "docs/from_aihwkit.md", "docs/full_chip.md")
"""Pages whose code needs it."""
OF_OTHERS = (
    "docs/hardware_aware_training.md",
    "docs/integrations.md",
    "docs/language_model.md",
    "docs/measured_chips.md",
)
"""Pages whose code warns, as other libraries do."""


@pytest.mark.parametrize("page", PRINTED)
def test_the_pages_code_runs(
    page: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if page in OF_AIHWKIT:
        pytest.importorskip("aihwkit.simulator.configs", reason="the page is about aihwkit", exc_type=ImportError)
    for family in (NoiseModel, Method):  # pages register members of their own
        monkeypatch.setattr(family, "registry", dict(family.registry))
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    with torch.random.fork_rng(), warnings.catch_warnings():
        if page in OF_OTHERS:
            warnings.simplefilter("ignore")
        for block in blocks:
            exec(compile(block, page, "exec", dont_inherit=True), names)
    printed = capsys.readouterr().out
    assert all(part in printed for part in PRINTED[page])


def test_the_notebook_was_run_and_names_what_there_is() -> None:
    cells = [cell for cell in json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"] if "outputs" in cell]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = json.dumps([cell["outputs"] for cell in cells])
    assert "image/png" in outputs
    assert '"error"' not in outputs
    nodes = list(ast.walk(ast.parse("\n".join("".join(cell["source"]) for cell in cells))))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("noiserobust"):
            assert all(hasattr(import_module(str(node.module)), alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "noiserobust":
            assert hasattr(noiserobust, node.attr)
    names = {
        ast.unparse(node.targets[0]): ast.literal_eval(node.value)
        for node in nodes
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("shared", "ways")
    }
    assert len({TrainSettings(**way, **names["shared"]).label for way in names["ways"]}) == 3


def test_device_models_of_ones_own_are_short() -> None:
    text = (ROOT / "docs" / "own_device_models.md").read_text()
    blocks = [b for b in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if "class " in b]
    assert len(blocks) == 9
    assert all(10 <= len([line for line in block.splitlines() if line]) <= 20 for block in blocks)


def test_every_page_with_code_is_run() -> None:
    elsewhere = {"docs/extending.md"}  # test_extending.py
    assert {page for page in PAGES if "```python" in (ROOT / page).read_text()} == set(PRINTED) | elsewhere


@pytest.mark.parametrize("page", ["README.md", *LINKED])
def test_links_and_pictures_are_there(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    missing = [target for target in targets if not ((ROOT / page).parent / target).exists()]
    assert not missing


def test_the_measured_rows_are_those_that_the_page_describes() -> None:
    rows = read_rows(ROOT / "docs" / "results" / "cifar10.parquet")
    accuracy = rows[rows["metric"] == "accuracy"]
    mean = accuracy[(accuracy["method"] == "plain") & (accuracy["noise"] == "gaussian:0.1")]["value"].mean()
    assert f"{mean:.2f} ±" in (ROOT / "docs" / "cifar10.md").read_text()
    assert not accuracy["model"].str.contains("/").any()


def test_the_coverage_page_shows_what_was_measured() -> None:
    page = (ROOT / "docs" / "precision.md").read_text()
    for line in pd.read_csv(ROOT / "docs" / "results" / "precision.csv").itertuples():
        shown = next(
            text
            for text in page.splitlines()
            if text.startswith(f"| {str(line.network).split()[0].strip(',')}, {line.sigma:g} ")
        )
        assert f"**{100 * float(line.coverage):.1f} %**" in shown
        assert f"**{line.passes_N:.2f}**" in shown
        assert f"| {line.full_passes_N} |" in shown


@pytest.mark.parametrize("page", [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"], ids=lambda page: page.stem)
def test_every_row_of_a_table_has_the_cells_of_its_head(page: Path) -> None:
    head = 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        cells = len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))) if line.startswith("|") else 0
        head = (head or cells) if cells else 0
        assert cells == head, f"{page.name}, line {number}"


def test_the_precision_page_shows_what_was_measured_under_severe_noise() -> None:
    page = (ROOT / "docs" / "precision.md").read_text()
    rows = pd.read_csv(ROOT / "docs" / "results" / "precision_severe.csv").set_index("noise_std_draws")
    low, found, high = (100 * rows.loc[150, f"coverage{end}"] for end in ("_low", "", "_high"))
    assert f"to 1,200 repetitions (seeds 0 to 1,199) it is {found:.1f} % ({low:.1f} to {high:.1f};" in page
    assert f"of 32 only {100 * rows.loc[32, 's_coverage']:.0f} %" in page


def test_the_speed_page_shows_what_was_measured() -> None:
    page = (ROOT / "docs" / "speed.md").read_text()
    for line in pd.read_csv(ROOT / "docs" / "results" / "speed_training_table.csv").itertuples():
        assert f"| {line.case} | {line.ratio:.2f} ({line.q1:.2f} to {line.q3:.2f}) | {line.rounds} |" in page
    rows = pd.read_csv(ROOT / "docs" / "results" / "speed_training.csv").query("noiserobust == '0.2.0'")
    plain = rows[rows["case"] == "plain"].groupby(["run", "round"])["seconds"].median()
    steps = rows[rows["case"] == "RWP"].set_index(["run", "round"])["seconds"] / plain
    assert f"(RWP: {', '.join(f'{one:.2f}' for one in steps.groupby('run').median())})" in page


@pytest.mark.parametrize("spec", ["resnet18:64", "wrn:28-10", "vit-s16:384", "transformer:64"])
def test_the_table_of_models_is_what_they_cost(spec: str) -> None:
    found = cost(spec)
    figures = f"{found.parameters:,} | {found.forward / 1e9:.4g} | {found.forward_backward / 1e9:.4g} |"
    (row,) = [line for line in (ROOT / "docs/models.md").read_text().splitlines() if line.startswith(f"| `{spec}` |")]
    assert row.endswith(figures)
