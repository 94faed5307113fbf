"""What evaluate and report print and draw from rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from noiserobust.errors import UserError
from noiserobust.evaluation import paired, summarize
from noiserobust.evaluation.to_precision import over_models, summarize_to_precision
from noiserobust.report import paired_table, precision_table, robustness_table
from noiserobust.results import completed, write_atomically


def present(rows: pd.DataFrame, plot: Path | None, table: Path | None, baseline: str | None = None) -> None:
    """Print the table (and differences from the baseline); write it and the picture where asked."""
    subsets = completed(rows)["subset"] != "all"
    if subsets.any():
        if not subsets.all():
            raise UserError(
                "expected rows of whole passes or rows evaluated to a precision, got both; "
                "choose with --where \"subset == 'all'\" or \"subset != 'all'\""
            )
        return _present_precise(rows, plot, table, baseline)
    summary = summarize(rows)
    print(robustness_table(summary) + "\n")
    text = robustness_table(summary, markdown=True) + "\n"
    if baseline is not None:
        for method in rows["method"].unique():
            if method != baseline:
                differences = paired_table(paired(rows, method, baseline))
                print(differences + "\n")
                text += f"\n```\n{differences}\n```\n"
    _write(text, summary, plot, table)
    return None


def _present_precise(rows: pd.DataFrame, plot: Path | None, table: Path | None, baseline: str | None) -> None:
    if baseline is not None:
        raise UserError("expected rows of whole passes to compare with a baseline, got some to a precision")
    summary = summarize_to_precision(rows)
    print(precision_table(summary) + "\n")
    _write(precision_table(summary, markdown=True) + "\n", over_models(summary), plot, table)


def _write(text: str, summary: pd.DataFrame, plot: Path | None, table: Path | None) -> None:
    if table is not None:
        print(f"table: {write_atomically(table, lambda file: file.write_text(text))}")
    if plot is not None:
        from noiserobust.report.plots import accuracy_against_strength, accuracy_against_time

        draw = accuracy_against_time if summary["t"].nunique() > 1 else accuracy_against_strength
        print(f"picture: {draw(summary, plot)}")
