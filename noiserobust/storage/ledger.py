"""Rows by unit of work: what is done is never done twice, and lands on disk while the work goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from noiserobust.errors import UserError
from noiserobust.storage.rows import VARIANT, completed, read_rows, write_rows

SEMANTICS = 1
"""Raise when a change makes the same evaluation give other values, so that no stale row is taken for a new one."""

UNIT = [
    *("weights", "data", "noise", "seed", "replicate", "draw", "read", "t"),
    *(*VARIANT, "analog", "precision", "device", "semantics"),
]
"""The columns that name a piece of work: a row that agrees in all of them is never computed twice."""

FURTHER = ("measure", "landscape")
"""Columns that only rows of another kind than :func:`noiserobust.evaluate`'s have."""

SAVE_EVERY = 20.0  # seconds of work that a killed evaluation may lose


class Ledger:
    """Rows by unit of work, with those that a file already holds.

    ``further`` are columns that name a unit besides :data:`UNIT`, where something else than accuracy is measured.
    """

    def __init__(self, path: Path | None, further: Sequence[str] = ()) -> None:
        self.path = path
        self.unit = [*UNIT, *further]
        if path is not None and path.is_dir():
            raise UserError(f"expected a file for the rows, got the folder {path}; add a file name")
        needed = [*self.unit, "method", "metric"]
        there = path is not None and path.is_file()
        self.stored = completed(read_rows(path)) if path is not None and there else pd.DataFrame(columns=needed)
        lacking = [name for name in needed if name not in self.stored]
        if lacking:
            raise UserError(
                f"expected evaluation rows in {path}, got a table without {', '.join(lacking)}; name another file"
            )
        if foreign := [name for name in FURTHER if name in self.stored and name not in self.unit]:
            raise UserError(
                f"expected rows of the same kind in {path}, got some that name their {foreign[0]}; name another file"
            )
        self.known: dict[tuple[Any, ...], dict[str, float]] = {}
        for row in self.stored.to_dict("records"):
            self.known.setdefault(self._key(row), {})[row["metric"]] = row["value"]
        self.rows: list[dict[str, Any]] = []
        self._places: list[tuple[int, ...]] = []
        self.saved = time.monotonic()

    def find(self, unit: Mapping[str, Any], metrics: Iterable[str] = ()) -> dict[str, float] | None:
        """What is known of ``unit``; ``None`` when that lacks one of the further ``metrics``."""
        values = self.known.get(self._key(unit))
        return values if values is not None and all(metric in values for metric in metrics) else None

    def add(self, unit: Mapping[str, Any], values: Mapping[str, float], place: tuple[int, ...] = ()) -> None:
        """Note the ``values`` of ``unit``; tables are sorted by ``place``, whatever the order in which work is done."""
        self.known[self._key(unit)] = dict(values)
        self.rows += [{**unit, "metric": m, "value": v} for m, v in values.items()]
        self._places += [place] * len(values)
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()

    def table(self) -> pd.DataFrame:
        first = ["model", "method", "replicate", "noise", "strength", "draw", "read", "t", *VARIANT, "metric", "value"]
        order = sorted(range(len(self.rows)), key=self._places.__getitem__)
        table = pd.DataFrame([self.rows[index] for index in order])
        return table[[*first, *(name for name in table if name not in first)]]

    def save(self) -> None:
        """The file holds what it held and the rows so far; rows of the same unit and method are replaced."""
        self.saved = time.monotonic()
        if self.path is None or not self.rows:
            return
        new = self.table()
        done = {(self._key(row), row["method"]) for row in self.rows}
        kept = self.stored[[(self._key(row), row["method"]) not in done for row in self.stored.to_dict("records")]]
        write_rows(new if kept.empty else pd.concat([kept, new], ignore_index=True), self.path)

    def _key(self, row: Mapping[Any, Any]) -> tuple[Any, ...]:
        # NaN (no time named) equals nothing, itself included.
        values = (row[name] for name in self.unit)
        return tuple(None if isinstance(value, float) and math.isnan(value) else value for value in values)
