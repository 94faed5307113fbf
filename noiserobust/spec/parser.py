"""Text forms read by Python's own parser: ``rwp:gaussian(0.1)+laplace(0.2),draws=2``.

Grammar: ``name``, ``name:arguments`` or ``name(arguments)``; arguments are separated by commas and may begin with
``key=``; a value may be such a description itself, or several of them joined by ``+``. ``name:`` takes all that
follows at the outside of a text and one argument inside. Everything else (``28-10``, ``1h``, ``path/to/a.csv``) is a
word: only brackets, commas and a plus before a name are signs.
"""

from __future__ import annotations

import ast
import re
from itertools import accumulate
from typing import NamedTuple

from noiserobust.errors import UserError
from noiserobust.file_kinds import misplaced

DEEPEST = 32
"""Descriptions inside each other."""
LONGEST = 100_000
"""Characters of a description."""
HEAD = re.compile(r"([A-Za-z_][\w.-]*)([:(]?)")
KEY = re.compile(r"([^\W\d]\w*)\s*=(.*)", re.DOTALL)
EXAMPLES = {"noise model": "gaussian:0.05", "method": "rwp:gaussian(0.1)", "model": "resnet18:width=16"}
"""How what people write most is written."""
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
COMMA = re.compile(",")
JOIN = re.compile(r"\+(?=\s*[^\W\d])")
VALUE = re.compile(r"([A-Za-z_][\w.-]*)\s*=\s*([\d.].*)")
"""A number that was given to a name by the wrong sign."""
BESIDE = re.compile(r";(?=\s*[^\W\d])")
"""The plus of 1e+05 joins nothing: what follows a joining plus is a name."""


class Argument(NamedTuple):
    """A written value, and the key that it stands behind."""

    key: str | None
    value: str


class Call(NamedTuple):
    """A description: ``name``, ``name:arguments`` or ``name(arguments)``."""

    name: str
    arguments: list[Argument]
    mark: str = ""
    """What follows the name: a colon, a parenthesis or nothing."""

    def reference(self) -> tuple[str, list[Argument]] | None:
        """``package.module:Name`` and its arguments, where this can be read as one."""
        if self.mark != ":" or not self.arguments or self.arguments[0].key or not DOTTED.fullmatch(self.name):
            return None
        first, *others = self.arguments
        try:
            inner = read(first.value, "name")
        except UserError:
            return None
        if not DOTTED.fullmatch(inner.name) or (inner.mark == "(" and others):
            return None
        return f"{self.name}:{inner.name}", inner.arguments + others


def read(text: str, what: str) -> Call:
    """Name and arguments of a description of ``what``; raises :class:`~noiserobust.UserError` for other text."""
    text = text.strip()
    head = HEAD.match(text)
    name, mark = head.groups() if head else ("", "")
    inside = text[head.end() :] if head else text
    split(text, COMMA)  # refuses brackets that do not match
    if head is None or (mark == "" and inside) or (mark == "(" and not text.endswith(")")):
        raise _malformed(text, what)
    if mark == "(":
        inside = inside.removesuffix(")")
    parts = split(inside, COMMA)
    if len(parts) > 1 and "" in parts:
        raise _malformed(text, what)
    return Call(name, [_argument(part) for part in parts if part], mark)


def _argument(text: str) -> Argument:
    key = KEY.fullmatch(text)
    return Argument(key[1], key[2].strip()) if key else Argument(None, text)


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts of ``text`` between the separators that are in no brackets, without the spaces around them.

    Python's own parser finds them, as the arguments of a call that is as long as the text, character by character: it
    has the text's brackets, commas for the separators, comparisons for other signs, and a letter for the rest. Raises
    :class:`~noiserobust.UserError` for brackets that do not match, and for descriptions too deep inside each other to
    be read.
    """
    if len(text) > LONGEST:
        raise UserError(f"expected a description of at most {LONGEST} characters, got {len(text)}: '{shown(text, 60)}'")
    nesting = max(accumulate((c in "([{") - (c in ")]}") for c in text), default=0)
    colons = max(part.count(":") for part in re.split(r"[,+()]", text))  # each may begin one inside the one before
    if nesting + colons > DEEPEST:
        raise UserError(f"expected at most {DEEPEST} descriptions inside each other, got '{shown(text)}'")
    signs = {match.start(): "<" for pattern in (COMMA, JOIN, BESIDE) for match in pattern.finditer(text)}
    signs |= {match.start(): "," for match in separator.finditer(text)}
    letters = re.sub(r"[^\s()\[\]{}]", "_", re.sub(r"\s", " ", text))
    outline = "".join(signs.get(place, letter) for place, letter in enumerate(letters))
    outline = re.sub(r"(?<=_) +(?=_)", lambda gap: "_" * len(gap[0]), outline)  # a word may hold spaces
    try:
        call = ast.parse(f"_({outline})", mode="eval").body
    except (SyntaxError, MemoryError, RecursionError):
        call = None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise UserError(f"expected balanced parentheses and a value between commas, got '{shown(text)}'")
    parts, start = [], 0
    for node in call.args[:-1]:
        end = outline.index(",", (node.end_col_offset or 0) - 2)  # the call's own name and parenthesis come before
        parts.append(text[start:end].strip())
        start = end + 1
    last = text[start:].strip()
    return [*parts, last.removesuffix(","), ""] if outline.rstrip().endswith(",") else [*parts, last]


def _malformed(text: str, what: str) -> UserError:
    """The error for text that is no description; a path may be that of a file that belongs to another place."""
    ways = "the path of a folder that is there, or " if what == "data set" and "/" in text else ""
    form = f"{EXAMPLES[what]} (name:value,key=value)" if what in EXAMPLES else "name:value,key=value"
    found = misplaced(text) if "/" in text else ""
    meant = VALUE.fullmatch(text)
    end = f", {found}" if found else f"; did you mean {meant[1]}:{meant[2]}?" if meant else ""
    return UserError(f"expected a {what} such as {ways}{form}, got '{shown(text)}'{end}")


def shown(text: str, length: int = 200) -> str:
    """``text`` short enough for an error's one line."""
    line = re.sub(r"\s", " ", text)
    return line if len(line) <= length else f"{line[: length - 3]}..."
