"""Text forms read by Python's own parser: ``rwp:gaussian(0.1)+laplace(0.2),draws=2`` becomes a tree of values.

Grammar: ``name``, ``name:arguments`` or ``name(arguments)``; arguments are separated by commas and may begin with
``key=``; a value may be such a description itself, or several of them joined by ``+``. ``name:`` takes all that
follows at the outside of a text and one argument inside. What Python has no words for (``28-10``, ``1h``,
``path/to/a.csv``, ``package.module:Name``) is a word here: brackets, commas and the plus before a name alone are signs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

from noiserobust.errors import UserError

DEEPEST = 32
"""Descriptions inside each other."""
SIGNS = re.compile(r"[^()\[\]{},\s]")
HEAD = re.compile(r"\s*([A-Za-z_][\w.-]*)(:?)")
KEY = re.compile(r"\s*([^\W\d]\w*)\s*=")
JOIN = re.compile(r"\+\s*[^\W\d]")
"""The plus of 1e+05 joins nothing: what follows a joining plus is a name."""
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def read(text: str, what: str, joined: bool = False) -> list[Value]:
    """The values that ``text`` joins by ``+`` (one, unless ``joined`` lets it); ``what`` it should describe.

    Raises :class:`~noiserobust.UserError` for text that is not of the grammar.
    """
    text = text.strip()
    depths = list(accumulate((c in "([{") - (c in ")]}") for c in text))
    if depths and (min(depths) < 0 or depths[-1] != 0):
        raise UserError(f"expected balanced parentheses, got '{shown(text)}'")
    if max(depths, default=0) > DEEPEST:
        raise UserError(f"expected at most {DEEPEST} parentheses inside each other, got more in '{shown(text)}'")
    # As long as the text, character by character, so that a node's place is its text's.
    marks = list(re.sub(r"(?<=_) +(?=_)", lambda gap: "_" * len(gap[0]), re.sub(r"\s", " ", SIGNS.sub("_", text))))
    for match in JOIN.finditer(text):
        # Outside of all brackets a joining plus binds less than the commas, inside it binds more. Both of Python's
        # signs are flat: as many stages as one likes do not make the tree deep.
        marks[match.start()] = ";" if joined and depths[match.start()] == 0 else "<"
    try:
        statements = ast.parse("".join(marks)).body
    except SyntaxError:
        statements = []
    nodes = [statement.value for statement in statements if isinstance(statement, ast.Expr)]
    if not nodes or re.search(r",\s*(?=[)\]};<]|$)", "".join(marks)):
        raise malformed(text, what)
    return [Value(text, node, start, end) for node, start, end in _cut(text, nodes, "+", 0, len(text))]


@dataclass(frozen=True)
class Value:
    """A written value: its text, and the description (or the sum of some) that it may be."""

    source: str
    node: ast.expr
    start: int
    end: int
    depth: int = 0

    @property
    def text(self) -> str:
        """As it is written, without the spaces around it."""
        return self.source[self.start : self.end].strip()

    def stages(self) -> list[Value]:
        """The values that are joined by ``+``; itself alone where none are."""
        if not isinstance(self.node, ast.Compare):
            return [self]
        nodes = [self.node.left, *self.node.comparators]
        cuts = _cut(self.source, nodes, "+", self.start, self.end)
        return [replace(self, node=node, start=start, end=end) for node, start, end in cuts]

    def call(self, what: str) -> Call:
        """The name and the arguments of a description of ``what``."""
        if self.depth > DEEPEST:
            raise UserError(f"expected at most {DEEPEST} descriptions inside each other, got '{shown(self.source)}'")
        head = HEAD.match(self.source, self.start, self.end)
        nodes = self.node.elts if isinstance(self.node, ast.Tuple) else [self.node]
        if head is None or not nodes:
            raise malformed(self.text, what)
        first = nodes[0]
        if head[2]:
            return Call(head[1], self._arguments(nodes, head.end(), self.end), ":")
        if len(nodes) == 1 and not self.source[head.end() : self.end].strip():
            return Call(head[1], [])
        called = len(nodes) == 1 and isinstance(first, ast.Call) and isinstance(first.func, ast.Name)
        if not called or self.source[head.end()] != "(":
            raise malformed(self.text, what)
        assert isinstance(first, ast.Call)
        return Call(head[1], self._arguments(first.args, head.end() + 1, self.source.rindex(")", 0, self.end)), "(")

    def _arguments(self, nodes: Sequence[ast.expr], start: int, end: int) -> list[Argument]:
        arguments = []
        for node, first, last in _cut(self.source, nodes, ",", start, end):
            key = KEY.match(self.source, first, last)
            value = replace(self, node=node, start=key.end() if key else first, end=last, depth=self.depth + 1)
            arguments.append(Argument(key[1] if key else None, value))
        return [] if len(arguments) == 1 and not self.source[start:end].strip() else arguments


class Argument(NamedTuple):
    """A value, and the key that it stands behind."""

    key: str | None
    value: Value


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
        try:
            inner = self.arguments[0].value.call("name")
        except UserError:
            return None
        others = self.arguments[1:]
        if not DOTTED.fullmatch(inner.name) or (inner.mark == "(" and others):
            return None
        return f"{self.name}:{inner.name}", inner.arguments + others


def malformed(text: str, what: str) -> UserError:
    """The error for text that is no description."""
    return UserError(f"expected a {what} such as name:value,key=value, got '{shown(text)}'")


def shown(text: str, length: int = 200) -> str:
    """``text`` short enough for an error's one line."""
    line = re.sub(r"\s", " ", text)
    return line if len(line) <= length else f"{line[: length - 3]}..."


def _cut(text: str, nodes: Sequence[ast.expr], separator: str, start: int, end: int) -> list[tuple[ast.expr, int, int]]:
    """Each node with where its text begins and ends, between ``start`` and ``end``, cut at the separators."""
    if not nodes:
        return []
    cuts = [text.index(separator, node.end_col_offset) for node in nodes[:-1]]
    return list(zip(nodes, [start, *(cut + 1 for cut in cuts)], [*cuts, end], strict=True))
