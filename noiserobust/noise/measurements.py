"""Tables of measured devices: read from CSV text, and looked up at a conductance, a time and a temperature."""

from __future__ import annotations

import csv
import difflib
import math
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.spec import Duration

REQUIRED = ("state", "mean_error", "std")
DRIFT = ("drift_mean", "drift_std")
OPTIONAL = (*DRIFT, "read_std", "time", "temperature", "polarity")
KEYS = ("polarity", "temperature", "time")
"""Columns that say under which circumstances a line was measured."""
CONDUCTANCES = ("state", "mean_error", "std", "read_std")
MICROSIEMENS = {"µS": 1.0, "uS": 1.0, "nS": 1e-3, "mS": 1e3, "S": 1e6}
CELSIUS = {"°C": 0.0, "C": 0.0, "degC": 0.0, "K": -273.15}
UNITS = {
    **dict.fromkeys(CONDUCTANCES, MICROSIEMENS),
    "time": Duration.UNITS,
    "temperature": CELSIUS,
}
POLARITIES = {
    **dict.fromkeys(("+", "+1", "1", "g+", "p", "pos", "positive", "plus"), 0.0),
    **dict.fromkeys(("-", "-1", "−", "g-", "n", "neg", "negative", "minus"), 1.0),
}
SIGNED = ("mean_error", "drift_mean", "temperature")
EXPECTED = {"polarity": "+ or -", "time": "a number or 1h, 1d"}
HEADER = re.compile(r"\s*(.+?)(?:\s*[(\[/]\s*(.*?)\s*[)\]]?|[\s_]+(µS|uS|nS|mS|S|y|d|h|min|s|°C|degC|C|K))?\s*")

Key = tuple[float, ...]
"""Polarity (0: +, 1: -), temperature (°C) and time (s) of a line; 0 where the table has no such column."""
States = dict[str, np.ndarray]
"""The columns of a table under one key, in ascending order of states."""


class Measurements:
    """A table: its states under every circumstance that was measured."""

    def __init__(self, columns: Collection[str], parts: dict[Key, States]) -> None:
        self.columns, self.parts = columns, parts
        states = next(iter(parts.values()))["state"]
        self.g_min, self.g_max = float(states[0]), float(states[-1])

    def known(self, column: str) -> list[float]:
        """The values of a key's column, ascending; none where the table has no such column."""
        return sorted({key[KEYS.index(column)] for key in self.parts}) if column in self.columns else []

    def at(self, polarity: int, temperature: float | None) -> Surface:
        """What devices of one polarity do at a temperature (°C) within those of the table, linear between them."""
        sign = float(polarity) if "polarity" in self.columns else 0.0
        shares = _shares(self.known("temperature") or [0.0], temperature or 0.0)
        return Surface([(share, self._over_time(sign, warm)) for warm, share in shares])

    def _over_time(self, *key: float) -> dict[float, States]:
        return dict(sorted((time, states) for (*other, time), states in self.parts.items() if tuple(other) == key))


class Surface:
    """Columns as functions of conductance and time, piecewise linear in the first and in the second's logarithm."""

    def __init__(self, parts: Sequence[tuple[float, dict[float, States]]]) -> None:
        self.parts = parts

    @property
    def last(self) -> float:
        """The latest time (s) that is known."""
        return min(max(times) for _, times in self.parts)

    def __call__(self, column: str, g: Tensor, t: float = 0.0) -> Tensor:
        """``column`` at conductances within the table's states, ``t`` seconds after programming."""
        values = [
            (share * part, _linear(times[time], column, g))
            for share, times in self.parts
            for time, part in _shares(list(times), t, log=True)
        ]
        return values[0][1] if len(values) == 1 else torch.stack([share * value for share, value in values]).sum(0)


def _linear(states: States, column: str, g: Tensor) -> Tensor:
    at, values = (torch.as_tensor(states[name]).to(g) for name in ("state", column))
    above = torch.bucketize(g, at).clamp(1, len(at) - 1)
    low, high = at[above - 1], at[above]
    return torch.lerp(values[above - 1], values[above], ((g - low) / (high - low)).clamp(0, 1))


def _shares(known: Sequence[float], x: float, log: bool = False) -> Iterator[tuple[float, float]]:
    """The ``known`` values next to ``x``, and the share of each; outside of all, the nearest one.

    With ``log`` it is linear in ln x, but between 0 and the next value in x.
    """
    above = next((place for place, value in enumerate(known) if value >= x), len(known) - 1)
    high, low = known[above], known[max(above - 1, 0)]
    if high <= x or above == 0:
        yield high, 1.0
        return
    share = math.log(x / low) / math.log(high / low) if log and low > 0 else (x - low) / (high - low)
    yield low, 1 - share
    yield high, share


class Column(NamedTuple):
    """A column of the header: its name, and what makes µS, s or °C of its values."""

    name: str
    factor: float = 1.0
    offset: float = 0.0


