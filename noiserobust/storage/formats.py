"""Tables as text: CSV and JSON lines from which every value and its type come back exactly."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
from pandas.api.types import is_bool_dtype, is_float_dtype, is_integer_dtype
from pyarrow import csv as arrow_csv

HEAD = re.compile(r'("(?:[^"]|"")*"|[^,"\r\n]*)(,|\r?\n|\r|$)')
"""One name of the first line of a CSV file, and what ends it."""


def write_csv(rows: pd.DataFrame, path: Path) -> None:
    """CSV in which texts stand in quotes and numbers do not, in the first line, too: by it a text that looks like a
    number stays one. Floats have a point or an exponent; what is missing is empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(_quoted(name) if _is_text(rows[name]) else str(name) for name in rows) + "\n")
        for line in zip(*(map(_cell_of(rows[name]), rows[name].tolist()) for name in rows), strict=True):
            file.write(",".join(line) + "\n")


def read_csv(path: Path, texts: frozenset[str]) -> pd.DataFrame:
    """What :func:`write_csv` wrote, or another program's CSV, in which the columns ``texts`` are texts and what others
    are shows in their values."""
    content = path.read_bytes().decode("utf-8-sig")
    heads, end = [], 0
    while True:
        match = HEAD.match(content, end)
        if match is None:
            raise ValueError("the first line is none of names")
        heads.append(match[1])
        end = match.end()
        if match[2] != ",":
            break
    names = next(csv.reader([",".join(heads)]))
    quoted = [head.startswith('"') for head in heads]
    ours = any(quoted) and not all(quoted)
    kinds = {
        name: pyarrow.string() for name, text in zip(names, quoted, strict=True) if (text if ours else name in texts)
    }
    table = arrow_csv.read_csv(
        io.BytesIO(content[end:].encode()) if content[end:].strip() else io.BytesIO(b"\n"),
        read_options=arrow_csv.ReadOptions(column_names=names),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=kinds,
            null_values=["", "nan", "NaN", "NA"] if not ours else [""],
            strings_can_be_null=ours,
            quoted_strings_can_be_null=False,
        ),
    )
    return _numbers(table.to_pandas())


def write_jsonl(rows: pd.DataFrame, path: Path) -> None:
    """One JSON object a line. What is missing is null, and infinity the number 1e999, which is valid and reads back."""
    heads = [json.dumps(str(name)) + ": " for name in rows]
    with path.open("w", encoding="utf-8") as file:
        columns = (map(_json, rows[name].tolist()) for name in rows)
        for line in zip(*columns, strict=True):
            file.write("{" + ", ".join(map(str.__add__, heads, line)) + "}\n")


def read_jsonl(path: Path) -> pd.DataFrame:
    """What :func:`write_jsonl` wrote, or another program's objects."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not all(isinstance(line, dict) for line in lines):
        raise ValueError("a line is no object")
    return _numbers(pd.DataFrame(lines))


def _numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` in which a column without any value is one of numbers."""
    empty = [name for name in rows if len(rows) and rows[name].dtype == object and rows[name].isna().all()]
    return rows.astype(dict.fromkeys(empty, float))


def _is_text(column: pd.Series[Any]) -> bool:
    return not (is_float_dtype(column) or is_integer_dtype(column) or is_bool_dtype(column))


def _cell_of(column: pd.Series[Any]) -> Callable[[Any], str]:
    if not _is_text(column):
        return lambda value: "" if value != value else repr(value)
    return lambda value: "" if value is None or value != value else _quoted(value)


def _quoted(value: object) -> str:
    return '"' + str(value).replace('"', '""') + '"'


def _json(value: Any) -> str:
    if value is None or value != value:
        return "null"
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    return json.dumps(value, default=str)
