"""Stands in for noiserobust.spec.listing until that is there."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import noiserobust
from noiserobust.errors import UserError

ROOMS = {
    "noises": "noise",
    "methods": "training/rules",
    "models": "models",
    "measures": "minima",
    "converters": "analog",
}
ROOMS |= {"backends": "analog/backends"}


@dataclass(frozen=True)
class Member:
    name: str
    path: str
    fields: tuple[tuple[str, str, str], ...]
    summary: str
    example: str


@cache
def members(family: str) -> dict[str, Member]:
    if family not in ROOMS and family != "data":
        return {}
    if family == "data":
        names = ["digits", "cifar10", "cifar100", "fashion-mnist", "svhn", "sums", "imagenet"]
        return {n: Member(n, "", (), "", n) for n in names}
    found = {}
    for file in sorted((Path(noiserobust.__file__).parent / ROOMS[family]).glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            for key in getattr(node, "keywords", []):
                if key.arg == "name" and isinstance(node, ast.ClassDef):
                    name = ast.literal_eval(key.value)
                    doc = " ".join((ast.get_docstring(node) or "").split()).split(". ")[0]
                    found[name] = Member(name, "", (), doc, name)
    return found


def check(family: str, text: str) -> None:
    if family not in ROOMS and family != "data":
        return
    head = text.split("(")[0].split(":")[0].strip()
    if head in members(family) or "." in head:
        return
    near = get_close_matches(head, members(family), 1)
    word = family.removesuffix("s")
    raise UserError(
        f"expected a {word} ({', '.join(members(family))}), got '{text}'"
        + (f"; did you mean {near[0]}?" if near else "")
    )
