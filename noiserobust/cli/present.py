"""What the commands read, print and draw of rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from noiserobust.errors import UserError
from noiserobust.evaluation import paired, summarize
from noiserobust.evaluation.precision.to_precision import over_models, summarize_to_precision
from noiserobust.evaluation.statistics.components import Design
from noiserobust.report import paired_table, precision_table, robustness_table
from noiserobust.storage.files import write_atomically
from noiserobust.storage.ledger import UNIT
from noiserobust.storage.rows import completed, read_rows


def stored_rows(paths: Sequence[Path], where: str | None = None) -> pd.DataFrame:
    """The rows of several files, each once, of which the condition ``where`` holds."""
    if not paths:
        raise UserError("expected files of rows, got none; evaluate writes them")
    rows = pd.concat([completed(read_rows(path)) for path in paths], ignore_index=True)
    if "noise" in rows:  # other tools may write a bare number
        rows["noise"] = rows["noise"].astype(str)
    unit = [*UNIT, "method", "metric"]
    if set(unit) <= set(rows):  # nor do they name units of work: their rows are all kept
        rows = rows[~rows.duplicated(unit) | rows["weights"].isna()].reset_index(drop=True)
    if where is None:
        return rows
    try:
        rows = rows.query(where)
    except Exception as error:  # whatever the expression does wrong
        columns = ", ".join(map(str, rows.columns))
        raise UserError(f"expected a condition on {columns}, got '{where}': {error}") from None
    if rows.empty:
        raise UserError(f"expected rows of which '{where}' holds, got none")
    return rows


def present(
    rows: pd.DataFrame,
    plot: Path | None,
    table: Path | None,
    baseline: str | None = None,
    design: Design = "nested",
    intervals: bool = False,
    metric: str = "accuracy",
) -> None:
    """Print the table (and differences from the baseline); write it and the picture where asked."""
    subsets = completed(rows)["subset"] != "all"
    if subsets.any():
        if not subsets.all():
            raise UserError(
                "expected rows of whole passes or rows evaluated to a precision, got both; "
                "choose with --where \"subset == 'all'\" or \"subset != 'all'\""
            )
        return _present_precise(rows, plot, table, baseline)
    summary = summarize(rows, design=design)
    print(robustness_table(summary, metric, intervals=intervals) + "\n")
    text = robustness_table(summary, metric, markdown=True, intervals=intervals) + "\n"
    if baseline is not None:
        for method in rows["method"].unique():
            if method != baseline:
                differences = paired_table(paired(rows, method, baseline, metric=metric, design=design))
                print(differences + "\n")
                text += f"\n```\n{differences}\n```\n"
    _write(text, summary, plot, table, metric)
    return None


def _present_precise(rows: pd.DataFrame, plot: Path | None, table: Path | None, baseline: str | None) -> None:
    if baseline is not None:
        raise UserError("expected rows of whole passes to compare with a baseline, got some to a precision")
    summary = summarize_to_precision(rows)
    print(precision_table(summary) + "\n")
    _write(precision_table(summary, markdown=True) + "\n", over_models(summary), plot, table)


def _write(text: str, summary: pd.DataFrame, plot: Path | None, table: Path | None, metric: str = "accuracy") -> None:
    if table is not None:
        print(f"table: {write_atomically(table, lambda file: file.write_text(text))}")
    if plot is not None:
        from noiserobust.report import plots
        from noiserobust.report.area_plot import area_figure

        over_time = summary["t"].nunique() > 1
        draw = area_figure if metric == "area" else plots.time_figure if over_time else plots.strength_figure
        print(f"picture: {plots.save(draw(summary), plot)}")
