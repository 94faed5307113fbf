"""Whether values are of the types that fields and parameters declare; said in one line where they are not."""

from __future__ import annotations

import inspect
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache, wraps
from typing import Any, Literal, TypeVar, cast

from noiserobust.errors import UserError, printable
from noiserobust.spec.duration import Duration
from noiserobust.spec.fields import parse_value

F = TypeVar("F", bound=Callable[..., Any])
HUGE = 10**308
"""A whole number beyond it is no float."""
SPOKEN_FOR = {"models", "draws", "part", "design"}
"""Parameters that functions look at themselves, and say more of."""
_SEVERAL = (tuple, list, Sequence, Collection, Iterable)


def typed(function: F) -> F:
    """``function``, which refuses arguments of other types than it declares."""
    signature = inspect.signature(function)
    several = {p.name for p in signature.parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    unseen = several | SPOKEN_FOR

    @wraps(function)
    def call(*arguments: Any, **named_arguments: Any) -> Any:
        try:
            given = signature.bind(*arguments, **named_arguments).arguments
        except TypeError:  # Python says what is missing, or too much
            return function(*arguments, **named_arguments)
        for name in given.keys() - unseen:
            default = signature.parameters[name].default
            if given[name] is not default and not suits(given[name], kind := hints(function).get(name, Any)):
                raise UserError(f"expected {named(kind)} as {name}, got {shortly(given[name])}")
        return function(*arguments, **named_arguments)

    return cast(F, call)


def check_fields(one: Any) -> None:
    """Refuse a dataclass that a person filled where a field holds another type than it declares.

    Beside what files may say, a person's numbers may be numpy's, texts paths or objects that have a text form, and
    sequences of any kind, or one of their parts.
    """
    declared = hints(cast(Any, type(one)))
    for field in fields(one):
        value, kind = vars(one).get(field.name), declared.get(field.name, Any)
        if not suits(value, kind):
            raise UserError(f"expected {named(kind)} as {field.name}, got {shortly(value)}")


def read_fields(one: Any, label: str) -> None:
    """:func:`check_fields` of what has a text form and is called ``label``; texts in place of other types are read."""
    declared = hints(cast(Any, type(one)))
    for field in fields(one):
        value, kind = vars(one).get(field.name), declared.get(field.name, Any)
        if suits(value, kind):
            continue
        if not isinstance(value, str):
            raise UserError(f"{label}: expected {named(kind)} as {field.name}, got {shortly(value)}")
        try:
            object.__setattr__(one, field.name, parse_value(value, kind))
        except UserError as error:
            raise UserError(f"{label}: {field.name}: {error}") from None


def suits(value: Any, kind: Any) -> bool:
    """Whether a person may give ``value`` where ``kind`` is declared (:func:`check_fields`)."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(suits(value, part) for part in parts)
    if origin in _SEVERAL:
        if isinstance(value, (list, tuple)):
            return all(suits(one, part) for one, part in _with_kinds(value, parts))
        return suits(value, parts[0]) or (hasattr(value, "__iter__") and not isinstance(value, (str, bytes, Mapping)))
    if isinstance(kind, type) and issubclass(kind, tuple):  # made of it later
        return isinstance(value, (list, tuple))
    if kind is str:
        return isinstance(value, (str, os.PathLike)) or hasattr(value, "nested")  # what has a text form
    if kind is bool:
        return isinstance(value, bool) or str(getattr(value, "dtype", "")) == "bool"
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind in (float, Duration):
        return fits(value, float) if isinstance(value, int) else isinstance(value, numbers.Real)
    return fits(value, kind)


def fits(value: Any, kind: Any) -> bool:
    """Whether ``value`` is of the type ``kind``; whole numbers are numbers, true and false are not."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(isinstance(value, type(part)) and value == part for part in parts)
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and all(fits(one, part) for one, part in _with_kinds(value, parts))
    if origin is dict:
        return isinstance(value, dict) and all(fits(key, parts[0]) and fits(v, parts[1]) for key, v in value.items())
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and not HUGE < abs(value) < math.inf
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    try:
        return isinstance(value, origin or kind)
    except TypeError:  # Any, and what only a type checker understands
        return True


def _with_kinds(values: Sequence[Any], kinds: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    fixed = len(kinds) == len(values) and Ellipsis not in kinds
    return zip(values, kinds if fixed else [*kinds[:1]] * len(values), strict=False)


def named(kind: Any) -> str:
    """A type in words."""
    if typing.get_origin(kind) is Literal:
        *most, last = map(str, typing.get_args(kind))
        return f"{', '.join(most)} or {last}"
    if typing.get_origin(kind) or isinstance(kind, types.UnionType):
        return re.sub(r"(\w+\.)+", "", str(kind)).replace("NoneType", "None")
    return getattr(kind, "__name__", str(kind))


def shortly(value: Any) -> str:
    """A value's type, and the begin of its text."""
    return f"{type(value).__name__} {printable(repr(value) if isinstance(value, str) else str(value)[:80], 80)}"


@cache
def hints(of: Any) -> dict[str, Any]:
    """The types that a class or a function declares; none where only a type checker could find them."""
    try:
        return typing.get_type_hints(of)
    except (NameError, TypeError, AttributeError):
        return {}
