"""Checksums inside files: whatever its format, a file that can hold a text carries the SHA-256 of all its bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

NAME = "noiserobust-sha256"
"""What stands before a seal."""
BLANK = "0" * 64
"""The seal of a file that is being written, which :func:`seal` fills in; it counts as this in the checksum."""
_SEAL = re.compile(NAME.encode() + rb"\W{1,8}?([0-9a-f]{64})")
_ENDS = 1 << 20
"""Bytes at the beginning and at the end of a file in which its seal stands."""


def seal(path: Path) -> None:
    """Write into a file with a :data:`BLANK` seal (``noiserobust-sha256: 000...``) the checksum of its bytes."""
    with path.open("r+b") as file:
        for place, text in _seals(file):
            if text == BLANK:
                digest = _digest(file, place)
                file.seek(place)
                file.write(digest.encode())
                return


def is_sound(path: Path) -> bool:
    """Whether a file is as it was sealed. One without a seal, older or of another program, is taken as it is."""
    with path.open("rb") as file:
        found = list(_seals(file))
        return not found or any(_digest(file, place) == text for place, text in found)


def _seals(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Where seals stand, and what they say."""
    size = file.seek(0, 2)
    for start in sorted({0, max(0, size - _ENDS)}):
        file.seek(start)
        for match in _SEAL.finditer(file.read(_ENDS)):
            yield start + match.start(1), match[1].decode()


def _digest(file: BinaryIO, place: int) -> str:
    """SHA-256 of the file, with zeros at ``place`` where the seal stands."""
    digest = hashlib.sha256()
    file.seek(0)
    left = place
    while block := file.read(min(left, 1 << 20)):
        digest.update(block)
        left -= len(block)
    digest.update(BLANK.encode())
    file.seek(place + len(BLANK))
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
