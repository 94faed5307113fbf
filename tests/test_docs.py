"""The code on the documentation's pages runs as it stands, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("page", ["own_loop.md"])
def test_the_pages_code_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    with torch.random.fork_rng():
        for block in blocks:
            exec(compile(block, page, "exec"), names)
    printed = capsys.readouterr().out
    assert "epoch 1: loss" in printed
    assert "saf: remembers 1 epochs x 96 samples x 3 classes" in printed
