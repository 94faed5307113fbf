"""Measures as text: a line per measure, perturbation and method."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from noiserobust.report.table import _sizes, aligned, as_markdown


def measure_table(summary: pd.DataFrame, markdown: bool = False) -> str:
    """Mean, standard deviations over draws and over trained models, and the interval of every measure.

    Single layers' ratios (``max_over_rms/<weight>``) are left to the rows; the mean and the largest are shown.
    """
    names = summary["metric"]
    shown = summary[~names.str.startswith("max_over_rms/") | (names == "max_over_rms/largest")]
    header = [
        "measure",
        "at",
        "method",
        "mean",
        "± draws",
        "± models",
        f"{100 * shown['confidence'].iloc[0]:g} %",
        "over",
    ]
    body = [_line(line) for line in shown.to_dict("records")]
    return (as_markdown if markdown else aligned)([header, *body])


def _line(line: dict[Any, Any]) -> list[str]:
    numbers = [line["mean"], line["noise_std"], line["weight_std"]]
    interval = "–" if math.isnan(line["low"]) else f"{_number(line['low'])} to {_number(line['high'])}"
    place = "" if line["noise"] == "none" else line["noise"]
    over = f"{_sizes(pd.DataFrame([line]))}"
    return [line["metric"], place, line["method"], *map(_number, numbers), interval, over]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"
