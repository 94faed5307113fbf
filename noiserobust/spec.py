"""Settings as short text: ``gaussian:0.05,reference=layer`` and back.

Noise models, training methods, schedules and model definitions are dataclasses. Each family
(a subclass of :class:`Described` that owns a registry) can be written as text, and the same words serve on
the command line, in result rows and in a run's stored settings.

Grammar: ``name``, ``name:arguments`` or ``name(arguments)``; arguments are separated by commas, positional
ones first, then ``key=value``. A value that is itself described stands in parentheses:
``rwp:gaussian(0.1,reference=layer),schedule=linear(1.0,warmup=0.5)``. Later fields at their default are not written.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
import types
import typing
from typing import Any, ClassVar, Literal, TypeVar

from noiserobust.errors import UserError

D = TypeVar("D", bound="Described")

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


class Described:
    """Base of every dataclass that has a text form.

    A family root is declared with ``class NoiseModel(Described, family="noise model")``; a member with
    ``class Gaussian(NoiseModel, name="gaussian")``, which also registers it.
    """

    family: ClassVar[str] = ""
    name: ClassVar[str] = ""
    registry: ClassVar[dict[str, type[Any]]] = {}

    def __init_subclass__(cls, *, family: str | None = None, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if family is not None:
            cls.family, cls.registry = family, {}
        if name is not None:
            cls.name = name
            cls.registry[name] = cls

    @classmethod
    def parse(cls: type[D], text: str) -> D:
        """The object that ``text`` describes; raises :class:`UserError` when it describes none."""
        name, arguments = split_call(text, cls.family)
        if name not in cls.registry:
            known = ", ".join(sorted(cls.registry))
            raise UserError(f"expected a {cls.family} ({known}), got '{text.strip()}'")
        member = cls.registry[name]
        if not issubclass(member, cls):
            raise UserError(f"expected a {cls.name or cls.family}, got '{text.strip()}'")
        return typing.cast(D, _construct(member, arguments, text))

    def arguments(self) -> list[str]:
        """The written arguments: the first field always, so that a label names its strength; later ones by key,
        defaults not at all."""
        parts = []
        kinds = typing.get_type_hints(type(self))
        for index, field in enumerate(_settings(type(self))):
            value = getattr(self, field.name)
            options = typing.get_args(kinds[field.name]) or (kinds[field.name],)
            if isinstance(value, int) and float in options and int not in options:
                value = float(value)  # equal settings have one text: sigma=1 is gaussian:1.0, as it reads back
            if index == 0:
                parts.append(format_value(value))
            elif value != _default(field):
                parts.append(f"{field.name}={format_value(value)}")
        return parts

    def nested(self) -> str:
        """The text form as it stands inside another one: ``gaussian(0.05)``."""
        arguments = self.arguments()
        return f"{self.name}({','.join(arguments)})" if arguments else self.name

    def __str__(self) -> str:
        arguments = self.arguments()
        return f"{self.name}:{','.join(arguments)}" if arguments else self.name


class Duration(float):
    """A time in seconds that is written ``25s``, ``10min``, ``1h``, ``1d``, ``1y`` (365 days); plain numbers are
    seconds. Raises :class:`UserError` for anything else, negative or not finite.

    >>> Duration("1h") == 3600, str(Duration(86400)), str(Duration("90s"))
    (True, '1d', '90s')
    """

    UNITS: ClassVar[dict[str, float]] = {"y": 365 * 86400.0, "d": 86400.0, "h": 3600.0, "min": 60.0, "s": 1.0}

    def __new__(cls, value: float | str) -> Duration:
        match = re.fullmatch(
            r"\s*([-+.\deE]+?)\s*(y|d|h|min|s)?\s*", str(float(value) if not isinstance(value, str) else value)
        )
        try:
            seconds = float(match[1]) * cls.UNITS[match[2] or "s"] if match else math.nan
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise UserError(f"expected a time such as 25s, 1h, 1d, 1y, or seconds >= 0, got '{value}'")
        return super().__new__(cls, seconds)

    def __str__(self) -> str:
        unit = next((unit for unit, size in self.UNITS.items() if self and self % size == 0), "s")
        number = float(self) / self.UNITS[unit]
        return f"{number:g}{unit}" if float(f"{number:g}") == number else f"{number!r}{unit}"

    __repr__ = __str__


def reading(noise: str, strength: float) -> str:
    """The noise text without its swept number, which is the first one equal to ``strength``.

    >>> reading("gaussian:0.05,reference=layer", 0.05)
    'gaussian:reference=layer'
    >>> reading("gaussian(0.02)+quantize:6", 0.02)
    'gaussian+quantize:6'
    """
    for match in re.finditer(rf"([:(,])(?:\w+=)?({NUMBER})(?=([,)+]|$))", noise):
        if float(match[2]) == strength:
            before, after = noise[: match.start()], noise[match.end() :]
            if match[3] == ",":
                return before + match[1] + after[1:]
            return (before + match[1] * (match[1] == "(") + after).replace("()", "")
    return noise


def split_call(text: str, what: str = "setting") -> tuple[str, list[str]]:
    """Name and raw arguments of ``name``, ``name:a,b=c`` or ``name(a,b=c)``."""
    text = text.strip()
    match = re.fullmatch(r"([A-Za-z][\w-]*)(?::(.*)|\((.*)\))?", text, re.DOTALL)
    if match is None:
        raise UserError(f"expected a {what} such as name:value,key=value, got '{text}'")
    body = match[2] if match[2] is not None else match[3]
    return match[1], [] if body is None or not body.strip() else split_top(body, ",")


def split_top(text: str, separator: str) -> list[str]:
    """``text`` cut at each ``separator`` that stands outside every parenthesis."""
    parts, depth = [""], 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            break
        # The plus of 1e+05 joins nothing: what follows a composing plus is a name.
        joins = character == separator and depth == 0 and (separator != "+" or text[index + 1 :].lstrip()[:1].isalpha())
        if joins:
            parts.append("")
        else:
            parts[-1] += character
    if depth != 0:
        raise UserError(f"expected balanced parentheses, got '{text}'")
    return [part.strip() for part in parts]


def format_value(value: Any) -> str:
    """One value as text that :func:`parse_value` reads back to an equal value."""
    if isinstance(value, Described):
        return value.nested()
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, Duration):
        return str(value)
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        value = float(value)  # of numpy too, whose repr is np.float64(...)
        short = f"{value:g}" if float(f"{value:g}") == value else repr(value)
        # A float keeps its point, so that a warm-up of 1.0 (a fraction) never reads back as 1 (a step).
        return short if set(short) & set(".en") else f"{short}.0"
    return str(value)


def parse_value(text: str, kind: Any) -> Any:
    """``text`` read as a value of type ``kind``; raises :class:`UserError` when it is none."""
    options = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin is Literal:
        if text not in options:
            raise UserError(f"expected one of {', '.join(map(str, options))}, got '{text}'")
        return text
    if origin in (typing.Union, types.UnionType):
        for index, option in enumerate(options):
            try:
                return parse_value(text, option)
            except UserError:
                if index == len(options) - 1:
                    raise
    if kind is types.NoneType or kind is bool:
        words = {"none": None} if kind is types.NoneType else {"true": True, "false": False}
        if text.lower() not in words:
            raise UserError(f"expected {' or '.join(words)}, got '{text}'")
        return words[text.lower()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise UserError(f"expected {'a whole number' if kind is int else 'a number'}, got '{text}'") from None
    if kind is Duration:
        return Duration(text)
    if isinstance(kind, type) and issubclass(kind, Described):
        return kind.parse(text)
    return text


def _settings(cls: type) -> list[dataclasses.Field[Any]]:
    """The fields in written order: what has no default comes first, also where an inherited field has one."""
    fields = [field for field in dataclasses.fields(cls) if field.init]
    return sorted(fields, key=lambda field: _default(field) is not dataclasses.MISSING)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _construct(cls: type[Any], arguments: list[str], text: str) -> Any:
    fields = _settings(cls)
    kinds = typing.get_type_hints(cls)
    names = [field.name for field in fields]
    values: dict[str, Any] = {}
    for index, argument in enumerate(arguments):
        key, equals, value = argument.partition("=")
        by_key = bool(equals) and key.strip().isidentifier()
        if not by_key and (index >= len(names) or any(name in values for name in names[index:])):
            raise UserError(f"expected at most {len(names)} values in order, then key=value, in '{text.strip()}'")
        name, value = (key.strip(), value.strip()) if by_key else (names[index], argument)
        if name not in names:
            raise UserError(
                f"{cls.name} has no setting '{name}' (it has {', '.join(names) or 'none'}), in '{text.strip()}'"
            )
        if name in values:
            raise UserError(f"{cls.name}: '{name}' is given twice in '{text.strip()}'")
        try:
            values[name] = parse_value(value, kinds[name])
        except UserError as error:
            raise UserError(f"{cls.name}: {name}: {error}") from None
    missing = [f.name for f in fields if f.name not in values and _default(f) is dataclasses.MISSING]
    if missing:
        raise UserError(
            f"{cls.name} needs {', '.join(missing)}, for example {cls.name}:{missing[0]}=..., got '{text.strip()}'"
        )
    return cls(**values)
