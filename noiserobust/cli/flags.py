"""Words of the command line as values: a command is a dataclass, and its fields are its flags.

A field that is itself a dataclass gives its fields as further flags. Class attributes of a command say what its fields
do not: ``positional`` names those without a flag, ``hidden`` those that are not offered, ``common`` those that help
shows first, ``rare`` the others by the title of their group, ``examples`` two invocations.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from noiserobust.cli.listing import check
from noiserobust.errors import UserError

FAMILIES = {
    **dict.fromkeys(("noise", "select_noise", "vary_time"), "noises"),
    **dict.fromkeys(("model", "models"), "models"),
    **dict.fromkeys(("measures", "log"), "measures"),
    **{name: name for name in ("data", "metrics", "converters")},
    "method": "methods",
    "backend": "backends",
}
"""Flags whose words are text forms: the name in such a word is checked before anything heavy is imported."""
SEVERAL = "*"


@dataclass(frozen=True)
class Flag:
    """One flag of a command, or one of its positional arguments."""

    name: str
    owner: str
    """Field of the command that holds it; empty where it is the command's own."""
    text: str
    kinds: tuple[Any, ...]
    """Types of one word."""
    count: int | str | None
    """Number of words: a number, ``*``, or None for one."""
    default: Any
    positional: bool

    @property
    def family(self) -> str | None:
        return FAMILIES.get(self.name) if {str, Any} & set(self.kinds) else None

    @property
    def option(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def choices(self) -> tuple[Any, ...]:
        return tuple(choice for kind in self.kinds if get_origin(kind) is Literal for choice in get_args(kind))

    def read(self, word: str) -> Any:
        """The value that ``word`` says; raises ArgumentTypeError or :class:`UserError` when it says none."""
        if self.family and not (self.family == "data" and (word.startswith("stream:") or Path(word).is_dir())):
            try:
                check(self.family, word)
            except UserError as error:
                raise argparse.ArgumentTypeError(str(error)) from None
            return word
        if type(None) in self.kinds and word.lower() == "none":
            return None
        texts = {str(choice): choice for choice in self.choices}
        if word in texts:
            return texts[word]
        for kind in self.kinds:
            if kind in (int, float, str, Path, Any):
                try:
                    return word if kind is Any else kind(word)
                except ValueError:
                    continue
        number = "a number" if float in self.kinds else "a whole number"
        raise argparse.ArgumentTypeError(f"expected {', '.join(texts) or number}, got '{word}'{nearest(word, texts)}")


def flags_of(command: type) -> list[Flag]:
    """The flags of a command in the order of its fields."""
    positional, hidden = getattr(command, "positional", ()), getattr(command, "hidden", ())
    return [flag for flag in _flags(command, positional) if flag.name not in hidden]


def _flags(kind: Any, positional: Sequence[str] = (), owner: str = "") -> Iterator[Flag]:
    hints, texts = get_type_hints(kind), _texts(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _flags(hints[field.name], owner=field.name)
            continue
        text, words = texts.get(field.name, ""), _words(hints[field.name])
        yield Flag(field.name, owner, text, *words, field.default, field.name in positional)


def _words(hint: Any) -> tuple[tuple[Any, ...], int | str | None]:
    """Types of one word of a field, and how many words it takes; a sequence among its types allows several."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in kinds:
        if get_origin(kind) is not Literal and isinstance(get_origin(kind), type):
            inner = [part for part in get_args(kind) if part is not Ellipsis]
            return _words(inner[0])[0], len(inner) if len(inner) > 1 else SEVERAL
    return kinds, None


def _texts(kind: type) -> dict[str, str]:
    """What stands below each field, read from the source."""
    texts: dict[str, str] = {}
    for owner in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        for field, below in pairwise(_classes(sys.modules[owner.__module__].__file__ or "").get(owner.__name__, [])):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = " ".join(text.split())
    return texts


@cache
def _classes(file: str) -> dict[str, list[ast.stmt]]:
    nodes = ast.parse(Path(file).read_text(encoding="utf-8")).body
    return {node.name: node.body for node in nodes if isinstance(node, ast.ClassDef)}


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"`` where one of ``known`` is like ``word``."""
    near = get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def refused(message: str, help_of: str) -> UserError:
    """``message`` with the command that helps."""
    return UserError(f"{message}{' ' if message.endswith('?') else '; '}{help_of} --help shows what there is")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ").replace("unrecognized arguments:", "expected nothing more, got")
        raise refused(message, self.prog)


def read_command(command: type, words: Sequence[str], prog: str) -> Any:
    """The ``command`` that ``words`` say; raises :class:`~noiserobust.UserError`, which names the command's help."""
    flags = flags_of(command)
    parser = _Parser(prog, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for flag in flags:
        if flag.positional:
            optional = {"nargs": "?", "default": flag.default} if flag.default in flag.choices else {}
            parser.add_argument(flag.name, type=flag.read, **({"nargs": flag.count} | optional))
        elif bool in flag.kinds:
            parser.add_argument(flag.option, dest=flag.name, action=argparse.BooleanOptionalAction)
        else:
            action = "extend" if flag.count == SEVERAL else "store"
            parser.add_argument(flag.option, dest=flag.name, nargs=flag.count, type=flag.read, action=action)
    known = list(parser._option_string_actions)
    given = vars(parser.parse_args([_spelled(word, known, parser) for word in words]))
    hints = get_type_hints(command)
    parts: dict[str, dict[str, Any]] = {"": {}}
    for flag in flags:
        part = parts.setdefault(flag.owner, {})
        if flag.name in given:
            value = given[flag.name]
            part[flag.name] = tuple(value) if isinstance(value, list) else value
    own = parts.pop("")
    return command(**own, **{owner: hints[owner](**part) for owner, part in parts.items()})


def _spelled(word: str, known: Sequence[str], parser: _Parser) -> str:
    """``word`` with its flag as it is known, if it is a flag."""
    if not word.startswith("--") or word == "--":
        return word
    name, equals, value = word.partition("=")
    name = name.replace("_", "-")
    if name not in known:
        parser.error(f"expected an option, got {name}{nearest(name, known)}")
    return name + equals + value
