"""What files and people say by name, read strictly: of the types that are declared, or refused in one line."""

from __future__ import annotations

import json
import math
import numbers
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Literal

from noiserobust.errors import UserError, printable, reason_of
from noiserobust.limits import within
from noiserobust.spec import Described

HUGE = 10**308
"""A whole number beyond it is no float."""


@dataclass(frozen=True)
class Trained:
    """What others than training itself read of a run's settings."""

    data: str = ""
    data_root: str = ""
    image_size: int | None = None
    model: str = ""
    include: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    layers: str | None = None


@dataclass(frozen=True)
class About:
    """What a checkpoint says of its weights; a file of another program says less."""

    model: str = ""
    """Text of the network (:class:`~noiserobust.models.ModelSpec`)."""
    channels: int = 1
    classes: list[str | int] = field(default_factory=list)
    task: str = ""
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    label: str = ""
    """The method."""
    seed: int = 0
    epoch: int = 0
    log: dict[str, float | int | str | None] = field(default_factory=dict)
    """The line of the epoch kept."""
    ranks: list[int] = field(default_factory=list)
    settings: Trained = field(default_factory=Trained)
    started_in: str = ""
    """Where relative paths of its data begin, seen from its folder."""
    provenance: dict[str, Any] = field(default_factory=dict)


def read_json(text: str, what: str) -> Any:
    """The value of a JSON text; :class:`UserError` for one that is none, too long, or too deep."""
    within(f"characters of {what}", "table", len(text))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected {what} as JSON, got what cannot be read: {reason_of(error)}") from None
    level, depth = [value], 0
    while level := [part for one in level for part in _parts(one)]:
        depth += 1
        within(f"levels of {what}", "depth", depth)
    return value


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def strict(kind: Any, given: Any, what: str) -> dict[str, Any]:
    """``given`` as it is, when every value that the dataclass ``kind`` has a field for is of that field's type."""
    if not isinstance(given, Mapping):
        raise UserError(f"expected {what} as names with values, got {_short(given)}")
    for one in fields(kind):
        if one.name not in given:
            if one.default is MISSING and one.default_factory is MISSING:
                raise UserError(f"expected {one.name} in {what}, got {', '.join(map(str, given)) or 'nothing'}")
            continue
        value, hint = given[one.name], _hints(kind)[one.name]
        if is_dataclass(hint):
            strict(hint, value, f"{one.name} in {what}")
        elif not _fits(value, hint):
            raise UserError(f"expected {_named(hint)} as {one.name} in {what}, got {_short(value)}")
    return dict(given)


def check_fields(one: Any) -> None:
    """Refuse a dataclass that a person filled where a field holds another type than it declares.

    Beside what files may say, a person's numbers may be numpy's, texts paths or objects that have a text form, and
    sequences of any kind, or one of their parts.
    """
    kind: Any = type(one)
    for name, hint in _hints(kind).items():
        value = vars(one).get(name)
        if not _suits(value, hint):
            raise UserError(f"expected {_named(hint)} as {name}, got {_short(value)}")


def _suits(value: Any, kind: Any) -> bool:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_suits(value, part) for part in parts)
    if origin in (tuple, Sequence):
        if isinstance(value, (list, tuple)):
            return all(_suits(part, parts[0]) for part in value)
        return _suits(value, parts[0]) or (hasattr(value, "__iter__") and not isinstance(value, (str, Mapping)))
    if kind is str:
        return isinstance(value, (str, os.PathLike, Described))
    if kind is bool:
        return isinstance(value, bool) or str(getattr(value, "dtype", "")) == "bool"
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind is float:
        return _fits(value, float) if isinstance(value, int) else isinstance(value, numbers.Real)
    return _fits(value, kind)


def _named(hint: Any) -> str:
    """A type in words."""
    if typing.get_origin(hint) is Literal:
        *most, last = map(str, typing.get_args(hint))
        return f"{', '.join(most)} or {last}"
    if typing.get_origin(hint) or isinstance(hint, types.UnionType):
        return str(hint).replace("typing.", "").replace("collections.abc.", "").replace("NoneType", "None")
    return getattr(hint, "__name__", str(hint))


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fits(value: Any, kind: Any) -> bool:
    """Whether ``value`` is of the type ``kind``; whole numbers are numbers, true and false are not."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and all(_fits(one, parts[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(key, parts[0]) and _fits(v, parts[1]) for key, v in value.items())
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and not HUGE < abs(value) < math.inf
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, kind)


def _short(value: Any) -> str:
    return f"{type(value).__name__} {printable(repr(value) if isinstance(value, str) else str(value)[:80], 80)}"
