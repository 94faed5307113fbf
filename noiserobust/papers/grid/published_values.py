"""What a paper prints, transcribed cell by cell (``papers/published/<paper>.csv``)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent.parent / "published"


@dataclass(frozen=True)
class Published:
    """One printed number, and its spreads over noise draws and over trained models; NaN where the paper has none."""

    value: float = math.nan
    noise_std: float = math.nan
    weight_std: float = math.nan


@cache
def published(paper: str) -> dict[tuple[str, str, str, str], Published]:
    """The printed numbers of ``paper`` by (artefact, row, column, quantity); cells that the text lost are left out."""
    table = pd.read_csv(FOLDER / f"{paper}.csv").astype({"value": float, "noise_std": float, "weight_std": float})
    known = table[table["value"].notna()].itertuples(index=False)
    return {tuple(line[:4]): Published(*line[4:]) for line in known}
