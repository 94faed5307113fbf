"""The members of a family, read from the source without importing it: names, settings, defaults, one example each.

Importing them takes seconds, for torch; help, lists and typos need not wait for that.
"""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from noiserobust.errors import UserError
from noiserobust.spec.duration import Duration
from noiserobust.spec.parser import JOIN, read, shown, split
from noiserobust.spec.references import is_module, nearest
from noiserobust.spec.writer import called, format_value

PACKAGE = Path(__file__).parents[1]


class Family(NamedTuple):
    """What is found by name: where its members are defined, and how they are written."""

    folder: str
    root: str
    """Class that all members descend from."""
    word: str
    """What one member is called in messages."""
    text: str
    """How a member is written."""


FAMILIES = {
    "noises": Family("noise", "NoiseModel", "noise model", "NAME:VALUE,SETTING=VALUE; several are joined by +"),
    "methods": Family(
        "training/rules", "Method", "method", "NAME:VALUE,SETTING=VALUE; noise or rule inside in parentheses"
    ),
    "measures": Family(
        "minima", "Measure", "measure", "NAME:VALUE,SETTING=VALUE; noise or perturbation inside in parentheses"
    ),
    "tasks": Family("tasks", "Task", "task", "NAME:SETTING=VALUE; what a network's outputs mean"),
    "metrics": Family("tasks", "Metric", "metric", "NAME, beside accuracy and loss, which are always there"),
    "models": Family("models", "ModelSpec", "model", "NAME:VALUE,SETTING=VALUE"),
    "data": Family("data", "DataSource", "data set", "NAME, or the path of an image folder"),
    "schedules": Family("training", "Schedule", "schedule", "NAME(VALUE,SETTING=VALUE), where a rule has a strength"),
    "probabilities": Family(
        "training", "Probability", "probability schedule", "NAME(VALUE,SETTING=VALUE), where a rule has a probability"
    ),
    "averages": Family("training", "Average", "average", "NAME:VALUE,SETTING=VALUE, of a run's weights"),
    "clippings": Family("training", "Clip", "clipping", "NAME(VALUE,SETTING=VALUE), or a number of rms"),
    "converters": Family("analog", "Converters", "converters", "NAME:SETTING=VALUE, or none"),
    "ranges": Family("analog", "InputRanges", "input ranges", "NAME:SETTING=VALUE, of converters in training"),
    "perturbations": Family(
        "minima",
        "Perturbation",
        "perturbation",
        "NAME(VALUE,SETTING=VALUE), inside a measure, for the weights it is of",
    ),
    "backends": Family("analog/backends", "Backend", "backend", "NAME:SETTING=VALUE"),
}


@dataclass(frozen=True)
class Member:
    """One thing that has a name."""

    name: str
    path: str
    """``module:Class``."""
    fields: tuple[tuple[str, str, str | None], ...]
    """Its settings in written order: name, choices (where there are few), default as text (None for none)."""
    summary: str
    """First sentence of its docstring."""
    example: str


@cache
def members(family: str) -> dict[str, Member]:
    """The members of a family (a key of :data:`FAMILIES`) by name, in alphabetical order."""
    if family not in FAMILIES:
        raise UserError(f"expected {', '.join(FAMILIES)}, got '{family}'{nearest(family, FAMILIES)}")
    listed = {}
    for file in sorted((PACKAGE / FAMILIES[family].folder).rglob("*.py")):
        for node in _module(file).values():
            if isinstance(node, ast.ClassDef) and (name := _keyword(node, "name")) is not None:
                ancestors = _ancestors(Place(file, node))
                if any(place.node.name == FAMILIES[family].root for place in ancestors):
                    listed[name] = _member(name, ancestors)
    return dict(sorted(listed.items()))


def check(family: str, text: str) -> None:
    """Refuse a text that begins neither with a name of ``family`` nor with ``package.module:Name``, without an import.

    Raises :class:`~noiserobust.UserError`, which suggests what is nearest.
    """
    known, word = members(family), FAMILIES[family].word
    if family == "data" and (os.path.isdir(text) or re.match(r"[\w-]+:", text)):
        return
    if family == "converters" and text.strip() == "none":
        return
    for stage in split(text, JOIN) if family == "noises" else [text]:
        call = read(stage, word)
        reference = call.reference()
        if call.name not in known and not (reference and is_module(reference[0])):
            names = f"({', '.join(known)})" + (" or the path of an image folder" if family == "data" else "")
            end = nearest(call.name, known, arrays=family == "data")
            raise UserError(f"expected a {word} {names}, got '{shown(stage)}'{end}")


class Place(NamedTuple):
    """A definition, and the file whose names it uses."""

    file: Path
    node: Any


@cache
def _module(file: Path) -> dict[str, ast.AST]:
    """What the names of a module stand for: classes, assigned values, imports from this package."""
    names: dict[str, ast.AST] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = node.value
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: ast.ImportFrom(node.module, [alias], 0) for alias in node.names}
    return names


def _lookup(file: Path, name: str) -> Place | None:
    """Where ``name``, as ``file`` uses it, is defined; None outside of this package."""
    node = _module(file).get(name)
    if not isinstance(node, ast.ImportFrom):
        return None if node is None else Place(file, node)
    parts = (node.module or "").split(".")
    if parts[0] != PACKAGE.name:
        return None
    base = PACKAGE.joinpath(*parts[1:])
    for source in (base.with_suffix(".py"), base / "__init__.pyi", base / "__init__.py"):
        if source.is_file() and (place := _lookup(source, node.names[0].name)) is not None:
            return place
    return None


