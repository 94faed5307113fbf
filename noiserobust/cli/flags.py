"""The command line's words as values: a command is a dataclass, and its fields are its flags.

A field that is itself a dataclass gives its fields as further flags.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import os
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from inspect import get_annotations
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from noiserobust.errors import UserError
from noiserobust.limits import WIDEST
from noiserobust.spec.listing import check

if TYPE_CHECKING:
    from noiserobust.cli.output import Part

FAMILIES = {
    **dict.fromkeys(("noise", "select_noise", "vary_time"), "noises"),
    **dict.fromkeys(("model", "models"), "models"),
    **dict.fromkeys(("measures", "log"), "measures"),
    **{name: name for name in ("data", "metrics", "converters")},
    "method": "methods",
    "task": "tasks",
    "backend": "backends",
}
"""Flags whose words are text forms: the name in such a word is checked before anything heavy is imported."""
SEVERAL = "*"
Groups = Mapping[str, tuple[str, ...]]
PLACES = {
    "out": "file of rows",
    "wide": "file of rows",
    "plot": "picture",
    "table": "table",
    "page": "page",
    "layers_out": "file",
    "keep": "folder",
}
"""Fields that say where something is to be written, and what it is."""


NEEDED = {
    "checkpoints": "expected at least one checkpoint, got none; name runs' folders, or a folder of runs",
    "rows": "expected files of rows, got none; evaluate writes them",
    "runs": "expected runs' folders, or a folder of runs, got none; train makes them",
}
"""Positional arguments of several words that a command does nothing without."""

OUTPUT: Groups = {"output": ("page", "wide", "json", "quiet")}
"""The group of flags that commands share: json and quiet are of all."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Base of the commands, which are dataclasses."""

    examples: ClassVar[tuple[str, str]]
    """Two invocations, with which help opens."""
    positional: ClassVar[tuple[str, ...]] = ()
    """Fields whose words have no flag before them."""
    hidden: ClassVar[tuple[str, ...]] = ()
    """Fields that are not offered."""
    rare: ClassVar[Groups] = {}
    """Flags that help shows after the others, in groups by title."""

    json: bool = False
    """Print one JSON object for programs, and nothing else."""
    quiet: bool = False
    """Print the answer alone: no progress, no remarks."""

    def run(self) -> Iterator[Part]:
        """Do it, and answer piece by piece."""
        raise NotImplementedError

    def check_places(self) -> None:
        """Refuse files and folders that cannot be written, before any work is done for them."""
        from noiserobust.storage.files import FORMATS, file_to_write, folder_to_write, known_to_write

        seen: dict[str, str] = {}
        for field in dataclasses.fields(self):
            path = getattr(self, field.name)
            if not isinstance(path, Path) or field.name not in PLACES:
                continue
            other = seen.setdefault(os.path.abspath(path), field.name)
            if other != field.name:
                raise UserError(f"expected files of their own for {other} and {field.name}, got {path} for both")
            kind = "folder" if isinstance(field.default, Path) and not field.default.suffix else PLACES[field.name]
            if kind == "folder" and path.suffix.lower() in FORMATS["file of rows"]:
                raise UserError(
                    f"expected a folder for --{field.name}, got {path}, a file's name; name a folder: rows.parquet "
                    f"in it becomes {path.suffix} by noiserobust report --wide"
                )
            if kind in ("file", "folder"):
                (folder_to_write if kind == "folder" else file_to_write)(path)
            else:
                known_to_write(path, kind)


