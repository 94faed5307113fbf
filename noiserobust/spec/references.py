"""Code from outside the package by its name, ``package.module:Name``, imported as Python imports it."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import os
import sys
import tokenize
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from noiserobust.errors import UserError, reason_of
from noiserobust.file_kinds import misplaced


def reference_to(thing: Any) -> str:
    """``package.module:Name`` of a class or function."""
    return f"{thing.__module__}:{thing.__qualname__}"


def digest_of(function: Any, name: str) -> str:
    """16 hex digits of a function (or a callable object, or a class) called ``name``: its text, and the plain values it
    holds."""
    try:
        text = inspect.getsource(function if hasattr(function, "__qualname__") else type(function))
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):  # the file may be another by now
        text = ""
    if isinstance(function, type):
        members = {key: value for key, value in vars(function).items() if not key.startswith("__")}
        own = [[key, digest_of(v, key) if inspect.isfunction(v) else _plain(v)] for key, v in sorted(members.items())]
        return hashlib.sha256(f"{name}\n{text}\n{own}".encode()).hexdigest()[:16]
    code = getattr(function, "__code__", None)
    held = [getattr(function, "__defaults__", None) or (), sorted(getattr(function, "__dict__", {}).items())]
    # Two functions of one line have one text.
    held += [] if code is None else [code.co_code.hex(), code.co_names, code.co_consts]
    held += [[cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]]
    named = f"{name}\n{text}\n{[_plain(one) for one in held]}"
    return hashlib.sha256(named.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """``value`` with numbers and texts only: nothing whose text would differ from run to run."""
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (bool, int, float, str, bytes, type(None))) else type(value).__name__


def agreed(expected: str, stated: str, found: str, other: str = "it was changed") -> str:
    """The digest that was ``found``; UserError where another one was ``stated`` ("" states none)."""
    if stated not in ("", found):
        raise UserError(
            f"{expected} with the content {stated}, got {found}; {other}: leave digest out to use it as it is now"
        )
    return found


def is_module(reference: str) -> bool:
    """Whether ``package`` of ``package.module:Name`` can be found; it is not imported."""
    package = reference.partition(":")[0].partition(".")[0]
    with working_folder():
        return package in sys.modules or importlib.util.find_spec(package) is not None


def nearest(name: str, known: Iterable[str], arrays: bool = False) -> str:
    """The end of an error for an unknown name: what the file of this name is, the ``known`` name that is like it, or
    what code of your own lacks. ``arrays``: whether arrays may have been meant, as data."""
    if found := misplaced(name):
        return f", {found}"
    if arrays and name.endswith((".npz", ".npy", ".pt", ".csv", ".parquet")):
        return (
            "; arrays become data by a function of your own that returns (x, y), (x_test, y_test): package.module:Name"
        )
    if "." in name:
        return f"; there is no module {name} to import"
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]}?" if near else "; one of your own is package.module:Name"


def load(reference: str, imports: bool = True) -> Any:
    """The class or function that ``package.module:Name`` names.

    Its module is imported as Python imports it, from the present folder, too (searched last). Importing runs its code:
    with ``imports=False``, for texts that come out of files, only modules that this process has imported already
    count. Raises :class:`~noiserobust.UserError`.
    """
    module, _, name = reference.partition(":")
    if not imports and module not in sys.modules:
        raise UserError(f"expected code that you name yourself, got {reference} out of a file; import {module} first")
    if module.endswith(".py"):
        raise UserError(f"expected package.module:Name, got {reference}; write {module[:-3].replace('/', '.')}:{name}")
    with one_line(f"{reference}: expected code that can be imported"), working_folder():
        target = importlib.import_module(module)
        for part in name.split("."):
            target = getattr(target, part)
    return target


def home(module: str) -> str | None:
    """The folder that ``module`` was imported from, so that another process can import it from there."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    return str(path.parents[module.count(".") + (path.name == "__init__.py")])


@contextmanager
def working_folder(*further: str) -> Iterator[None]:
    """Inside, Python also imports from the present folder (and ``further`` ones), after everything else: installed
    programs do not."""
    known = list(sys.path)
    sys.path.extend([os.getcwd(), *further])
    try:
        yield
    finally:
        sys.path[:] = known


@contextmanager
def one_line(expected: str) -> Iterator[None]:
    """Any error of code from outside the package becomes one line inside; it begins with ``expected``."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # sys.exit(0) in it would end a program that has done nothing
        raise UserError(f"{expected}, got {type(error).__name__}: {reason_of(error)}") from error
