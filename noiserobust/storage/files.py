"""Files, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from noiserobust.errors import UserError


def write_atomically(path: str | os.PathLike[str], writer: Callable[[Path], object]) -> Path:
    """Let ``writer(temporary)`` write a file beside ``path``, then put it in place of ``path`` in one step.

    A crash, a full disk or a ``writer`` that raises leaves the old file as it was (or no file). Folders on the way
    are created; a link is followed, so that its target is replaced. Returns the path written.

    The temporary name ends in ``.tmp`` so that no ``*.parquet`` pattern ever finds a half-written file: name the
    format where a writer would guess it from the suffix (``figure.savefig(temporary, format="png")``).

    Raises :class:`UserError` when ``path`` is something else than a file, or its folder cannot be written.
    """
    target = file_to_write(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise cannot_write(path, error.strerror) from None
    try:
        writer(temporary)
        _sync(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the new name is durable too, where the system can sync a folder
        _sync(target.parent)
    return target


def file_to_write(path: str | os.PathLike[str]) -> Path:
    """The file behind ``path``, which may be a link; UserError for folders, devices and pipes: they must not go."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise UserError(f"expected the name of a file to write, got the folder {path}; add a file name")
    if target.exists() and not target.is_file():
        raise UserError(f"expected the name of a file to write, got {path}, a device or pipe; name another")
    return target


def cannot_write(path: str | os.PathLike[str], reason: str | None) -> UserError:
    """What is raised where the system refuses to write ``path`` for ``reason``."""
    return UserError(f"expected a folder that can be written for {path}, got: {reason}; name another")


def _sync(path: Path) -> None:
    """Have the system put ``path`` on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
