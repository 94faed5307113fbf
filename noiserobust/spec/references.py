"""Code by name: ``package.module:Name``, imported as Python finds it, the present folder included."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from noiserobust.errors import UserError


def reference_to(thing: Any) -> str:
    """``package.module:Name`` of a class or function."""
    return f"{thing.__module__}:{thing.__qualname__}"


def load(reference: str, imports: bool = True, expected: str = "expected code that can be imported") -> Any:
    """What ``package.module:Name`` names.

    The module is imported as Python finds it, the folder that the program runs in included (searched last). Importing
    runs its code: with ``imports=False``, for texts that come out of files, only modules that this process has
    imported already are looked into. Raises :class:`~noiserobust.UserError`, which begins with ``expected``.
    """
    module, _, name = reference.partition(":")
    if not imports and module not in sys.modules:
        raise UserError(f"expected code that you name yourself, got {reference} out of a file; import {module} first")
    with one_line(expected), working_folder():
        target = importlib.import_module(module)
        for part in name.split("."):
            target = getattr(target, part)
    return target


def home(module: str) -> str | None:
    """The folder that ``module`` was imported from, to import it from there elsewhere."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    return str(path.parents[module.count(".") + (path.name == "__init__.py")])


@contextmanager
def working_folder(*further: str) -> Iterator[None]:
    """The present folder (and ``further`` ones) can be imported from, after everything else: installed programs do not
    look there."""
    known = list(sys.path)
    sys.path.extend([os.getcwd(), *further])
    try:
        yield
    finally:
        sys.path[:] = known


@contextmanager
def one_line(expected: str) -> Iterator[None]:
    """Whatever a stranger's code does wrong inside is one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"{expected}, got {type(error).__name__}: {reason}") from error