def read_table(name: str, content: bytes) -> Measurements:
    """A table of measurements; :class:`~noiserobust.UserError` names the line that is not as it must be."""

    def refuse(line: int, expected: str, got: object) -> UserError:
        return UserError(f"{name}, line {line}: expected {expected}, got {got}")

    text = _decoded(name, content)
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    if not lines:
        raise UserError(f"{name}: expected a header {','.join(REQUIRED)} and a line per state, got an empty table")
    separator = next((sign for sign in ";\t" if sign in lines[0][1]), ",")
    rows = [(i, [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]) for i, line in lines]
    (first, header), *rows = rows
    columns = _columns(header)
    if isinstance(columns, str):
        raise refuse(first, columns, ", ".join(header))
    if ignored := [cell for cell, column in zip(header, columns, strict=True) if cell and not column]:
        warnings.warn(f"{name}: columns ignored: {', '.join(ignored)}", stacklevel=2)
    parts: dict[Key, dict[str, list[float]]] = {}
    for line, cells in rows:
        if len(cells) != len(header):
            hint = "; decimal commas need semicolons between values" if len(cells) == 2 * len(header) else ""
            raise refuse(line, f"{len(header)} values", f"{len(cells)}{hint}")
        values: dict[str, float] = {}
        for cell, column in zip(cells, columns, strict=True):
            if column:
                values[column.name] = _value(column, cell, separator)
                if not math.isfinite(values[column.name]):
                    raise refuse(line, f"{EXPECTED.get(column.name, 'a finite number')} as {column.name}", f"'{cell}'")
                if values[column.name] < 0 and column.name not in SIGNED:
                    raise refuse(line, f"{column.name} >= 0", cell)
        part = parts.setdefault(tuple(values.pop(key, 0.0) for key in KEYS), {column: [] for column in values})
        if part["state"] and values["state"] <= (previous := part["state"][-1]):
            wanted = f"a state above that of the line before, {previous:g}"
            hint = "sort the table, or say what differs in a column time, temperature or polarity"
            raise refuse(line, wanted, f"{values['state']:g}; {hint}")
        for known, value in values.items():
            part[known].append(value)
    table = {key: {column: np.array(values) for column, values in part.items()} for key, part in parts.items()}
    names = {column.name for column in columns if column}
    _check_parts(name, table, both="polarity" in names)
    return Measurements(names, table)


def _check_parts(name: str, parts: dict[Key, States], both: bool) -> None:
    """Refuse a table whose circumstances have too few states, other ranges, or one polarity alone."""
    where = " at each polarity, temperature and time" if len(parts) > 1 else ""
    if (fewest := min((len(states["state"]) for states in parts.values()), default=0)) < 2:
        raise UserError(f"{name}: expected at least two states{where}, got {fewest}")
    ends = sorted({(states["state"][0], states["state"][-1]) for states in parts.values()})
    if len(ends) > 1:
        listed = ", ".join(f"{low:g} to {high:g}" for low, high in ends)
        raise UserError(f"{name}: expected the same first and last state{where}, got {listed}")
    signs = {sign: {key[1] for key in parts if key[0] == sign} for sign in (0.0, 1.0)}
    if both and signs[0.0] != signs[1.0]:
        raise UserError(f"{name}: expected both polarities, + and -, at each temperature, got lines of one alone")


def _decoded(name: str, content: bytes) -> str:
    for encoding in ("utf-8-sig", "cp1252"):  # the second is what a spreadsheet on Windows writes
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text.replace("\N{GREEK SMALL LETTER MU}", "µ")  # another character than the unit's
    raise UserError(f"expected a table of measurements as CSV text, got {name}, which is no text")


def _columns(header: Sequence[str]) -> list[Column | None] | str:
    """The columns, None where they are none of ours; or what was expected instead of this header."""
    found: list[tuple[str, str]] = []
    for cell in header:
        match = HEADER.fullmatch(cell)
        name, unit = (re.sub(r"[\s-]+", "_", match[1].lower()), match[2] or match[3] or "") if match else ("", "")
        if name not in REQUIRED + OPTIONAL:
            near = difflib.get_close_matches(name, OPTIONAL, 1, 0.85)
            if near and near[0] not in " ".join(header).lower():
                return f"the name {near[0]} for '{cell}', or one that is not like it"
            name = unit = ""
        elif unit and unit not in UNITS.get(name, {}):
            return f"{name} in {', '.join(UNITS[name]) if name in UNITS else 'no unit'}"
        found.append((name, unit))
    names = [name for name, _ in found if name]
    drift = set(DRIFT) & set(names)
    if (
        len(set(names)) < len(names)
        or not set(REQUIRED) <= set(names)
        or len(drift) == 1
        or (drift and "time" in names)
    ):
        further = f"{', '.join(DRIFT)} (or time), read_std, temperature, polarity"
        return f"the columns {', '.join(REQUIRED)} and perhaps {further}, each once"
    of_state = dict(found)["state"]
    if not of_state and (other := next((unit for name, unit in found if unit and name in CONDUCTANCES), "")):
        return f"a unit of state, too, as another column is in {other}"
    columns: list[Column | None] = []
    for name, unit in found:
        unit = unit or (of_state if name in CONDUCTANCES else "")
        if name == "temperature":
            columns.append(Column(name, offset=CELSIUS[unit or "°C"]))
        else:
            columns.append(Column(name, UNITS[name][unit] if unit else 1.0) if name else None)
    return columns


def _value(column: Column, cell: str, separator: str) -> float:
    """A cell as a number in µS, s or °C; NaN where it is none."""
    if column.name == "polarity":
        return POLARITIES.get(cell.lower(), math.nan)
    if separator != "," and re.fullmatch(r"[-+]?\d+,\d*(?:[eE][-+]?\d+)?", cell):
        cell = cell.replace(",", ".")
    try:
        if column.name == "time" and re.search("[a-z]$", cell):
            return float(Duration(cell))
        return float(cell) * column.factor + column.offset
    except (ValueError, UserError):
        return math.nan
