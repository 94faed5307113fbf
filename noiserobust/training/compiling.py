"""The training passes compiled by torch.compile, where there is a compiler."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from noiserobust.errors import UserError


def compiled(model: nn.Module, device: torch.device) -> Any:
    """``model`` compiled for batches of one shape; :class:`~noiserobust.UserError` where nothing can be compiled.

    Compiled code rounds differently: weights are those of the run without it up to rounding, not bit for bit.
    """

    def tripled(x: Tensor) -> Tensor:
        return x.relu() * 3

    try:
        torch.compile(tripled)(torch.ones(8, device=device))
    except Exception as error:  # of any of the compilers below
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"expected a compiler for compile on {device.type} (a C++ compiler, or Triton for CUDA), got "
            f"{type(error).__name__}: {reason}; install one, or leave compile out"
        ) from None
    return torch.compile(model, dynamic=False)
