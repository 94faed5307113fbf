"""Whether a network takes the data it is to be used on: said in one line, before any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from noiserobust.data import nests
from noiserobust.errors import UserError


@contextmanager
def taking(inputs: Any, name: str) -> Iterator[None]:
    """Inside a network called ``name`` computes with ``inputs``; one line instead of a traceback when it cannot."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if any(not tensor.is_floating_point() for tensor in nests.tensors(inputs)) and "type" in reason:
            reason += "; whole numbers are taken as tokens, give features as floats: x.float()"
        if "index out of range" in reason:
            reason += ": a token beyond its vocabulary (another tokenizer?), or more tokens than it has places for"
        raise UserError(f"expected a network that takes inputs {_described(inputs)}, got {name}: {reason}") from error


def checked_forward(network: nn.Module, inputs: Tensor, name: str) -> Tensor:
    """``network(inputs)``; one line instead of a traceback when it takes no such inputs or gives no (B, C) logits."""
    with taking(inputs, name):
        logits = network(inputs)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"expected a network that gives logits of shape (B, C), got {got} from {name}")
    return logits


@torch.no_grad()
def require_finite(network: nn.Module, name: str) -> None:
    """Refuse a network whose weights, or learnt statistics, are not all finite: it cannot answer."""
    tensors: dict[str, Tensor] = dict(network.named_parameters())
    for path, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            tensors |= {f"{path}.{key}".lstrip("."): value for key, value in module.named_buffers(recurse=False)}
    bad = [key for key, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        shown = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        raise UserError(f"expected finite weights, got NaN or inf in {shown} of {name}; its training diverged")


def _described(inputs: Any) -> str:
    """``of shape (3, 32, 32)``, with the type where it is no usual float; of several, each with its name."""
    if isinstance(inputs, Tensor):
        kind = "" if inputs.dtype == torch.float32 else f" ({str(inputs.dtype).removeprefix('torch.')})"
        return f"of shape {tuple(inputs.shape[1:])}{kind}"
    if isinstance(inputs, dict):
        return ", ".join(f"{key} {_described(value)}" for key, value in inputs.items())
    return ", ".join(_described(value) for value in nests.tensors(inputs))
