"""What a command answers, piece by piece, and its two printers: one for people, one for programs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import noiserobust
from noiserobust.cli.faults import told
from noiserobust.errors import printable
from noiserobust.limits import TABLE_WIDTH

NARROWEST = 40
"""Columns below which tables are not made narrower."""
LONG = 10**6


@dataclass(frozen=True)
class Part:
    """A piece of an answer: a ``text`` for people, ``notes`` that --quiet leaves out, and ``values`` for programs.

    Equal keys of several pieces are put together where they hold lists or dictionaries.
    """

    text: str = ""
    notes: Sequence[object] = ()
    values: Mapping[str, Any] = field(default_factory=dict)


def print_for_people(parts: Iterator[Part], quiet: bool) -> None:
    """Print every piece as it comes, in the width of the terminal; of a file or pipe, 140 columns."""
    columns = shutil.get_terminal_size((0, 0)).columns
    before = TABLE_WIDTH.set(max(columns, NARROWEST) if columns else TABLE_WIDTH.get())
    try:
        for part in parts:
            _print(part, columns, quiet)
    finally:
        TABLE_WIDTH.reset(before)


def _print(part: Part, columns: int, quiet: bool) -> None:
    notes = [] if quiet else list(part.notes)
    if part.text:
        lines = [line for text in part.text.split("\n") for line in _fitted(printable(text, LONG), columns)]
        print("\n".join([*lines, ""] if notes else lines))
    for note in notes:
        print(printable(note, LONG))
    if part.text or notes:
        sys.stdout.flush()


def print_for_programs(command: str, parts: Iterator[Part]) -> None:
    """Print all pieces as one JSON object, with the ``error`` that came between; what others print goes to stderr."""
    answer: dict[str, Any] = {"command": command, "noiserobust": noiserobust.__version__}
    try:
        with redirect_stdout(sys.stderr):
            for part in parts:
                _join(answer, part.values)
    except (Exception, SystemExit) as error:
        answer["error"], _ = told(error, quiet=True)
        raise
    finally:
        # Of several processes of one training the first speaks for all.
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt) and os.environ.get("RANK", "0") == "0":
            print(json.dumps(plain(answer), indent=2, allow_nan=False))


def plain(value: Any) -> Any:
    """``value`` as JSON has it: tables are lists of objects, numbers that are not finite null, all else texts.

    >>> plain({"mean": float("nan"), "files": ("a.png", None)})
    {'mean': None, 'files': ['a.png', None]}
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    if hasattr(value, "to_dict"):  # a table
        return [plain(line) for line in value.to_dict("records")]
    if hasattr(value, "tolist"):  # numpy's
        return plain(value.tolist())
    if dataclasses.is_dataclass(value) and type(value).__str__ is object.__str__:
        return plain({one.name: getattr(value, one.name) for one in dataclasses.fields(value)})
    return None if value != value else str(value)


def _join(answer: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        before = answer.get(name)
        if isinstance(before, list) and isinstance(value, list):
            answer[name] = before + value
        elif isinstance(before, dict) and isinstance(value, Mapping):
            answer[name] = {**before, **value}
        else:
            answer[name] = value


def _fitted(line: str, columns: int) -> list[str]:
    """A line of prose in lines of so many columns; tables are made to fit, and commands are to be copied."""
    if not columns or len(line) <= columns or re.search(r"\S {2,}\S", line) or line.startswith("noiserobust "):
        return [line]
    return textwrap.wrap(line, columns, break_long_words=False, break_on_hyphens=False)
