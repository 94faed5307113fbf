"""Result rows by unit of work: each is computed once, and stored while the evaluation goes on."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from noiserobust.errors import UserError
from noiserobust.storage.database import Database
from noiserobust.storage.files import known_to_write
from noiserobust.storage.identity import VARYING, functions_of, same_answer
from noiserobust.storage.locks import Claims
from noiserobust.storage.provenance import provenance
from noiserobust.storage.records import Keys, Record, condition_of, record_of, table_of
from noiserobust.storage.rows import OPERATION, ROWS

SEMANTICS = 2
"""Raise when a change makes the same evaluation give other values, so that no stale row is taken for a new one."""

UNIT = [
    *("weights", "data", "noise", "seed", "replicate", "draw", "read", "t"),
    *(*OPERATION, "analog", "precision", "device", "semantics"),
]
"""The columns that name a piece of work: a row that agrees in all of them is never computed twice."""

FURTHER = ("measure", "landscape")
"""Columns that only rows of another kind than :func:`noiserobust.evaluate`'s have."""

COMMIT_EVERY = 2.0  # seconds of work that a killed evaluation may lose
EXPORT_EVERY = 20.0  # seconds, and 50 times as long as an export takes

log = logging.getLogger("noiserobust")


class Ledger:
    """The rows of one evaluation, with those that a file already holds.

    Finished units go into a database beside the file (:class:`~noiserobust.storage.database.Database`) every few
    seconds, so that several processes may share one file: each takes over what another has finished, waits for what
    another computes now, and loses none. The file itself is brought up to date now and then, and by :meth:`close`.

    - ``path``: the file of rows (parquet, CSV or JSON lines, by its suffix); None keeps the rows in memory only.
    - ``further``: columns that name a unit besides :data:`UNIT`, where something else than accuracy is measured.
    - ``columns``: further columns of all rows, which do not name a unit.

    A stored row counts only for a network whose ``answer`` is the row's to rounding
    (:func:`~noiserobust.storage.identity.answer`); else its unit is computed anew and replaced.
    """

    def __init__(
        self, path: str | Path | None, further: Sequence[str] = (), columns: Mapping[str, Any] | None = None
    ) -> None:
        if path is not None:
            known_to_write(path, ROWS)
        self.path = None if path is None else Path(path)
        self.unit, self.columns = [*UNIT, *further], dict(columns or {})
        self._keys = Keys(self.unit)
        self._known: dict[bytes, tuple[str, dict[str, float]]] = {}
        self._versions: dict[bytes, dict[str, Any]] = {}
        self._unasked: dict[tuple[bytes, str], str] = {}
        """What stood with the values of functions that nobody asked for here: they keep it."""
        self._outdated: set[bytes] = set()
        self._noted: set[str] = set()
        self._conditions: dict[str, int] = {}
        self._records: list[Record] = []
        self._committed = 0
        self._commit_time = self._export_time = time.monotonic()
        self._export_seconds = 0.0
        self._database = None if self.path is None else Database(self.path, self.unit, self._check)
        self._claims = None if self._database is None else Claims(Path(f"{self._database.file}.lock"))

    def find(self, unit: Mapping[str, Any], metrics: Iterable[str] = ()) -> dict[str, float] | None:
        """What is known of ``unit``; ``None`` when that lacks one of the further ``metrics`` (and all of its parts)."""
        key, wanted = self._keys(unit), list(metrics)
        answered, values = self._known.get(key, ("", None))
        same = answered == unit.get("answer", "") or same_answer(answered, unit.get("answer", ""), unit["precision"])
        if same and _holds(values, wanted):
            return values
        values = self._stored(key, unit)
        if not _holds(values, wanted) and self._claims is not None:
            if not self._claims.claim(key):
                self._commit()  # nobody waits for what is waiting
                self._claims.release()
                self._claims.wait(key)
            values = self._stored(key, unit)  # another process may have finished it meanwhile
        if not _holds(values, wanted):
            self._versions.pop(key, None)
            return None
        return values

    def add(self, unit: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """Note the ``values`` of ``unit``."""
        key = self._keys(unit)
        # A stored unit keeps the versions that computed it.
        row = {**unit, **self.columns, **self._versions.get(key, {})}
        self._known[key] = unit.get("answer", ""), dict(values)
        for metric, value in values.items():
            of = row | {"answer": self._unasked[key, metric]} if (key, metric) in self._unasked else row
            condition = self._conditions.setdefault(condition_of(of), len(self._conditions))
            self._records.append(record_of(key, of, metric, value, condition))
        now = time.monotonic()
        if now - self._export_time > max(EXPORT_EVERY, 50 * self._export_seconds):
            self.save()
        elif now - self._commit_time > COMMIT_EVERY:
            self._commit()

    def table(self) -> pd.DataFrame:
        """The rows of this evaluation, tidy, in the order in which they were added."""
        conditions = dict(enumerate(map(json.loads, self._conditions)))
        return table_of(conditions, (record[2:] for record in self._records))

    def save(self) -> None:
        """Bring the file up to date: it holds what it held, the rows so far, and those of other processes."""
        if self._database is None:
            return
        self._commit()
        start = time.monotonic()
        self._database.export(list(self._conditions), self._records)
        self._export_time = time.monotonic()
        self._export_seconds = self._export_time - start

    def close(self) -> None:
        """:meth:`save`, once and for all."""
        if self._database is None:
            return
        try:
            self.save()
        finally:
            self._database.close()
            self._database = None
            if self._claims is not None:
                self._claims.close()

    def _commit(self) -> None:
        if self._database is not None and self._committed < len(self._records):
            self._database.put(list(self._conditions), self._records, self._committed, self._outdated)
            self._committed = len(self._records)
            self._outdated.clear()
            if self._claims is not None:
                self._claims.release()
        self._commit_time = time.monotonic()

    def _stored(self, key: bytes, unit: Mapping[str, Any]) -> dict[str, float] | None:
        """What the database knows of ``unit`` as this very network answers."""
        values: dict[str, float] = {}
        replaced, asked = False, functions_of(unit.get("answer", ""))
        for metric, value, condition in self._database.find(key) if self._database else []:
            if same_answer(unit.get("answer", ""), condition.get("answer", ""), unit["precision"]):
                values.setdefault(metric, value)
                if metric.partition("/")[0].replace(" ", "_") in functions_of(condition.get("answer", "")) - asked:
                    self._unasked[key, metric] = condition["answer"]
                self._versions[key] = {name: condition[name] for name in provenance() if name in condition}
            else:
                replaced |= condition["method"] == unit["method"]
        if replaced:
            self._outdated.add(key)
            self._note(unit)
        return values or None

    def _note(self, unit: Mapping[str, Any]) -> None:
        name = str(unit.get("model", unit["weights"]))
        if name in self._noted:
            return
        self._noted.add(name)
        if unit.get("answer") == VARYING:
            log.warning("%s: outputs vary from pass to pass, so that its rows in %s are computed anew", name, self.path)
        else:
            log.warning(
                "%s: outputs are not those with which its rows in %s were stored (a hook, another forward, metric or "
                "code of yours?); they are computed anew and replaced",
                name,
                self.path,
            )

    def _check(self, columns: Sequence[str]) -> None:
        """Refuse a table of rows that are not of this kind."""
        if lacking := [name for name in [*self.unit, "method", "metric"] if name not in columns]:
            raise UserError(
                f"expected evaluation rows in {self.path}, got a table without {', '.join(lacking)}; name another file"
            )
        if foreign := [name for name in FURTHER if name in columns and name not in self.unit]:
            raise UserError(
                f"expected rows of the same kind in {self.path}, got some that name their {foreign[0]}; "
                "name another file"
            )


def _holds(values: Mapping[str, float] | None, metrics: Iterable[str]) -> bool:
    """Whether every one of the ``metrics`` is there, as it is or in parts (``name/part``)."""
    return values is not None and all(
        metric in values or any(name.startswith(f"{metric}/") for name in values) for metric in metrics
    )