def _keyword(node: ast.ClassDef, key: str) -> str | None:
    """A keyword of a class statement, such as ``name="gaussian"``."""
    values = [k.value.value for k in node.keywords if k.arg == key and isinstance(k.value, ast.Constant)]
    return str(values[0]) if values else None


def _ancestors(place: Place) -> list[Place]:
    """A class and what it descends from, nearest first."""
    chain = [place]
    for base in place.node.bases:
        if isinstance(base, ast.Name) and (parent := _lookup(place.file, base.id)) is not None:
            chain += _ancestors(parent)
    return chain


def _member(name: str, ancestors: list[Place]) -> Member:
    file, node = ancestors[0]
    module = ".".join([PACKAGE.name, *file.relative_to(PACKAGE).with_suffix("").parts])
    fields = tuple((f.name, _choices(f.kind), f.default and _text(f.default)) for f in _settings(ancestors))
    example = _class_value(ancestors, "example") or name
    return Member(name, f"{module}:{node.name}", fields, _summary(ast.get_docstring(node) or ""), example)


class Field(NamedTuple):
    """A setting: its name, its annotation, its default."""

    name: str
    kind: Place
    default: Place | None
    by_key: bool = False
    """Whether it always needs its key."""


def _settings(ancestors: list[Place]) -> list[Field]:
    """The dataclass fields as they are written: what has no default comes first."""
    fields: dict[str, Field] = {}
    for file, node in reversed(ancestors):
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                if "ClassVar" in ast.unparse(line.annotation):
                    continue
                value, name = _default(line.value), line.target.id
                default = None if value is None else Place(file, value)
                by_key = isinstance(line.value, ast.Call) and any(k.arg == "kw_only" for k in line.value.keywords)
                fields[name] = Field(name, Place(file, line.annotation), default, by_key)
    return sorted(fields.values(), key=lambda field: 0 if field.default is None else 1 + field.by_key)


def _default(value: ast.expr | None) -> ast.expr | None:
    """The default that is assigned, also by ``field(...)``; a factory's is what it returns."""
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "field"):
        return value
    given = {keyword.arg: keyword.value for keyword in value.keywords}
    factory = given.get("default_factory")
    if factory is None:
        return given.get("default")
    return factory.body if isinstance(factory, ast.Lambda) else ast.Call(factory, [], [])


def _class_value(ancestors: list[Place], name: str) -> str | None:
    """A class attribute that is a text, of the nearest class that has it."""
    for _, node in ancestors:
        for line in node.body:
            target = line.target if isinstance(line, ast.AnnAssign) else None
            if isinstance(target, ast.Name) and target.id == name and isinstance(line.value, ast.Constant):
                return str(line.value.value)
    return None


def _text(value: Place) -> str:
    """A default as text, as :func:`~noiserobust.spec.format_value` writes it."""
    file, node = value
    if isinstance(node, ast.Name) and (constant := _lookup(file, node.id)) is not None:
        return _text(constant)
    if not isinstance(node, ast.Call):
        return format_value(ast.literal_eval(node))
    name = ast.unparse(node.func)
    if name == "Duration":
        return format_value(Duration(ast.literal_eval(node.args[0])))
    described = _lookup(file, name)
    if described is None or not isinstance(described.node, ast.ClassDef):
        return ast.unparse(node)
    fields = _settings(_ancestors(described))
    positional = list(zip(fields, node.args, strict=False))
    if not positional and _class_value(_ancestors(described), "leading") in (None, "always"):
        positional = [(field, field.default.node) for field in fields[:1] if field.default]
    texts = [_text(Place(file, argument)) for _, argument in positional[:1]]
    texts += [f"{field.name}={_text(Place(file, argument))}" for field, argument in positional[1:]]
    texts += [f"{keyword.arg}={_text(Place(file, keyword.value))}" for keyword in node.keywords]
    return called(_keyword(described.node, "name") or "none", texts, nested=True)


def _choices(kind: Place) -> str:
    """``filter, layer`` of a field that takes one of a few words; empty for others."""
    file, node = kind
    if isinstance(node, ast.Name) and (alias := _lookup(file, node.id)) is not None:
        return _choices(alias)
    if not isinstance(node, ast.Subscript) or ast.unparse(node.value) != "Literal":
        return ""
    options = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return ", ".join(str(ast.literal_eval(option)) for option in options)


SIGNS = {"nabla": "grad", "sim": "~", "leftarrow": "<-", "lVert": "|", "rVert": "|", "hat": "", "tilde": ""}


def _summary(docstring: str) -> str:
    """The first sentence, without the marks of the documentation."""
    text = re.sub(r"\s+", " ", docstring.split("\n\n")[0])
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?([^`]*)`|`+([^`]*)`+", lambda match: match[1] or match[2], text)
    text = re.sub(r"\\mathrm|\\[,;]|[{}]", "", text)
    text = re.sub(r"\\([A-Za-z]+) ?", lambda match: SIGNS.get(match[1], match[1]) + " ", text)
    sentence = re.split(r"(?<!et al)\.\s+(?=[A-Z0-9])", text.strip())[0]
    return re.sub(r"\s+(?=[),])|(?<=\s)\s+", "", sentence).strip().rstrip(".:")
