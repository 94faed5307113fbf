"""What a paper prints, transcribed cell by cell (``papers/published/<paper>.csv``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent.parent / "published"


@dataclass(frozen=True)
class Published:
    """One printed number; its spread over noise draws and over trained models where the paper gives them."""

    value: float
    noise_std: float | None = None
    weight_std: float | None = None


@cache
def published(paper: str) -> dict[tuple[str, str, str, str], Published]:
    """The printed numbers of ``paper`` by (artefact, row, column, quantity); cells that the text lost are left out."""
    table = pd.read_csv(FOLDER / f"{paper}.csv").astype({"value": float, "noise_std": float, "weight_std": float})
    cells = {}
    for line in table[table["value"].notna()].to_dict("records"):
        spreads = (None if pd.isna(line[name]) else line[name] for name in ("noise_std", "weight_std"))
        cells[line["artefact"], line["row"], line["column"], line["quantity"]] = Published(line["value"], *spreads)
    return cells
