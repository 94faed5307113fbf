"""Result rows in a SQLite database, beside the parquet file that is exported from it."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pandas as pd

from noiserobust.errors import UserError, shown
from noiserobust.seals import is_sound
from noiserobust.storage.described import read_json
from noiserobust.storage.files import cannot_write, set_aside
from noiserobust.storage.records import Keys, Record, records_of, table_of
from noiserobust.storage.rows import completed, is_whole, read_rows, require_kinds, write_rows

P = ParamSpec("P")
T = TypeVar("T")
RECORD = ", ".join(Record._fields)
WAIT = 600.0  # seconds for which another process may write or export
PATIENCE = 10.0  # seconds of them at a stretch, which no Ctrl-C interrupts

SCHEMA = [
    "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT)",
    "CREATE TABLE IF NOT EXISTS conditions (id INTEGER PRIMARY KEY AUTOINCREMENT, columns TEXT UNIQUE)",
    "CREATE TABLE IF NOT EXISTS results (key BLOB, method TEXT, metric TEXT, value REAL, condition INTEGER, "
    "draw INTEGER, read INTEGER, t REAL, x REAL, y REAL, PRIMARY KEY (key, method, metric))",
]

CHECKED = ("conditions", "results")
"""Tables whose rows have a ``checksum``, since SQLite has none; it is NULL in rows of older versions."""
INDEXED = 1 << 27
"""Bytes of a database above which its indices are not compared with its tables when it is opened."""

UPSERT = """
INSERT INTO results (key, method, metric, value, condition, draw, read, t, x, y, checksum)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key, method, metric)
DO UPDATE SET value = excluded.value, condition = excluded.condition, checksum = excluded.checksum
WHERE value IS NOT excluded.value OR condition IS NOT excluded.condition
"""


class Damaged(UserError):
    """A database that cannot be read, or is not as it was written."""

    reason: str


def healing(method: Callable[P, T]) -> Callable[P, T]:
    """A method of :class:`Database` that sets a damaged one aside, and is then called once more."""

    @wraps(method)
    def called(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return method(*arguments, **options)
        except Damaged as error:
            database: Any = arguments[0]
            database._begin_anew(error)
            return method(*arguments, **options)

    return called


class Database:
    """A SQLite database ``PATH.ledger`` with all rows of the parquet file ``PATH``, which several processes share.

    Each change is one transaction, and an export writes all rows; so of several writers none loses any. SQLite's locks
    make it so on local disks and on network file systems whose POSIX locks work; elsewhere give each process a file.

    What a person does to ``path`` counts: a file that is there without a ledger, or was replaced since the last export,
    is taken in; one that was deleted is begun anew, and so is a deleted ledger. Rows of a process that is at work
    meanwhile stay.

    Every row has a checksum. A damaged ledger is set aside and begun anew from the parquet file, a damaged parquet file
    is written again from the ledger; where both are damaged, rows are computed anew.

    ``unit``: the columns that name a unit of work. ``check(columns)`` raises for a table that does not belong here.
    """

    def __init__(self, path: Path, unit: Sequence[str], check: Callable[[Sequence[str]], None]) -> None:
        # A link and the file behind it share one ledger.
        self.path, self.file = Path(os.path.realpath(path)), Path(f"{os.path.realpath(path)}.ledger")
        self.unit, self.check, self.keys = list(unit), check, Keys(unit)
        self._epoch: str | None = self._connect()

    @healing
    def find(self, key: bytes) -> list[tuple[str, float, Mapping[str, Any]]]:
        """(metric, value, condition) of every row of one unit of work, whatever its method."""
        if self._inode is None:
            self._reconnect()
        with self._one_line_errors():
            rows = self._connection.execute(
                f"SELECT {RECORD}, checksum FROM results WHERE key = ? ORDER BY rowid", [key]
            )
            records = [self._checked(row) for row in rows.fetchall()]
            return [(record[2], _number(record[3]), self._condition(record[4])) for record in records]

    @healing
    def put(self, conditions: Sequence[str], records: Sequence[Record], done: int, outdated: set[bytes]) -> None:
        """Insert or replace ``records`` from number ``done`` on; all where a person replaced the file meanwhile.

        ``conditions``: what the records' ``condition`` counts, as JSON. Units that are ``outdated`` lose their other
        metrics.
        """
        self._reconnect()
        with self._transaction():
            self._put(conditions, records, done, outdated)

    @healing
    def export(self, conditions: Sequence[str], records: Sequence[Record]) -> None:
        """Bring the parquet file up to date, whole or not at all; ``records`` are all that this process has put."""
        self._reconnect()
        with self._transaction():
            self._follow_file()
            self._put(conditions, records, len(records), set())
            if self._get("unexported"):
                self._write()

    def close(self) -> None:
        self._connection.close()

    @healing
    def _connect(self) -> str:
        """Open the database, or begin it, as the parquet file says; returns its epoch."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.path, error.strerror) from None
        self._conditions: dict[int, dict[str, Any]] = {}
        with self._one_line_errors():
            self._connection = sqlite3.connect(self.file, timeout=PATIENCE, isolation_level=None)
        self._inode = self._inode_there()
        try:
            with self._transaction():
                for statement in SCHEMA:
                    self._connection.execute(statement)
                for table in CHECKED:
                    columns = [row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")]
                    if "checksum" not in columns:
                        self._connection.execute(f"ALTER TABLE {table} ADD COLUMN checksum INTEGER")
                self._require_whole()
                self._follow_unit()
                self._follow_file()
                epoch = self._get("epoch")
        except BaseException as error:
            self._connection.close()
            with suppress(OSError):
                if isinstance(error, UserError) and not self.file.stat().st_size:  # begun for a file of another kind
                    self.file.unlink()
            raise
        self._inode = self._inode_there()
        return epoch

    def _inode_there(self) -> int | None:
        return self.file.stat().st_ino if self.file.exists() else None

    def _require_whole(self) -> None:
        """Refuse a database whose structure is broken, or that has fewer rows than it has exported."""
        check = "integrity_check" if self.file.stat().st_size < INDEXED else "quick_check"
        (found,) = self._connection.execute(f"PRAGMA {check}(1)").fetchone()
        (count,) = self._connection.execute("SELECT COUNT(*) FROM results").fetchone()
        exported = self._get("exported") or "0"
        if found != "ok" or not exported.isdecimal() or count < int(exported):
            raise self._damaged(found if found != "ok" else "rows are missing")

    def _begin_anew(self, error: Damaged) -> None:
        """Set a damaged database aside, unless another process has done so, and begin a new one."""
        self._connection.close()
        if self._inode_there() == self._inode and self.file.exists():
            kept = set_aside(self.file, f"damaged ({error.reason})", f"begun anew from {self.path.name}")
            with suppress(OSError):
                os.replace(f"{self.file}-journal", f"{kept}-journal")
        self._inode = None
        self._epoch = None

    def _damaged(self, reason: object) -> Damaged:
        error = Damaged(
            f"expected the ledger of {self.path.name}, got {shown(self.file)}, which cannot be read ({reason}); delete "
            "it, the rows in the parquet file stay"
        )
        error.reason = str(reason)
        return error

    def _checked(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """``row`` without the checksum at its end."""
        if row[-1] is not None and row[-1] != _checksum(row[:-1]):
            raise self._damaged("a checksum differs")
        if len(row) > len(Record._fields) and not Record(*row[:-1]).fits:
            raise self._damaged("a row has values of other types")
        return row[:-1]

    def _columns(self, text: str, checksum: int | None) -> dict[str, Any]:
        """The columns of a condition."""
        self._checked((text, checksum))
        columns = read_json(text, f"a condition in {shown(self.file)}")
        if not isinstance(columns, dict):
            raise self._damaged("a condition is none")
        return columns

    def _reconnect(self) -> None:
        """Begin anew where a person deleted or replaced the database: SQLite would refuse to write the old one."""
        if self._inode is None or self._inode_there() != self._inode:
            self._connection.close()
            self._connect()
            self._epoch = None  # so that all rows of this process are put again

    def _put(self, conditions: Sequence[str], records: Sequence[Record], done: int, outdated: set[bytes]) -> None:
        if self._get("epoch") != self._epoch:
            self._epoch, done = self._get("epoch"), 0
        new = records[done:]
        units = dict.fromkeys((record.key, record.method) for record in new if record.key in outdated)
        self._connection.executemany("DELETE FROM results WHERE key = ? AND method = ?", units)
        self._insert(conditions, new)

    def _insert(self, conditions: Sequence[str], records: Iterable[Record]) -> None:
        ids: dict[int, int] = {}

        def stored(number: int) -> int:
            if number not in ids:
                text = conditions[number]
                insert = "INSERT OR IGNORE INTO conditions (columns, checksum) VALUES (?, ?)"
                self._connection.execute(insert, [text, _checksum((text,))])
                row = self._connection.execute("SELECT id FROM conditions WHERE columns = ?", [text]).fetchone()
                ids[number] = row[0]
            return ids[number]

        stored_records = (record._replace(condition=stored(record.condition)) for record in records)
        rows = [(*record, _checksum(record)) for record in stored_records]
        before = self._connection.total_changes
        self._connection.executemany(UPSERT, rows)
        if self._connection.total_changes > before:
            self._set(unexported="yes")

    def _follow_unit(self) -> None:
        """Give the rows new keys where another version of this package named their units by other columns."""
        unit = json.dumps(self.unit)
        if self._get("unit") == unit:
            return
        if self._connection.execute("SELECT 1 FROM results LIMIT 1").fetchone():
            self._take(completed(self._table()), clear=True)
        self._set(unit=unit)

    def _follow_file(self) -> None:
        """Do as the parquet file says, where that is not the one exported last."""
        digest = _digest(self.path)
        if digest == self._get("digest"):
            return
        exported = bool(self._get("digest"))  # else what is here is not in any file yet
        if digest and exported and not is_whole(self.path):
            set_aside(self.path, "damaged", "written again from its ledger", copy=True)
            self._write()
            return
        if digest and not is_sound(self.path):
            set_aside(self.path, "damaged", "what is not in its ledger is computed anew")
            digest = ""
        unexported = "" if exported else self._get("unexported")
        self._take(completed(read_rows(Path(shown(self.path)))) if digest else None, clear=exported)
        self._set(digest=digest, unexported=unexported)

    def _write(self) -> None:
        """Write the parquet file."""
        table = self._table()
        write_rows(table, self.path)
        self._set(digest=_digest(self.path), unexported="", exported=str(len(table)))

    def _take(self, rows: pd.DataFrame | None, clear: bool) -> None:
        """Insert a table of rows, instead of all that is here where this is to be cleared."""
        if rows is not None:
            self.check(rows.columns.tolist())
            require_kinds(rows, shown(self.path))
        if clear:
            self._connection.execute("DELETE FROM results")
            self._connection.execute("DELETE FROM conditions")
            # A process at work sees by this that it must put its rows again.
            self._set(epoch=uuid.uuid4().hex, unexported="", exported="0")
        if rows is not None:
            self._insert(*records_of(rows, self.keys))

    def _table(self) -> pd.DataFrame:
        texts = self._connection.execute("SELECT id, columns, checksum FROM conditions").fetchall()
        conditions = {number: self._columns(text, checksum) for number, text, checksum in texts}
        order = "condition, draw, read, t, x, y, rowid"
        rows = self._connection.execute(f"SELECT {RECORD}, checksum FROM results ORDER BY {order}")
        return table_of(conditions, (self._checked(row)[2:] for row in rows))

    def _condition(self, number: int) -> dict[str, Any]:
        if number not in self._conditions:
            row = self._connection.execute("SELECT columns, checksum FROM conditions WHERE id = ?", [number]).fetchone()
            if row is None:
                raise self._damaged("a condition is missing")
            self._conditions[number] = self._columns(*row)
        return self._conditions[number]

    def _get(self, name: str) -> str:
        row = self._connection.execute("SELECT value FROM about WHERE name = ?", [name]).fetchone()
        return str(row[0]) if row else ""

    def _set(self, **values: str) -> None:
        self._connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", values.items())

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._one_line_errors():
            self._begin()
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def _begin(self) -> None:
        deadline = time.monotonic() + WAIT
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise UserError(
                    f"expected {shown(self.file)} to be free within {WAIT:.0f} s, got one that another process keeps "
                    "locked; wait for it, or name another file"
                ) from None
            if "no such" in str(error):
                raise self._damaged(error) from None
            raise cannot_write(self.path, str(error), "full" in str(error)) from None
        except (sqlite3.DatabaseError, KeyError, UnicodeDecodeError) as error:
            raise self._damaged(error) from None


def _digest(path: Path) -> str:
    """Of the file's content; "" where there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _number(value: float | None) -> float:
    """SQLite keeps NaN as NULL."""
    return float("nan") if value is None else value


def _checksum(row: Sequence[Any]) -> int:
    """CRC-32 of a row as SQLite gives it back: NaN as None, all floats as Python's."""
    plain = [None if value != value else float(value) if isinstance(value, float) else value for value in row]
    return zlib.crc32(repr(plain).encode())
