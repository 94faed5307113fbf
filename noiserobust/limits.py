"""How much of what comes out of files is taken: beyond these sizes it is refused before it is read or built.

``NOISEROBUST_LIMITS="pixels=100e6,parts=500"`` in the environment sets others, also for worker processes.
"""

from __future__ import annotations

import os
import stat
from contextvars import ContextVar
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from noiserobust.errors import UserError

VARIABLE = "NOISEROBUST_LIMITS"
WIDEST = 2**63
"""Whole numbers lie in -WIDEST ... WIDEST - 1: what rows, and torch, can hold."""
TABLE_WIDTH: ContextVar[int] = ContextVar("table_width", default=140)
"""Characters of a line before a table of text continues below; commands set that of the terminal."""


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no such question on this system
        return 64 << 30


@dataclass(frozen=True)
class Limits:
    """What is taken at most; each must be above 0."""

    file: float = float(_memory())
    """Bytes of a file of weights or chips (this machine's memory)."""
    table: float = 16e6
    """Bytes of a text: a table of measurements, settings by layer, a checkpoint's description."""
    depth: float = 64
    """Lists and dictionaries inside each other, in what a file describes."""
    headroom: float = 1e9
    """Bytes that reading or building may take beyond the weights themselves."""
    parameters: float = _memory() / 4
    """Parameters of a network (as many as fit into this machine's memory)."""
    tensors: float = 10_000
    """Tensors that a network of this package has: many small layers take long, too."""
    pixels: float = 2.0**25
    """Pixels of an image: 33.6 million."""
    times: float = 10_000
    """Times at which a chip was measured."""
    parts: float = 100
    """Parts of a composed noise."""
    patience: float = 60
    """Seconds until a Ray cluster must answer."""


def limits() -> Limits:
    """Those that the environment sets, the usual ones elsewhere."""
    return _read(os.environ.get(VARIABLE, ""))


@cache
def _read(text: str) -> Limits:
    names = [field.name for field in fields(Limits)]
    values: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition("=")
        try:
            values[name] = float(number)
        except ValueError:
            values[name] = 0.0
        if name not in names or not values[name] > 0:
            raise UserError(f"expected {VARIABLE} as {', '.join(f'{name}=NUMBER' for name in names)}, got '{part}'")
    return Limits(**values)


def within(what: str, name: str, got: float, place: object = "") -> None:
    """Refuse ``got`` of ``what`` beyond the limit ``name``."""
    most = getattr(limits(), name)
    if got > most:
        raise UserError(
            f"expected at most {most:,.0f} {what}, got {got:,.0f}{f' in {place}' if place else ''}; "
            f"{VARIABLE}={name}={got:.3g} in the environment takes it"
        )


def check_whole(name: str, value: object) -> None:
    """Refuse a whole number that rows, or torch, cannot hold."""
    if isinstance(value, int) and not -WIDEST <= value < WIDEST:
        raise UserError(f"expected a {name} of at most 64 bits, got {value}; name a smaller number")


def require_file(path: str | os.PathLike[str], what: str, limit: str = "table") -> Path:
    """``path``, when it is a regular file (or a link to one) within the ``limit`` of bytes: a pipe may never end."""
    file = Path(path)
    try:
        about = file.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"expected {what}, got {path}: {reason}; check the name") from None
    if not stat.S_ISREG(about.st_mode):
        kind = "a folder" if stat.S_ISDIR(about.st_mode) else "a pipe or device"
        raise UserError(f"expected {what}, got {path}, {kind}; name a file")
    within(f"bytes of {what}", limit, about.st_size, file)
    return file


def read_text_bytes(path: str | os.PathLike[str], what: str) -> bytes:
    """The bytes of a text of one's own: :func:`require_file`, read."""
    try:
        return require_file(path, what).read_bytes()
    except OSError as error:
        raise UserError(f"expected {what}, got {path}: {error.strerror}; check the name") from None
