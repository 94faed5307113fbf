"""Result rows in compact form: what many of them share is kept once, and each has a key."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from noiserobust.storage.rows import OPERATION, completed

WITHIN = ("draw", "read", "t", "x", "y")
"""The columns that differ within a condition: one network under one noise, on chips operated in one way. x and y are
a landscape's."""

FIRST = ["model", "method", "replicate", "noise", "strength", "draw", "read", "t", *OPERATION, "metric", "value"]
"""The columns of a table that come first, in this order."""


class Record(NamedTuple):
    """One row: one metric of a unit of work, its condition by number, and the columns that differ within it."""

    key: bytes
    """The unit's (:class:`Keys`)."""
    method: str
    metric: str
    value: float | None
    condition: int
    draw: int
    read: int
    t: float | None
    x: float | None = None
    y: float | None = None

    @property
    def fits(self) -> bool:
        """Whether its values are of these types: SQLite takes others, too."""
        counts, measured = (self.condition, self.draw, self.read), (self.value, self.t, self.x, self.y)
        texts = isinstance(self.key, bytes) and isinstance(self.method, str) and isinstance(self.metric, str)
        numbers = all(one is None or isinstance(one, (int, float)) for one in measured)
        return texts and numbers and all(isinstance(one, int) for one in counts)


VALUES = Record._fields[2:]
"""The fields of a record that a table is made of."""


class Keys:
    """Keys of units of work: 16 bytes from the values of the columns ``unit``, whatever the type that holds them."""

    def __init__(self, unit: Sequence[str]) -> None:
        self.shared = [name for name in unit if name not in WITHIN]
        self.within = [name for name in unit if name in WITHIN]

    def __call__(self, row: Mapping[Any, Any]) -> bytes:
        return self.of_condition(row)(row)

    def of_condition(self, condition: Mapping[Any, Any]) -> Callable[[Mapping[Any, Any]], bytes]:
        """What gives the keys of rows that share ``condition``."""
        beginning = json.dumps([plain(condition[name]) for name in self.shared], default=str)
        digest = hashlib.blake2b(beginning.encode(), digest_size=16)

        def key(row: Mapping[Any, Any]) -> bytes:
            whole = digest.copy()
            whole.update(repr([plain(row[name]) for name in self.within]).encode())
            return whole.digest()

        return key


def plain(value: Any) -> Any:
    """``value`` in the one form that equal values have: NaN is None, 2.0 is 2, numpy's are Python's."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value


def condition_of(row: Mapping[Any, Any]) -> str:
    """The columns of ``row`` that its neighbours share, as JSON; missing values are left out."""
    shared = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in row.items()
        if name not in (*WITHIN, "metric", "value") and value is not None and value == value
    }
    return json.dumps(shared, default=str)


def record_of(key: bytes, row: Mapping[Any, Any], metric: str, value: Any, condition: int) -> Record:
    """One metric of ``row``, whose unit of work has ``key``."""
    t, x, y = row["t"], row.get("x"), row.get("y")
    return Record(key, row["method"], metric, float(value), condition, int(row["draw"]), int(row["read"]), t, x, y)


def records_of(rows: pd.DataFrame, keys: Keys) -> tuple[list[str], Iterator[Record]]:
    """The conditions of a table of rows (JSON), and its records."""
    shared = [name for name in rows if name not in (*WITHIN, "metric", "value")]
    groups = [group for _, group in rows.groupby(shared, sort=False, dropna=False, observed=True)]
    within = [name for name in rows if name not in shared]

    def records() -> Iterator[Record]:
        for number, group in enumerate(groups):
            condition = group.iloc[0].to_dict()
            key = keys.of_condition(condition)
            named = plain(condition["weights"]) is not None  # else rows of several networks may agree in the rest
            for row in group[within].to_dict("records"):
                place = key(row) if named else os.urandom(16)
                yield record_of(place, row | {"method": condition["method"]}, row["metric"], row["value"], number)

    return [condition_of(group.iloc[0].to_dict()) for group in groups], records()


def table_of(conditions: Mapping[int, Mapping[str, Any]], values: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """The tidy table of the ``values`` of records (:data:`VALUES`), in their order; ``conditions`` by their number."""
    columns = dict(zip(VALUES, zip(*values, strict=True), strict=False))
    if not columns:
        return pd.DataFrame(columns=FIRST)
    numbers, places = np.unique(columns["condition"], return_inverse=True)
    shared = pd.DataFrame([conditions[number] for number in numbers]).take(places).reset_index(drop=True)
    within: dict[str, Any] = {name: np.array(columns[name]) for name in ("draw", "read")}
    within |= {name: np.array(columns[name], float) for name in ("t", "x", "y", "value")}
    within = {name: values for name, values in within.items() if name not in "xy" or not np.isnan(values).all()}
    table = completed(shared.assign(**within, metric=list(columns["metric"])))
    return table[[*FIRST, *(name for name in table if name not in FIRST)]]
