"""What a file is, by its first bytes, and where one of its kind is given: for whoever gave it at another place."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from noiserobust.errors import UserError

FIRST = 1 << 16
"""Bytes of a file that are looked at."""
KINDS = {
    "rows": ("rows of results", "report, yield and compare them: noiserobust report {path}"),
    "devices": ("a table of measured devices", "it is a noise: --noise measured:{path}"),
    "weights": ("weights of a network", "they are a model: noiserobust evaluate {path}, or --initial {path}"),
    "arrays": (
        "NumPy's arrays",
        "of a measured chip they are a noise: --noise chips:{path}; data are a function",
    ),
    "layers": ("settings by layer", "they are an option: --layers {path}"),
    "toml": (
        "a TOML file",
        "settings by layer are TOML (--layers); a table of measured devices is CSV, docs/arrays.md",
    ),
    "sheet": ("a document of an office program", "save the table as CSV"),
    "log": ("the log of a training", "name the run's folder, {folder}"),
    "page": ("a page for people", "name the rows or the runs that it was made of"),
    "picture": ("a picture or document", "name the rows that it was drawn of; images are data in folders by class"),
}
"""Kinds of files: what each is called, and what to do with one."""
PICTURES = (b"\x89PNG", b"%PDF", b"\xff\xd8\xff", b"GIF8")
SETTINGS = {"noise", "converters", "digital", "reference", "on_off", "g_max"}
"""What settings by layer say of a pattern."""


def require_kind(path: str | os.PathLike[str], what: str, *kinds: str) -> None:
    """Refuse a file of another kind than ``kinds``, by its content; one of no known kind is left to its reader."""
    if found := misplaced(path, *kinds):
        raise UserError(f"expected {what}, got {path}, {found}")


def misplaced(path: str | os.PathLike[str], *kinds: str) -> str:
    """What the file is and where it is given, where it is of a known kind and of none of ``kinds``; else ""."""
    found = list(_kinds(path))
    if not found or set(found) & set(kinds):
        return ""
    name, advice = KINDS[found[0]]
    return f"{name}; {advice.format(path=path, folder=os.path.dirname(path) or '.')}"


def _kinds(path: str | os.PathLike[str]) -> Iterator[str]:
    """The kinds that a file may be of, the likeliest first; none where it cannot be told."""
    try:
        if not os.path.isfile(path):  # a pipe would be waited for
            return
        with open(path, "rb") as file:
            start = file.read(FIRST)
    except OSError:
        return
    if start.startswith(b"PAR1"):
        yield "rows"
    elif start.startswith(PICTURES) or b"<svg" in start[:1000]:
        yield "picture"
    elif start.startswith(b"PK\x03\x04"):  # an archive, whose first member's name follows
        name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
        ends = {b".npy": "arrays", b"data.pkl": "weights", b"[Content_Types].xml": "sheet"}
        yield from (kind for end, kind in ends.items() if name.endswith(end))
    elif start[8:9] == b"{" and start[5:8] == b"\0\0\0":  # a length, then JSON
        yield from ("weights", "arrays")
    elif start.startswith((b"\x80\x02", b"\x80\x04")):
        yield "weights"
    elif b"\0" not in start:
        yield from _texts(start.decode("utf-8", "replace").lstrip("\ufeff \r\n"))


def _texts(start: str) -> Iterator[str]:
    first, *others = [line for line in start.splitlines() if line.strip() and not line.startswith("#")] or [""]
    columns = {re.split(r"[\s(\[/]", cell.strip(' "').lower())[0] for cell in re.split("[,;\t]", first)}
    if start[:15].lower().startswith(("<!doctype html", "<html")):
        yield "page"
    elif {"state", "mean_error", "std"} <= columns:
        yield "devices"
    elif {"epoch", "train_loss"} <= columns:
        yield "log"
    elif {"method", "noise", "value"} <= columns or (first.startswith("{") and '"metric"' in first):
        yield "rows"
    elif re.fullmatch(r"\[+[^\[\],]+\]+\s*(#.*)?", first) or (re.match(r'["\w.-]+ = \S', first) and others):
        keys = {match[1] for line in (first, *others) if (match := re.match(r"\s*(\w+)\s*=", line))}
        if keys:
            yield "layers" if first[0] == "[" and keys <= SETTINGS else "toml"