@dataclass(frozen=True)
class Flag:
    """One flag of a command, or one of its positional arguments."""

    name: str
    owner: str
    """Field of the command whose value it is a part of; empty where it is itself a field of the command."""
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
    def optional(self) -> bool:
        """Whether it may be left out, of a positional argument."""
        return self.default is not dataclasses.MISSING and (self.count is None or "(default: " in self.text)

    @property
    def option(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def choices(self) -> tuple[Any, ...]:
        return tuple(choice for kind in self.kinds if get_origin(kind) is Literal for choice in get_args(kind))

    def read(self, word: str) -> Any:
        """The value that ``word`` says; raises ArgumentTypeError or :class:`UserError` when it says none."""
        if self.family:
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
                    value = word if kind is Any else kind(word)
                except ValueError:
                    continue
                if isinstance(value, int) and not -WIDEST <= value < WIDEST:
                    raise argparse.ArgumentTypeError(f"expected a number of at most 64 bits, got {value}")
                return value
        number = "a number" if float in self.kinds else "a whole number"
        if self.count == SEVERAL and "," in word and not texts:
            number = f"{number} (several with spaces between them)"
        raise argparse.ArgumentTypeError(f"expected {', '.join(texts) or number}, got '{word}'{nearest(word, texts)}")


def flags_of(command: type[Command]) -> list[Flag]:
    """The flags of a command: those that it adds, then those that it shares."""
    return [flag for flag in _flags(command, command.positional) if flag.name not in command.hidden]


def _flags(kind: Any, positional: Sequence[str] = (), owner: str = "") -> Iterator[Flag]:
    hints, texts, classes = get_type_hints(kind), _texts(kind), kind.__mro__
    homes = {name: place for place, base in enumerate(classes) for name in get_annotations(base)}
    for field in sorted(dataclasses.fields(kind), key=lambda field: homes[field.name]):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _flags(hints[field.name], owner=field.name)
        else:
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
    if not Path(file).is_file():  # an installation without sources: help then has no texts
        return {}
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


def read_command(command: type[Command], words: Sequence[str], prog: str) -> Any:
    """The ``command`` that ``words`` say; raises :class:`~noiserobust.UserError`, which names the command's help."""
    flags = flags_of(command)
    parser = _Parser(prog, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for flag in flags:
        if flag.positional:
            optional = flag.count is None and flag.default is not dataclasses.MISSING
            count, default = ("?", flag.default) if optional else (flag.count, argparse.SUPPRESS)
            parser.add_argument(flag.name, type=flag.read, nargs=count, default=default)
        elif bool in flag.kinds:
            parser.add_argument(flag.option, dest=flag.name, action=argparse.BooleanOptionalAction)
        else:
            action = "extend" if flag.count == SEVERAL else "store"
            parser.add_argument(flag.option, dest=flag.name, nargs=flag.count, type=flag.read, action=action)
    known = list(parser._option_string_actions)
    given = vars(parser.parse_args([_spelled(word, known, parser) for word in words]))
    for flag in flags:
        if flag.positional and flag.name in NEEDED and not given.get(flag.name):
            parser.error(NEEDED[flag.name])
    hints = get_type_hints(command)
    parts: dict[str, dict[str, Any]] = {"": {}}
    for flag in flags:
        part = parts.setdefault(flag.owner, {})
        if flag.name in given:
            value = given[flag.name]
            part[flag.name] = tuple(value) if isinstance(value, list) else value
    direct = parts.pop("")
    return command(**direct, **{owner: hints[owner](**part) for owner, part in parts.items()})


def _spelled(word: str, known: Sequence[str], parser: _Parser) -> str:
    """``word`` with its flag as it is known, if it is a flag."""
    if not word.startswith("--") or word == "--":
        return word
    name, equals, value = word.partition("=")
    name = name.replace("_", "-")
    if name not in known:
        others = _commands_with(name)
        end = f", which is one of {', '.join(others)}" if others else nearest(name, known)
        parser.error(f"expected an option, got {name}{end}")
    return name + equals + value


def _commands_with(option: str) -> list[str]:
    """The commands that have this option."""
    from noiserobust.cli.app import COMMANDS, command_class  # which imports this module

    return [name for name in COMMANDS if option in {flag.option for flag in flags_of(command_class(name))}]
