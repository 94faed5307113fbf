"""Data that torchvision fetches: one line that says what to put where when it cannot."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import TypeVar

from noiserobust.errors import UserError

T = TypeVar("T")


def fetched(make: Callable[[], T], name: str, folder: object, remedy: Callable[[], str]) -> T:
    """``make()``; :class:`UserError` with the ``remedy`` when ``name`` is not in ``folder`` and cannot be had."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision prints each attempt
            return make()
    except (OSError, RuntimeError) as error:
        # torchvision raises RuntimeError for a broken archive and OSError (URLError) without a network.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"expected {name} under {folder}, got none, and no download ({reason}): "
            f"{remedy()}, or pass the path of an image folder"
        ) from None
