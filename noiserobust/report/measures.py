"""Measures as text: a line per measure, perturbation and method."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from noiserobust.report.table import GAP, aligned, as_markdown, sizes


def measure_table(summary: pd.DataFrame, markdown: bool = False) -> str:
    """Mean, standard deviations over draws and over trained models, and the interval of every measure.

    Single layers' ratios (``max_over_rms/<weight>``) are left to the rows; the mean and the largest are shown.
    """
    names = summary["metric"]
    shown = summary[~names.str.startswith("max_over_rms/") | (names == "max_over_rms/largest")]
    confidence = f"{100 * shown['confidence'].iloc[0]:g} %"
    header = ["measure", "at", "method", "mean", "± draws", "± models", confidence, "over"]
    body = [_line(line) for line in shown.to_dict("records")]
    return (as_markdown if markdown else aligned)([header, *body])


def _line(line: dict[Any, Any]) -> list[str]:
    numbers = [line["mean"], line["noise_std"], line["weight_std"]]
    interval = GAP if math.isnan(line["low"]) else f"{_number(line['low'])} to {_number(line['high'])}"
    place = "" if line["noise"] == "none" else line["noise"]
    over = sizes(pd.DataFrame([line]))
    return [line["metric"], place, line["method"], *map(_number, numbers), interval, over]


def _number(value: float) -> str:
    return GAP if math.isnan(value) else f"{value:.4g}"
