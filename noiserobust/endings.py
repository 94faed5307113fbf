"""How processes end: by a signal within seconds, with all that they started; and with the process that started them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

GRACE = 2.5
"""Seconds for what is under way, after the first signal; then the process ends where it is."""
WATCH = 0.5
"""Seconds between looks at the parent."""
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a process as ctrl-C does."""


@contextmanager
def ended_by_signals(line: str, whole: bool) -> Iterator[Callable[[], int]]:
    """Inside, SIGINT and SIGTERM raise KeyboardInterrupt and :class:`Terminated`, once.

    Yields what gives the exit code of an interruption, 130 for ctrl-C and 143 for SIGTERM, whatever a library made of
    it.

    With ``whole``, this is all that the process does: if it is not over :data:`GRACE` seconds after the first signal,
    be it in a library that does not return or at its very end, ``line`` is printed and it ends, and with it all that it
    has started. A signal that the process was told to ignore (nohup) stays ignored.
    """
    seen: list[int] = []

    def code() -> int:
        return _CODES[signal.Signals(seen[0])] if seen else _CODES[signal.SIGINT]

    if threading.current_thread() is not threading.main_thread():
        yield code
        return
    before = {number: signal.getsignal(number) for number in _CODES}
    heard = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def stop(number: int, frame: FrameType | None) -> None:
        if not seen:
            seen.append(number)
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    if whole:  # the system tells this thread, whatever the main thread is in
        threading.Thread(target=_watch, args=(reader, line), daemon=True).start()
    earlier = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        for number in heard:
            signal.signal(number, stop)
        yield code
    finally:
        for number, handler in heard.items():
            signal.signal(number, (signal.SIG_IGN if whole and seen else handler) or signal.SIG_DFL)
        signal.set_wakeup_fd(earlier)
        os.close(writer)  # which ends the thread, unless it counts down
        if not whole:
            os.close(reader)


def _watch(reader: int, line: str) -> None:
    while numbers := os.read(reader, 64):
        for number in numbers:
            if number in _CODES:
                time.sleep(GRACE)
                end_now(line, _CODES[signal.Signals(number)])
    os.close(reader)


def end_now(line: str, code: int) -> NoReturn:
    """Say ``line`` and end this process and all that it has started, now."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())
    kill_descendants()
    os._exit(code)


def kill_descendants() -> None:
    """Kill the processes that this one has started, and theirs, where the system can say which."""
    for one in descendants():
        with suppress(OSError):
            os.kill(one, signal.SIGKILL)


def descendants(process: int | None = None) -> list[int]:
    """The processes that a process (this one) has started, and theirs (Linux; elsewhere none are known)."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = [os.getpid() if process is None else process]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def child(parent: int, function: str, *arguments: Any) -> None:
    """What a started process calls: ``function`` (``module:name``), which is imported when the watch is set up."""
    end_with(parent)
    module, _, name = function.partition(":")
    getattr(import_module(module), name)(*arguments)


def end_with(parent: int) -> None:
    """End this process, and all that it has started, when the process ``parent`` that started it ends, however."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH)
        kill_descendants()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def deaf() -> Iterator[None]:
    """Inside, started processes do not hear ctrl-C: this one hears it, and ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_WORDS = ("+/-", "sigma", "u", "u", "x", "-", "-", "...", "<=", ">=", "d", "2", "sqrt", "#", "->", "eps")
PLAIN: Mapping[str, str] = dict(zip("±σµμ×–—…≤≥Δ²√█→ε", _WORDS, strict=True))
"""Signs that a terminal may lack, in ASCII."""


def plain_output() -> None:
    """Have stdout and stderr write in ASCII what their encoding lacks."""
    import codecs

    def replaced(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        lacking = error.object[error.start : error.end]
        texts = (PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in lacking)
        return "".join(texts), error.end

    codecs.register_error("noiserobust", replaced)
    streams: list[Any] = [sys.stdout, sys.stderr]
    for stream in streams:
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="noiserobust")
