"""Locks between processes, which end with the process that holds them, however that ends."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from noiserobust.errors import UserError

try:
    import fcntl
except ImportError:  # a system without them: whoever shares files there must take turns
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("noiserobust")
POLL = 0.2  # seconds between looks at a lock that another process holds
MOST = 500
"""Claims held at once: the system looks through all of them for each."""


@contextmanager
def locked(path: Path, wait: bool = True, note: Callable[[], object] | None = None) -> Iterator[bool]:
    """Inside, this process alone holds the lock of the file ``path``, which is begun if it is not there.

    Yields whether it does: without ``wait``, another process may hold it. ``note()`` is called before waiting.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            held = _taken(descriptor)
            if held and not _is_at(descriptor, path):  # removed since, by the one who held it
                continue
            if held or not wait:
                yield held
                return
        finally:
            os.close(descriptor)
        if note is not None:
            note()
            note = None
        time.sleep(POLL)


@contextmanager
def alone(path: Path, doing: str) -> Iterator[None]:
    """Inside, no other process is in such a block with the lock file ``path``; one that is, is waited for.

    That is said once: ``doing`` is what the other one does. The file is removed afterwards, and its folder if empty.
    """
    with ExitStack() as stack:
        try:
            note = lambda: log.warning("another process is %s; waiting for it to end", doing)  # noqa: E731
            for more in range(99, -1, -1):
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(locked(path, note=note))
                    break
                except FileNotFoundError:  # whoever held it has removed the folder, which was empty
                    if not more:
                        raise
        except OSError as error:
            raise UserError(
                f"expected a lock file that can be written, got {path}: {error.strerror}; remove it or name "
                "another place"
            ) from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
                path.parent.rmdir()


class Claims:
    """Units of work that this process computes now, so that another waits for them and does not compute them, too.

    A claim is a byte of the file ``path``, locked by the process. Claims are no promise: where one is lost, a unit is
    computed twice, and stored once.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file, self._count = path, -1, 0
        self._noted = False

    def claim(self, key: bytes) -> bool:
        """Whether nobody else computes the unit ``key``, which is then this process's."""
        if fcntl is None:
            return True
        if self._count >= MOST:
            self.release()
        try:
            if self._file < 0:
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int.from_bytes(key[:7], "big"))
        except BlockingIOError:
            return False
        except OSError:  # no locks here
            return True
        self._count += 1
        return True

    def wait(self, key: bytes) -> None:
        """Until nobody else computes the unit ``key``. What this process holds should be stored and released before."""
        while not self.claim(key):
            if not self._noted:
                log.warning("another process computes rows that are asked for here, too (%s); waiting", self.path)
                self._noted = True
            time.sleep(POLL)

    def release(self) -> None:
        """All claims."""
        if fcntl is not None and self._file >= 0:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN)
        self._count = 0

    def close(self) -> None:
        """Release, and remove the file when nobody else has a claim in it."""
        if fcntl is None or self._file < 0:
            return
        with contextlib.suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.path.unlink()
        os.close(self._file)
        self._file = -1


def _taken(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        return True
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the opened file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
