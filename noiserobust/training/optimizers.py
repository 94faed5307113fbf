"""Any torch.optim optimizer by its text form."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from noiserobust.errors import UserError, reason_of
from noiserobust.spec.parser import Argument, read


def build_optimizer(
    text: str, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The ``torch.optim`` optimizer that ``text`` names: ``AdamW``, ``SGD:momentum=0.9,nesterov=true``."""
    name, arguments, _ = read(text, "optimizer")
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
        key, value = option(argument, text)
        if key in options:
            raise UserError(f"optimizer '{text}': {key} is given twice")
        options[key] = value
    kind, parameters = known[name.lower()], list(parameters)
    try:
        optimizer = kind(parameters, lr=lr, weight_decay=weight_decay, **options)
        # Some options are only refused at a step.
        tried = nn.Parameter(torch.zeros(2, 2, device=parameters[0].device))
        tried.grad = torch.zeros_like(tried)
        kind([tried], lr=lr, weight_decay=weight_decay, **options).step()
    except Exception as error:  # whatever an optimizer makes of an option
        raise UserError(f"optimizer '{text}': {reason_of(error)}") from None
    return optimizer


def option(argument: Argument, text: str, words: bool = False) -> tuple[str, object]:
    """The name and value of an ``argument`` of ``text``: a number, true, false or a tuple; with ``words`` a word."""
    key, value = argument
    if key is None:
        raise UserError(f"expected key=value after the name, got '{value}' in '{text}'")
    try:
        return key, ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
    except (ValueError, SyntaxError):
        if words and value.isidentifier():
            return key, value
        raise UserError(f"expected a number, true, false or a tuple for {key}, got '{value}'") from None
