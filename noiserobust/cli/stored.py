"""Rows that commands wrote, read again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from noiserobust.errors import UserError
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
    if where is not None:
        try:
            rows = rows.query(where)
        except Exception as error:  # whatever the expression does wrong
            columns = ", ".join(map(str, rows.columns))
            raise UserError(f"expected a condition on {columns}, got '{where}': {error}") from None
        if rows.empty:
            raise UserError(f"expected rows of which '{where}' holds, got none")
    if (rows["subset"] != "all").nunique() > 1:
        raise UserError(
            "expected rows of whole passes or rows evaluated to a precision, got both; "
            "choose with --where \"subset == 'all'\" or \"subset != 'all'\""
        )
    return rows
