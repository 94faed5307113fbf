"""Data that torchvision fetches: one line that says what to put where when it cannot."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from noiserobust.errors import UserError, reason_of

T = TypeVar("T")


ALLOWED: ContextVar[bool] = ContextVar("downloads allowed", default=True)


@contextlib.contextmanager
def none_of_files(imports: bool) -> Iterator[None]:
    """Inside, nothing is downloaded where ``imports`` is false: what a file names, it may not fetch."""
    token = ALLOWED.set(ALLOWED.get() and imports)
    try:
        yield
    finally:
        ALLOWED.reset(token)


def fetched(make: Callable[[bool], T], name: str, folder: object, remedy: Callable[[], str]) -> T:
    """``make(download)``; :class:`UserError` with the ``remedy`` when ``name`` is not in ``folder`` and cannot be
    had."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision prints each attempt
            return make(ALLOWED.get())
    except Exception as error:  # a download that breaks off raises what it likes
        if not ALLOWED.get():
            raise UserError(
                f"expected {name} under {folder}, which a file names, got none; name the data yourself (--data {name}) "
                "to download them"
            ) from None
        raise UserError(
            f"expected {name} under {folder}, got none, and no download ({reason_of(error)}): "
            f"{remedy()}, or pass the path of an image folder"
        ) from None
