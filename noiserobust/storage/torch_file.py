"""Weights out of a file that ``torch.save`` wrote, without running any of the code that such a file can carry."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noiserobust.errors import UserError

KEYS = ("state_dict", "model", "model_state_dict", "net")
"""Where training programs keep the weights in what they save."""
_BEGINNINGS = (b"PK\x03\x04", b"\x80")  # a zip archive; a bare pickle, before torch 1.6


def is_torch_file(path: Path) -> bool:
    """Whether ``path`` begins as a file of ``torch.save`` does, whatever its name."""
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file begins with a length, any eight bytes, and then a brace.
    return start.startswith(_BEGINNINGS) and start[8:] != b"{"


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """The weights by name, on the CPU.

    Raises :class:`~noiserobust.UserError` when the file holds objects other than plain data (nothing of it is run), is
    broken, or has no weights in it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch would warn of, such as TorchScript, it refuses next
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes make the reader fail in any way
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused is None:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"expected weights saved by torch, got {path}, which cannot be read: {reason}") from None
        raise UserError(
            f"expected weights by name, got {path}, which holds a {refused[1]}: loading that runs code of the file; "
            "save model.state_dict() alone"
        ) from None
    weights = _weights(content)
    if weights is None:
        got = f"a dictionary of {', '.join(map(str, content))[:80]}" if isinstance(content, dict) else type(content)
        raise UserError(f"expected weights by name, plain or under {', '.join(KEYS)}, got {path} with {got}")
    return weights


def _weights(content: Any) -> dict[str, Tensor] | None:
    if not isinstance(content, Mapping):
        return None
    for key in KEYS:
        inside = _weights(content.get(key))
        if inside is not None:
            return inside
    # Beside the weights there may stand an epoch or an accuracy.
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return tensors or None
