"""Docstrings as Markdown: roles become code, equations become MathML."""

from __future__ import annotations

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`(?:[^`<]*<)?~?([^`>]+)>?`")
INLINE = re.compile(r":math:`([^`]+)`", re.DOTALL)
SESSION = re.compile(r"^>>> .*\n?(?:(?!\n|$).*\n?)*", re.MULTILINE)
BLOCK = re.compile(r"^\.\. math::\s*\n?\n?((?:[ \t]+.+\n?|\s*\n(?=[ \t]))+|.+\n?)", re.MULTILINE)


def as_markdown(text: str) -> str:
    """``text`` with what only Sphinx reads made readable."""
    text = BLOCK.sub(lambda found: f"\n{_math(found[1], 'block')}\n\n", text)
    text = INLINE.sub(lambda found: _math(found[1], "inline"), text)
    text = ROLE.sub(lambda found: f"`{found[1].split('.')[-1]}`", text).replace("``", "`")
    return SESSION.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)


def _math(latex: str, display: str) -> str:
    return str(convert(" ".join(latex.split()), display=display))


class Docstrings(griffe.Extension):
    """Rewrites every docstring as it is read."""

    def on_instance(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
