"""Where and in which precision a network computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch import Tensor, nn

from noiserobust.data import nests
from noiserobust.errors import UserError
from noiserobust.models.wrappers import unwrap

Precision = Literal["fp32", "bf16", "fp16"]


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """torch's autocast for ``precision``; ``fp32`` is none."""
    if precision not in DTYPES:
        raise UserError(f"expected precision fp32, bf16 or fp16, got {precision!r}")
    with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
        yield


@contextmanager
def exact_products() -> Iterator[None]:
    """Inside, products of float32 are those of float32 on every device: torch lets a GPU's convolutions round what they
    multiply to 10 bits (TF32) unless it is told not to, and other products where it is told so."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    kinds: tuple[Any, ...] = (cudnn.conv, cudnn.rnn, cuda.matmul, mkldnn.conv, mkldnn.matmul)  # type: ignore[attr-defined]
    # torch has two sets of switches, and raises within a product where they contradict each other. So both are turned,
    # the old ones first, which turn new ones along.
    turn_matmul, turn_cudnn = torch.set_float32_matmul_precision, partial(setattr, cudnn, "allow_tf32")
    matmul, allowed = _said(torch.get_float32_matmul_precision), _said(lambda: cudnn.allow_tf32)
    before = [kind.fp32_precision for kind in kinds]
    try:
        turn_matmul("highest")
        turn_cudnn(False)
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        if matmul is not None:
            turn_matmul(matmul)
        if allowed is not None:
            turn_cudnn(allowed)
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def _said(switch: Callable[[], Any]) -> Any:
    """What an old switch says; None where it contradicts the new ones, which then hold."""
    try:
        return switch()
    except RuntimeError:
        return None


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters live (the CPU for a model without any)."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def draws_of(device: torch.device) -> str:
    """What random numbers depend on beside their names: ``cpu``, or ``cuda, 132 x 2048 threads`` of a GPU.

    torch shares a block of a field out over all threads that a GPU holds (its multiprocessors times the threads of
    each), so that GPUs that hold equally many give the same numbers, and others do not.
    """
    if device.type != "cuda":
        return device.type
    card = torch.cuda.get_device_properties(device)
    return f"cuda, {card.multi_processor_count} x {card.max_threads_per_multi_processor} threads"


def known_device(device: torch.device | str) -> torch.device:
    """``device`` as torch knows it; :class:`~noiserobust.UserError` when it is no device, or not on this machine."""
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        found = None
    if found is None or found.type == "meta":  # where nothing is computed
        hint = "" if torch.cuda.is_available() else "; torch sees no GPU here: use cpu"
        raise UserError(f"expected a device that is there, such as cpu or cuda, got '{device}'{hint}")
    return found


_OF_FEATURES: WeakSet[nn.Module] = WeakSet()
"""Networks that refuse whole numbers and take the same as floats."""


def answer_to(model: nn.Module, ask: Callable[[], Any]) -> Any:
    """``ask()``, a first call of ``model`` by :func:`as_weights`.

    Where it refuses a tensor of whole numbers and takes the same as floats, they are no tokens but features, now and
    later.
    """
    network = unwrap(model)
    try:
        return ask()
    except (RuntimeError, NotImplementedError):
        if network in _OF_FEATURES:
            raise
        _OF_FEATURES.add(network)
        try:
            return ask()
        except Exception:
            _OF_FEATURES.discard(network)
        raise


def as_weights(model: nn.Module, inputs: Any) -> Any:
    """``inputs`` in the precision of the model's parameters; whole numbers as they are, unless a first call showed that
    they are features (:func:`answer_to`)."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    if isinstance(inputs, Tensor):  # the usual case, at every batch
        return inputs.to(dtype) if inputs.is_floating_point() or unwrap(model) in _OF_FEATURES else inputs
    return nests.mapped(inputs, lambda values: values.to(dtype) if values.is_floating_point() else values)


def call(model: nn.Module, inputs: Any) -> Any:
    """``model(inputs)``, ``model(*inputs)`` of a tuple, ``model(**inputs)`` of a dictionary."""
    args, kwargs = arguments(inputs)
    return model(*args, **kwargs)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``inputs`` as positional and named arguments of a network."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


ANSWERS = ("logits", "out", "predictions", "prediction", "output")
"""What an answer is called among several outputs: by transformers, by torchvision, by others."""


def predictions_of(outputs: Any) -> Tensor:
    """The answer in a network's ``outputs``: the tensor itself; ``logits`` or ``out`` of a dictionary or ModelOutput,
    or its only tensor; the first tensor of a tuple that is no single number (a loss may stand before it)."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        name = next((name for name in ANSWERS if isinstance(outputs.get(name), Tensor)), None)
        found = [value for value in outputs.values() if isinstance(value, Tensor)]
        if name is not None or len(found) == 1:
            return found[0] if name is None else outputs[name]
        raise UserError(f"expected an output called {', '.join(ANSWERS)}, got {', '.join(map(str, outputs)) or 'none'}")
    if isinstance(outputs, (tuple, list)):
        for value in outputs:
            if isinstance(value, Tensor) and value.dim():
                return value
    raise UserError(
        f"expected a model that gives a tensor, or a tuple or dictionary with one, got {type(outputs).__name__}; write "
        "a task of your own (docs/tasks.md)"
    )
