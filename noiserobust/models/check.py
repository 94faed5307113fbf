"""Whether a network takes the data it is to be used on: said in one line, before any work."""

from __future__ import annotations

from torch import Tensor, nn

from noiserobust.errors import UserError


def checked_forward(network: nn.Module, inputs: Tensor, name: str) -> Tensor:
    """``network(inputs)``; one line instead of a traceback when it takes no such inputs or gives no (B, C) logits."""
    shape = tuple(inputs.shape[1:])
    try:
        logits = network(inputs)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"expected a network that takes inputs of shape {shape}, got {name}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"expected a network that gives logits of shape (B, C), got {got} from {name}")
    return logits
