"""Accuracies that were evaluated to a precision, as text."""

from __future__ import annotations

import math

import pandas as pd

from noiserobust.report.leading import quantity_of
from noiserobust.report.table import GAP, aligned, as_markdown, at_time, variant


def precision_table(summary: pd.DataFrame, markdown: bool = False) -> str:
    """One line per model and noise: ``76.71 ± 0.50``, draws, images per draw, images' forward passes.

    Takes what ``summarize_to_precision`` of ``noiserobust.evaluation.precision.to_precision`` returns. A line that gave
    up says so. The noise's standard deviation is shown where it was measured.
    """
    std = bool(summary["noise_std"].notna().any())
    metric = str(summary["metric"].iloc[0])
    unit, form, _ = quantity_of(summary, metric)
    header = ["method", "replicate", "noise", metric, "draws", "images per draw", "image passes"]
    grid = [[*header, *(["noise std"] if std else [])]]
    for _, line in summary.iterrows():
        noise = line["noise"] + at_time(line["t"]) + variant({**line, "subset": "all"})
        accuracy = f"{line['mean']:{form}} ± {line['half_width']:{form}}"
        if not line["reached"]:
            accuracy += f" (not ± {line['target']:g}: gave up)"
        cells = [line["method"], str(line["replicate"]), noise, accuracy]
        cells += [f"{line[name]:,}" for name in ("draws", "images_per_draw", "image_forwards")]
        if std:
            low, high = line["noise_std_low"], line["noise_std_high"]
            cells.append(GAP if math.isnan(low) else f"{line['noise_std']:{form}} [{low:{form}}, {high:{form}}]")
        grid.append(cells)
    measured = f"{metric} in {unit}" if unit else metric
    percent = 100 * summary["confidence"].iloc[0]
    caption = (
        f"{measured}: mean ± half the {percent:g} % interval, over noise draws at each model; image passes: beside "
        "one clean pass per model"
    )
    if not summary["reached"].all():
        caption += "; what gave up is ± what it came to: more draws or images (max_draws, max_images) get further"
    return f"{(as_markdown if markdown else aligned)(grid)}\n\n{caption}"
