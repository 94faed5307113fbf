"""What evaluate and report print and draw from rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from noiserobust.evaluation import paired, summarize
from noiserobust.report import paired_table, robustness_table
from noiserobust.results import write_atomically


def present(rows: pd.DataFrame, plot: Path | None, table: Path | None, baseline: str | None = None) -> None:
    """Print the table (and differences from the baseline); write it and the picture where asked."""
    summary = summarize(rows)
    print(robustness_table(summary) + "\n")
    text = robustness_table(summary, markdown=True) + "\n"
    if baseline is not None:
        for method in rows["method"].unique():
            if method != baseline:
                differences = paired_table(paired(rows, method, baseline))
                print(differences + "\n")
                text += f"\n```\n{differences}\n```\n"
    if table is not None:
        print(f"table: {write_atomically(table, lambda file: file.write_text(text))}")
    if plot is not None:
        from noiserobust.report.plots import accuracy_against_strength, accuracy_against_time

        draw = accuracy_against_time if summary["t"].nunique() > 1 else accuracy_against_strength
        print(f"picture: {draw(summary, plot)}")
