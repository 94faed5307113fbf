"""Where and in which precision a network computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from noiserobust.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """torch's autocast for ``precision``; ``fp32`` is none."""
    if precision not in DTYPES:
        raise UserError(f"expected precision fp32, bf16 or fp16, got {precision!r}")
    with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
        yield


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters live (the CPU for a model without any)."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def known_device(device: torch.device | str) -> torch.device:
    """``device`` as torch knows it; :class:`~noiserobust.UserError` when it is no device, or not on this machine."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"expected a device that is there, such as cpu or cuda, got '{device}'") from None


def as_weights(model: nn.Module, inputs: Tensor) -> Tensor:
    """``inputs`` in the precision of the model's parameters; whole numbers as they are."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return inputs.to(dtype) if inputs.is_floating_point() else inputs
