"""Tables of result rows on disk: one row per network, noise, draw and metric."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
from pandas.api.types import is_numeric_dtype
from pyarrow import parquet

from noiserobust.errors import UserError
from noiserobust.file_kinds import require_kind
from noiserobust.limits import WIDEST
from noiserobust.seals import BLANK, NAME, is_sound
from noiserobust.storage.files import known_to_write, require_sound, write_atomically
from noiserobust.storage.formats import read_csv, read_jsonl, write_csv, write_jsonl

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


ROWS = "file of rows"
TEXT_FORMATS = (".csv", ".jsonl")
"""Suffixes of rows as texts. Only parquet carries a checksum: what a person edits in the others counts."""


def write_rows(rows: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write a table of rows, whole or not at all, as its suffix says: parquet (sealed), CSV or JSON lines.

    Returns the path written.
    """
    kind = known_to_write(path, ROWS).suffix.lower()
    if kind in TEXT_FORMATS:
        return write_atomically(path, partial(write_csv if kind == ".csv" else write_jsonl, rows))
    table = pyarrow.Table.from_pandas(rows, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), NAME: BLANK})
    return write_atomically(path, lambda temporary: parquet.write_table(table, temporary))


def read_rows(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The rows that :func:`write_rows` wrote; :class:`UserError` when there is no such file, it is damaged or it is not
    of the format that its suffix says."""
    if os.path.isdir(path):
        raise UserError(
            f"expected a file of result rows (parquet), got the folder {path}; evaluate makes rows of the runs in one"
        )
    if not os.path.isfile(path):
        raise UserError(f"expected a file of result rows (parquet), got {path}, which is not a file; check the name")
    require_kind(path, "a file of result rows (parquet, csv, jsonl)", "rows")
    require_sound(Path(path), "take another copy, or move it away and compute it again")
    kind = Path(path).suffix.lower()
    try:
        if kind == ".csv":
            rows = read_csv(Path(path), frozenset([*TEXTS, *NAMES]))
        else:
            rows = read_jsonl(Path(path)) if kind == ".jsonl" else pd.read_parquet(path)
    except Exception as error:  # a damaged file raises what it likes, from several libraries
        if isinstance(error, MemoryError):
            raise
        kind = kind[1:] if kind in TEXT_FORMATS else "parquet"
        raise UserError(
            f"expected result rows ({kind}), got {path}, which cannot be read as {kind}; write it again"
        ) from None
    odd = "one name for several columns" if rows.columns.has_duplicates else _nested(rows)
    if odd:
        raise UserError(f"expected result rows of texts and numbers, got {odd} in {path}; write it again")
    return rows


def _nested(rows: pd.DataFrame) -> str:
    """The columns that hold lists and the like."""
    texts = [name for name in rows if rows[name].dtype == object]
    lists = (list, dict, tuple, np.ndarray)
    return ", ".join(str(name) for name in texts if any(isinstance(value, lists) for value in rows[name]))


def is_whole(path: Path) -> bool:
    """Whether ``path`` is a file of rows that can be read and is as it was written."""
    try:
        if path.suffix.lower() in TEXT_FORMATS:
            return not read_rows(path).empty
        parquet.ParquetFile(path).close()
        return is_sound(path)
    except Exception:
        return False


TEXTS = ("method", "metric", "task", "compensation", "converters", "backend", "subset", "analog", "precision", "model")
"""Columns of texts, never empty."""
# fmt: off
NAMES = ("noise", "layer_outputs", "inputs", "given", "data", "weights", "answer", "device", "noiserobust", "torch",
         "numpy", "python", "commit", "corruption")
# fmt: on
"""Further columns of texts, which may look like numbers."""
NUMBERS = ("value", "strength", "t", "recalibration", "seed", "semantics", "images", "x", "y", "target", "confidence")
"""Columns of numbers; missing ones are NaN."""
COUNTS = ("replicate", "draw", "read")
"""Columns of whole numbers from 0 on, never empty (training seeds, which replicates are, may be negative)."""
NEEDED = ("method", "replicate", "noise", "strength", "draw", "read", "t", "metric", "value")
"""Columns without which rows are none of an evaluation."""


def require_rows(rows: pd.DataFrame, path: object) -> pd.DataFrame:
    """``rows``, when they have the columns of an evaluation, each with values of its kind."""
    if missing := [name for name in NEEDED if name not in rows]:
        raise UserError(f"expected rows of an evaluation, got {path} without {', '.join(missing)}")
    if empty := [name for name in ("strength", "value") if not is_number(rows[name])]:
        raise UserError(f"expected a number as {empty[0]} of every row, got others in {path}; write it again")
    return require_kinds(rows, path)


def require_kinds(rows: pd.DataFrame, path: object) -> pd.DataFrame:
    """``rows``, when each column that is known has values of its kind."""
    for name in rows.columns:
        wrong = _wrong(str(name), rows[name])
        if wrong is not None:
            raise UserError(f"expected {wrong} as {name} of every row, got others in {path}; write it again")
    return rows


def _wrong(name: str, values: pd.Series[Any]) -> str | None:
    """What is expected in a column; None where it is so."""
    if name in TEXTS or (name == "noise" and (not is_number(values) or values.isna().any())):
        return None if all(isinstance(value, str) for value in values) else "a text"
    if name in NUMBERS and not (is_number(values) or values.isna().all()):
        return "a number"
    if name in COUNTS:
        whole = is_number(values) and not values.isna().any() and (values == values.round()).all()
        whole = whole and values.between(-WIDEST, WIDEST, inclusive="neither").all()
        return None if whole and (name == "replicate" or (values >= 0).all()) else "a whole number"
    if name == "strength" and is_number(values) and (values.abs() == math.inf).any():
        return "a finite number"
    if name == "t" and not (values.isna() | values.between(0, 1e18)).all():
        return "seconds from 0 to 1e18"
    return None


def is_number(values: pd.Series[Any]) -> bool:
    return bool(is_numeric_dtype(values)) and values.dtype != bool


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
