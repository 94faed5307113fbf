"""Errors that nobody foresaw, as one line: whose code they come from, and how to see more."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import traceback
from pathlib import Path

import noiserobust
from noiserobust.errors import UserError, printable, reason_of

DEBUG = "NOISEROBUST_DEBUG"
"""Set in the environment: errors come with their traceback."""
PACKAGE = Path(noiserobust.__file__).parent
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Unable to allocate")


def debugging() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


def told(error: BaseException, quiet: bool = False) -> tuple[str, int]:
    """The line that says what went wrong, and the exit code: 2 for what a person can mend, 1 for faults of ours."""
    if debugging() and not quiet:
        traceback.print_exception(error)
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, StopIteration):
        error = error.__cause__  # which passed through a generator of ours
    reason = f"{type(error).__name__}: {reason_of(error)}"
    hint = f"{DEBUG}=1 in the environment shows where"
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return f"expected memory for all of this, got {reason}; take smaller batches, images or networks", 2
    if place := _foreign(error):
        return f"expected code of your own that works, got {reason} in {place}; {hint}", 2
    if isinstance(error, OSError) and error.errno is not None:  # the system's refusal, wherever it is noticed
        return f"expected files and folders that the system reads and writes, got {reason}; check them; {hint}", 2
    return f"{reason}; this is a fault of noiserobust, please report it: {hint}", 1


def _foreign(error: BaseException) -> str | None:
    """``function (file, line)`` of the innermost code that is neither ours nor installed; None where there is none."""
    installed = [PACKAGE, Path(sys.prefix), Path(sysconfig.get_paths()["stdlib"]), Path(site.getusersitepackages())]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if not frame.filename.startswith("<") and not any(file.is_relative_to(place) for place in installed):
            return f"{frame.name} ({printable(frame.filename)}, line {frame.lineno})"
    return None
