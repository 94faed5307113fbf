"""Rows of several files together: each once, those that were asked for, and none that belong to another study."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import pandas as pd

from noiserobust.errors import UserError
from noiserobust.storage import conditions
from noiserobust.storage.ledger import FURTHER, UNIT
from noiserobust.storage.provenance import provenance
from noiserobust.storage.rows import completed, read_rows, require_rows

TOLD_APART = ("precision", "seed", "images", "semantics", "device", "analog", "data", "weights")
"""Columns in which rows of one place most often differ: those that say more come first."""

ASIDE = ("inputs", "recalibration", "converters", "analog", "layer_outputs")
"""Columns whose values change the hash ``data`` of one data set: its normalisation, and what is calibrated on it."""


def stored(path: str | PathLike[str]) -> pd.DataFrame:
    """The rows of one file, with the columns that older files lack."""
    rows = require_rows(completed(read_rows(path)), path)
    if "landscape" in rows and rows["landscape"].notna().any():
        raise UserError(f"expected rows of networks, got a landscape around them in {path}; leave it out")
    return rows


def together(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of several tables, each once."""
    rows = pd.concat(tables, ignore_index=True)
    if "noise" in rows:  # other tools may write a bare number
        rows["noise"] = rows["noise"].astype(str)
    unit = [*UNIT, "method", "metric", *(name for name in FURTHER if name in rows)]
    if set(unit) <= set(rows):  # nor do they name units of work: their rows are all kept
        rows = rows[~rows.duplicated(unit) | rows["weights"].isna()].reset_index(drop=True)
    return rows


def chosen(rows: pd.DataFrame, condition: str | None) -> pd.DataFrame:
    """The rows of which ``condition`` holds; :class:`UserError` where there are none."""
    rows = rows if condition is None else conditions.where(rows, condition)
    if rows.empty:
        raise UserError(f"expected rows of which '{condition}' holds, got none" if condition else "expected rows")
    return rows


def require_alike(rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` that one table can hold; else :class:`UserError` with the conditions that take them apart.

    Rows of two tasks, of two data sets or samples of one, or of whole passes and subsets of images do not belong
    together. One data set that is normalised in two ways has two hashes, and is one.
    """
    if (rows["subset"] != "all").nunique() > 1:
        raise _unlike("whole passes or rows evaluated to a precision, got both", ["subset == 'all'", "subset != 'all'"])
    for column, what in {"task": "one task", "images": "one number of images", "data": "one data set"}.items():
        if column not in rows:
            continue
        values = rows[column].dropna().drop_duplicates().tolist()
        if column == "data":  # those of one normalisation and calibration alone can be compared
            groups = rows.dropna(subset=["data"]).groupby([name for name in ASIDE if name in rows], dropna=False)
            values = next((list(kinds) for kinds in groups["data"].unique() if len(kinds) > 1), [])
        if len(values) > 1:
            raise _unlike(f"{what}, got {len(values)}", [f"{column} == {_quoted(value)}" for value in values])
    return rows


def told_apart(twins: pd.DataFrame) -> str:
    """How to choose among rows that measure one thing several times: every column in which they differ, with its
    values, and conditions on the first of them; "" where they differ in none."""
    names = dict.fromkeys(name for name in (*TOLD_APART, *UNIT) if name in twins)
    differing = {name: twins[name].drop_duplicates().tolist() for name in names}
    differing = {name: values for name, values in differing.items() if len(values) > 1}
    if not differing:
        return ""
    shown = (f"{name} ({', '.join(map(_quoted, values[:4]))})" for name, values in differing.items())
    column, values = next(iter(differing.items()))
    ways = " or ".join(f'--where "{column} == {_quoted(value)}"' for value in values[:4] if value == value)
    return f"they differ in {' and in '.join(shown)}: choose with {ways}"


def wide(rows: pd.DataFrame) -> pd.DataFrame:
    """Tidy ``rows`` with a column per metric in place of ``metric`` and ``value``; missing ones are NaN.

    Each line is one measured thing (a model under a condition, a draw), and stays apart from all others: nothing is
    averaged. :class:`UserError` where a metric was measured twice of it.
    """
    if missing := {"metric", "value"} - set(rows):
        raise UserError(f"expected tidy rows, got a table without {', '.join(sorted(missing))}")
    versions = [name for name in provenance() if name in rows]  # a metric may have been added by a later one
    keys = [name for name in rows if name not in ("metric", "value", *versions)]
    number = rows.groupby(keys, sort=False, dropna=False, observed=True).ngroup()
    doubled = pd.DataFrame({"line": number, "metric": rows["metric"]}).duplicated()
    if doubled.any():
        first = rows[doubled].iloc[0]
        raise UserError(f"expected one value of {first['metric']} per line, got several; drop doubled rows")
    values = pd.DataFrame({name: rows["value"][rows["metric"] == name] for name in rows["metric"].unique()})
    values = values.groupby(number, sort=True).first()
    heads = rows[[name for name in rows if name not in ("metric", "value")]][~number.duplicated()]
    return pd.concat([heads.reset_index(drop=True), values.reset_index(drop=True)], axis=1)


def _quoted(value: object) -> str:
    if not isinstance(value, str):
        return f"{value:.15g}"
    return f"'{value}'" if "'" not in value else f'\\"{value}\\"'


def _unlike(what: str, ways: Sequence[str]) -> UserError:
    more = f" (or {len(ways) - 4} more)" if len(ways) > 4 else ""
    return UserError(f"expected rows of {what}; choose with " + " or ".join(f'--where "{w}"' for w in ways[:4]) + more)
