"""The one way to disk: files written whole or not at all, sealed with a checksum, and verified when they are read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from noiserobust.errors import UserError, shown
from noiserobust.seals import is_sound, seal
from noiserobust.storage.locks import locked

log = logging.getLogger("noiserobust")

NAME_MAX = 255
"""Bytes that the name of a file or folder may have."""
FORMATS = {
    "file of rows": (".parquet", ".csv", ".jsonl"),
    "picture": (".png", ".pdf", ".svg"),
    "table": (".md", ".csv", ".tex"),
    "page": (".html", ".htm"),
}
"""Suffixes by what is written; without any it is the first."""
SUMS = "SHA256SUMS"
"""File of checksums in a folder, as sha256sum writes and checks it."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}\.tmp")
_cleaned: set[Path] = set()


def write_atomically(path: str | os.PathLike[str], writer: Callable[[Path], object]) -> Path:
    """Let ``writer(temporary)`` write a file beside ``path``, then put it in place of ``path`` in one step.

    A crash, a full disk or a ``writer`` that raises leaves the old file as it was (or no file). Folders on the way
    are created; a link is followed, so that its target is replaced. Where the writer left a blank seal
    (:mod:`noiserobust.seals`), the checksum is filled in. Returns ``path`` as it was given, for people to read.

    The temporary name ends in ``.tmp`` so that no ``*.parquet`` pattern ever finds a half-written file: name the
    format where a writer would guess it from the suffix (``figure.savefig(temporary, format="png")``). Temporary files
    of processes that are dead are removed.

    Raises :class:`UserError` when ``path`` is something else than a file, or the system refuses to write it.
    """
    target = file_to_write(path)
    with one_line_refusals(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean(target.parent)
        temporary = _temporary_beside(target)
        try:
            with locked(temporary):  # so that nobody takes it for a dead process's
                writer(temporary)
                seal(temporary)
                _sync(temporary)
                os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        with contextlib.suppress(OSError):  # the new name is durable too, where the system can sync a folder
            _sync(target.parent)
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """:func:`write_atomically` of a text, as UTF-8 wherever the program runs."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def folder_written_atomically(path: Path) -> Iterator[Path]:
    """Inside, a new folder to fill, which is then put in place of ``path``, unless that is there by then."""
    with one_line_refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_beside(path)
        temporary.mkdir()
        try:
            yield temporary
            sums = "".join(f"{_sum(file)}  {file.name}\n" for file in sorted(temporary.iterdir()))
            (temporary / SUMS).write_text(sums, encoding="utf-8")
            for file in [*temporary.iterdir(), temporary]:
                _sync(file)
            if not path.is_dir():
                with contextlib.suppress(FileExistsError):
                    os.rename(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def folder_is_whole(path: Path) -> bool:
    """Whether the files of a folder are as they were written; one of an older version, without checksums, is."""
    if not path.is_dir() or not (path / SUMS).is_file():
        return path.is_dir()
    lines = (path / SUMS).read_bytes().decode("utf-8", "replace").splitlines()
    try:
        return all(_sum(path / name) == digest for digest, _, name in (line.partition("  ") for line in lines))
    except (OSError, ValueError):
        return False


def file_to_write(path: str | os.PathLike[str]) -> Path:
    """The file behind ``path``, which may be a link, where one can be written; call it before long work.

    UserError for folders, devices and pipes (they must not go), for names that are too long and for folders that
    cannot be written.
    """
    with one_line_refusals(path):
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise UserError(f"expected the name of a file to write, got the folder {path}; add a file name")
        if target.exists() and not target.is_file():
            raise UserError(f"expected the name of a file to write, got {path}, a device or pipe; name another")
        _require_place(target)
    return target


def known_to_write(path: str | os.PathLike[str], kind: str) -> Path:
    """``path``, where a file of that ``kind`` (:data:`FORMATS`) can be written, in a format known by its suffix."""
    if Path(path).suffix.lower() not in ("", *FORMATS[kind]):
        *others, last = FORMATS[kind]
        raise UserError(f"expected a {kind} that ends in {', '.join(others)} or {last}, got {path}; name it so")
    file_to_write(path)
    return Path(path)


def folder_to_write(path: str | os.PathLike[str]) -> Path:
    """``path``, where files can be written into such a folder; UserError elsewhere. Call it before long work."""
    with one_line_refusals(path):
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_dir():
            raise UserError(f"expected the name of a folder to write into, got {path}, a file; name another")
        _require_place(target / "file")
    return Path(path)


def set_aside(path: Path, what: str, then: str, copy: bool = False) -> Path:
    """Rename a file that is damaged to ``*.corrupt``, and say in one line ``what`` it is and what happens ``then``.

    ``copy``: leave it in its place, where it is replaced next.
    """
    target, count = Path(f"{path}.corrupt"), 1
    while target.exists():
        count += 1
        target = Path(f"{path}.{count}.corrupt")
    with one_line_refusals(target):
        shutil.copyfile(path, target) if copy else os.replace(path, target)
    log.warning("%s: %s; kept as %s, %s", shown(path), what, target.name, then)
    return target


def require_sound(path: Path, advice: str) -> None:
    """:class:`UserError` for a file that is not as it was sealed; ``advice`` says what to do."""
    with one_line_reading(path):
        sound = is_sound(path)
    if not sound:
        raise UserError(f"expected {shown(path)} as it was written, got one whose checksum differs (damaged); {advice}")


def cannot_write(path: str | os.PathLike[str], reason: str | None, full: bool = False) -> UserError:
    """What is raised where the system refuses to write ``path`` for ``reason``."""
    what = "make room and start the same again" if full else "name another"
    return UserError(f"expected a folder that can be written for {shown(path)}, got: {reason}; {what}")


@contextmanager
def one_line_refusals(path: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, what the system says against writing ``path`` is a :class:`UserError`, whichever library meets it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _system_error(error)
        if reason is None:
            raise
        full = isinstance(reason, OSError) and reason.errno in FULL
        raise cannot_write(path, getattr(reason, "strerror", None) or str(reason), full) from None


def _system_error(error: BaseException | None) -> Exception | None:
    """What the system said, where that is why there is an ``error``: a library may have put its own in front."""
    while error is not None:
        unwritable = isinstance(error, UnicodeEncodeError) or "null byte" in str(error)
        if isinstance(error, OSError) or (isinstance(error, ValueError) and unwritable):
            return error
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def one_line_reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, what the system says against reading ``path`` is a :class:`UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"expected a file that can be read, got {path}: {error.strerror or error}") from None


def _require_place(target: Path) -> None:
    """Raise the OSError that writing ``target`` would end in."""
    for part in target.parts:
        if len(os.fsencode(part)) > NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    folder = target.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise OSError(number, os.strerror(number))
    with tempfile.TemporaryFile(dir=folder):  # of some file systems only this shows it
        pass


def _temporary_beside(target: Path) -> Path:
    name = os.fsdecode(os.fsencode(target.name)[: NAME_MAX - 20])
    return target.with_name(f".{name}.{uuid.uuid4().hex[:12]}.tmp")


def _clean(folder: Path) -> None:
    """Once per folder and process, remove the temporary files of processes that ended before they could."""
    if folder in _cleaned:
        return
    _cleaned.add(folder)
    for name in os.listdir(folder):
        if _TEMPORARY.fullmatch(name) and (folder / name).is_file():
            with contextlib.suppress(OSError), locked(folder / name, wait=False) as held:
                if held:
                    (folder / name).unlink()


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Have the system put ``path`` on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
