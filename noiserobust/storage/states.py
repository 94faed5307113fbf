"""States of work that goes on later: dictionaries of plain values and tensors, sealed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from noiserobust.errors import UserError
from noiserobust.seals import BLANK, NAME
from noiserobust.storage.files import require_sound, write_atomically


def write_state(path: Path, state: Mapping[str, Any]) -> Path:
    """Write ``state`` as ``torch.save`` does, with a seal behind it, whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.write(f"\n{NAME}: {BLANK}\n".encode())

    return write_atomically(path, write)


def read_state(path: Path) -> dict[str, Any]:
    """The state that :func:`write_state` wrote (or an older version did, without a seal), on the CPU; no code runs.

    Raises :class:`~noiserobust.UserError` for a file that is damaged or holds something else.
    """
    require_sound(path, "remove it")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # broken bytes make the reader fail in any way
        reason = (str(error).strip().splitlines() or [""])[0][:100]
        raise UserError(f"expected a state that torch saved, got {path}: {type(error).__name__} {reason}") from None
    if not isinstance(state, dict):
        raise UserError(f"expected a state by name, got {path} with a {type(state).__name__}; remove it")
    return state
