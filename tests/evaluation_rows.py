"""Evaluation rows made of plain numbers, and the one line of a summary."""

from __future__ import annotations

import math

import pandas as pd

COLUMNS = ["model", "method", "replicate", "noise", "strength", "draw", "read", "t", "metric", "value"]


def table(
    values: dict[int, list[float]], method: str = "sgd", noise: str = "gaussian:0.1", **extra: object
) -> pd.DataFrame:
    """Rows from ``{replicate: values by draw}``."""
    rows = [
        (f"{method}-{replicate}.pt", method, replicate, noise, 0.1, draw, 0, math.nan, "accuracy", value)
        for replicate, by_draw in values.items()
        for draw, value in enumerate(by_draw)
    ]
    return pd.DataFrame(rows, columns=COLUMNS).assign(**extra)


def only(frame: pd.DataFrame) -> dict[str, object]:
    (line,) = frame.to_dict("records")
    return line
