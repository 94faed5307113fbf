"""Tables of result rows on disk: one row per network, noise, draw and metric."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
from pyarrow import parquet

from noiserobust.errors import UserError
from noiserobust.seals import BLANK, NAME, is_sound
from noiserobust.storage.files import require_sound, write_atomically

OPERATION: dict[str, Any] = {
    "task": "classification",
    "compensation": "none",
    "recalibration": 0,
    "converters": "none",
    "backend": "direct",
    "subset": "all",
    "layer_outputs": "quiet",
}
"""Columns that say for which task and on which images chips were operated, and how, with what holds in files that lack
them: classification, no drift compensation, no recalibration of batch norms, ideal converters, the network itself as
what computes, all images, no output noise that only settings of single layers bring."""


OUTPUT_NOISE = {
    "converters": r"\b(?:noise|shot)=",
    "backend": r"^(?!direct$)(?!.*\bperfect=true)(?!.*\bout_noise=0\.0(?!\d))",
    "layer_outputs": "noisy",
}
"""What in a column says that outputs are noisy (of a configuration of one's own it is not known that they are not)."""


def write_rows(rows: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write a table of rows as parquet, sealed, whole or not at all; returns the path written."""
    table = pyarrow.Table.from_pandas(rows, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), NAME: BLANK})
    return write_atomically(path, lambda temporary: parquet.write_table(table, temporary))


def read_rows(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The rows that :func:`write_rows` wrote; :class:`UserError` when there is no such file, it is damaged or it is not
    parquet."""
    if not Path(path).is_file():
        raise UserError(f"expected a file of result rows (parquet), got {path}, which is not a file; check the name")
    require_sound(Path(path), "take another copy, or move it away and compute it again")
    try:
        return pd.read_parquet(path)
    except Exception as error:  # a damaged file raises what it likes, from several libraries
        if isinstance(error, MemoryError):
            raise
        raise UserError(
            f"expected result rows (parquet), got {path}, which cannot be read as parquet; write it again"
        ) from None


def is_whole(path: Path) -> bool:
    """Whether ``path`` is a file of rows that can be read and is as it was written."""
    try:
        parquet.ParquetFile(path).close()
        return is_sound(path)
    except Exception:
        return False


def completed(rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` with every column of :data:`OPERATION`: files written before there were any lack them."""
    return rows.assign(**{name: value for name, value in OPERATION.items() if name not in rows})


def noise_free(rows: pd.DataFrame) -> pd.Series[bool]:
    """Which rows (or lines of a summary) are noise-free: strength 0, no part of a composition (pcm+gaussian:0), and
    no noise of the outputs, which the converters, single layers or the backend may have."""
    free = (rows["strength"] == 0) & ~rows["noise"].str.contains("+", regex=False)
    for column, noisy in OUTPUT_NOISE.items():
        if column in rows:
            free &= ~rows[column].fillna("").str.contains(noisy)
    return free
