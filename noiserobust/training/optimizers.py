"""Any torch.optim optimizer by its text form, and the cosine learning rate with warm-up."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from noiserobust.errors import UserError
from noiserobust.spec.parser import Argument, read
from noiserobust.training.schedules import warmup_steps


def build_optimizer(
    text: str, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The ``torch.optim`` optimizer that ``text`` names: ``AdamW``, ``SGD:momentum=0.9,nesterov=true``."""
    name, arguments, _ = read(text, "optimizer")[0].call("optimizer")
    known: dict[str, Any] = {
        key.lower(): kind
        for key, kind in vars(torch.optim).items()
        # Those with a weight decay; LBFGS, which has none, also wants its loss several times a step through a closure.
        if inspect.isclass(kind) and "weight_decay" in inspect.signature(kind).parameters
    }
    if name.lower() not in known:
        raise UserError(f"expected an optimizer of torch.optim ({', '.join(sorted(known))}), got '{name}'")
    options: dict[str, Any] = {}
    for argument in arguments:
        key, value = _option(argument, text)
        if key in options:
            raise UserError(f"optimizer '{text}': {key} is given twice")
        options[key] = value
    try:
        return known[name.lower()](parameters, lr=lr, weight_decay=weight_decay, **options)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise UserError(f"optimizer '{text}': {error}") from None


def learning_rate(step: int, steps: int, warmup: int | float = 0) -> float:
    """Factor on the peak rate: up in a line over the warm-up, then (1 + cos(pi s)) / 2 over the share s that remains.

    ``warmup`` is a number of steps (``int``) or a fraction of all steps (``float``).
    """
    length = warmup_steps(warmup, steps)
    if step < length:
        return (step + 1) / (length + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - length) / max(1, steps - length))))


def _option(argument: Argument, text: str) -> tuple[str, object]:
    key, value = argument.key, argument.value.text
    if key is None:
        raise UserError(f"expected key=value after the optimizer's name, got '{value}' in '{text}'")
    try:
        return key, ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
    except (ValueError, SyntaxError):
        raise UserError(f"expected a number, true, false or a tuple for {key}, got '{value}'") from None
