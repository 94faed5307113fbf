"""Written arguments become values of the right type, for a dataclass's fields or a function's parameters."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

from noiserobust.errors import UserError
from noiserobust.limits import WIDEST
from noiserobust.spec.duration import Duration
from noiserobust.spec.parser import Argument, shown

WORDS = {"true": True, "false": False, "none": None}


class Setting(NamedTuple):
    """A field or parameter that a text form can set."""

    name: str
    kind: Any
    """Its type; ``None`` where it has no annotation."""
    default: Any = dataclasses.MISSING

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING


@cache
def settings_of(cls: type) -> tuple[Setting, ...]:
    """The fields in the order of their text form: those without a default first, those that need their key last."""
    kinds = typing.get_type_hints(cls)
    fields = sorted((field for field in dataclasses.fields(cls) if field.init), key=_rank)
    return tuple(Setting(field.name, kinds[field.name], _default(field)) for field in fields)


def _rank(field: dataclasses.Field[Any]) -> int:
    return 0 if _default(field) is dataclasses.MISSING else 1 + bool(field.kw_only)


def parameters_of(function: Callable[..., Any], given: Collection[str] | int = ()) -> tuple[Setting, ...]:
    """The parameters that a text may set: all but those that the caller gives (their names, or how many come first)."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
        kinds = typing.get_type_hints(function.__init__ if isinstance(function, type) else function)  # type: ignore[misc]
    except (TypeError, ValueError, NameError):  # compiled functions have none
        return ()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    free = named[given:] if isinstance(given, int) else [p for p in named if p.name not in given]
    defaults = [dataclasses.MISSING if p.default is p.empty else p.default for p in free]
    return tuple(Setting(p.name, kinds.get(p.name), default) for p, default in zip(free, defaults, strict=True))


def bind(
    name: str,
    settings: Sequence[Setting],
    arguments: Sequence[Argument],
    text: str,
    imports: bool = True,
    example: str = "",
) -> dict[str, Any]:
    """The values of the ``settings`` of ``name`` that the arguments of ``text`` give, by name.

    Raises :class:`~noiserobust.UserError` for settings that are unknown, missing or given twice, with an ``example``.
    """
    names = [setting.name for setting in settings]
    kinds = {setting.name: setting.kind for setting in settings}
    values: dict[str, Any] = {}
    for index, (key, value) in enumerate(arguments):
        if key is None and (index >= len(names) or any(name in values for name in names[index:])):
            raise UserError(f"expected at most {len(names)} values in order, then key=value, in '{shown(text)}'")
        setting = names[index] if key is None else key
        if setting not in names:
            raise UserError(
                f"{name} has no setting '{setting}' (it has {', '.join(names) or 'none'}), in '{shown(text)}'"
            )
        if setting in values:
            raise UserError(f"{name}: '{setting}' is given twice in '{shown(text)}'")
        try:
            values[setting] = parse_value(value, kinds[setting], imports)
        except UserError as error:
            raise UserError(f"{name}: {setting}: {error}") from None
    missing = [setting.name for setting in settings if setting.required and setting.name not in values]
    if missing:
        example = example or f"{name}:{missing[0]}=..."
        raise UserError(f"{name} needs {', '.join(missing)}, for example {example}, got '{shown(text)}'")
    return values


def parse_value(text: str, kind: Any, imports: bool = True) -> Any:
    """``text`` read as a value of type ``kind``; raises :class:`UserError` when it is none."""
    if hasattr(kind, "parse"):
        return kind.parse(text, imports)
    options, origin = typing.get_args(kind), typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if types.NoneType in options and text.lower() == "none":  # before any text is one
            return None
        refused: list[str] = []
        for option in options:
            try:
                return parse_value(text, option, imports)
            except UserError as error:
                refused.append(str(error))
        if options[-1] is types.NoneType:
            raise UserError(refused[0].replace(", got", " or none, got", 1))
        raise UserError(refused[-1])
    if origin is Literal:
        if text not in options:
            raise UserError(f"expected one of {', '.join(map(str, options))}, got '{shown(text)}'")
        return text
    if kind is types.NoneType or kind is bool:
        words = ["none"] if kind is types.NoneType else ["true", "false"]
        if text.lower() not in words:
            raise UserError(f"expected {' or '.join(words)}, got '{shown(text)}'")
        return WORDS[text.lower()]
    if kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            number = "a whole number" if kind is int else "a number"
            raise UserError(f"expected {number}, got '{shown(text)}'") from None
        if kind is int and not -WIDEST <= value < WIDEST:
            raise UserError(f"expected a number of at most 64 bits, got {shown(text)}")
        return value
    if kind is Duration:
        return Duration(text)
    return _guessed(text) if kind is None else text


def _guessed(text: str) -> Any:
    """``text`` as a number, true, false or none where it is one: for a parameter whose type is not said."""
    try:
        return WORDS[text.lower()] if text.lower() in WORDS else ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
