"""Which network a stored row belongs to: a digest of what it is made of, and its answer to a few inputs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from noiserobust.data import nests
from noiserobust.models.compute import Precision, as_weights, autocast, call, device_of, predictions_of
from noiserobust.models.modes import evaluating
from noiserobust.models.wrappers import Names, unwrap
from noiserobust.noise.sharded import class_of, forget_gathered, whole
from noiserobust.rng import Stream, seeded

INPUTS = 4  # that a network is asked
SUMS = 4  # of its outputs that are its answer
OUTPUTS = 4096  # that enter them, at most
TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2}
"""How far two answers of one network may be apart, relative to the largest number in them: rounding."""
VARYING = "varies"
"""The answer of a network whose outputs differ from pass to pass."""


def network_digest(model: nn.Module) -> str:
    """16 hex digits that name a network: its parameters and buffers bit by bit, and its modules.

    Every parameter, buffer (persistent or not) and public tensor attribute counts with name, dtype and shape; every
    module with its name, class, ``extra_repr`` and public plain attributes. What the classes' code does is not looked
    at: :func:`answer` shows it. Wrappers (DDP, torch.compile) and sharding do not count.
    """
    forget_gathered(model)
    digest = _modules(model)
    for name, tensor in sorted(_tensors(unwrap(model), Names(model)), key=lambda named: named[0]):
        digest_tensor(digest, name, tensor)
    return digest.hexdigest()[:16]


def code(model: nn.Module, inputs: Any) -> list[str]:
    """What shows the code of an untrained network: its modules (16 hex digits) and its :func:`answer` to ``inputs``."""
    return [_modules(model).hexdigest()[:16], answer(model, inputs)]


def same_code(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two networks have the same modules and answer alike, as far as that can be seen."""
    return one[0] == other[0] and (one[1] == other[1] or same_answer(one[1], other[1]))


def _modules(model: nn.Module) -> hashlib._Hash:
    digest, names = hashlib.sha256(), Names(model)
    for path, module in unwrap(model).named_modules():
        parts = [names(path), class_of(module).__qualname__, module.extra_repr(), *_plain_attributes(module)]
        digest.update(f"{' '.join(parts)}\n".encode())
    return digest


def digest_tensor(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """Add a tensor's name, dtype, shape and bits to ``digest``."""
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    values = whole(tensor.detach()).cpu()
    values = values.int_repr() if values.is_quantized else values.to_dense() if values.is_sparse else values
    digest.update(values.contiguous().flatten().view(torch.uint8).numpy().data)


@torch.no_grad()
def answer(model: nn.Module, inputs: Any, precision: Precision = "fp32") -> str:
    """What a network says of the first four ``inputs`` in eval mode: four weighted sums of its outputs, as text.

        a_k = sum_j v_kj y_j / sqrt(J),    y_1 ... y_J its outputs in order, v_kj standard normal and always the same

    so that another forward, activation or hook shows (of more than 4096 outputs, some that are evenly spaced).
    "varies" where a second pass, with the same random numbers of torch, gives other outputs. A network that does not
    take so few inputs is asked about all; one that takes none of them, or gives no tensor, answers "". Buffers, modes
    and torch's generators are as before afterwards.
    """
    device = device_of(model)
    for asked in (nests.mapped(inputs, lambda values: values[:INPUTS]), inputs):
        with autocast(device, precision), suppress(Exception):  # evaluation will say why
            one, other = (_answered(model, as_weights(model, asked)) for _ in range(2))
            return one if same_answer(one, other, precision) else VARYING
    return ""


def same_answer(one: str, other: str, precision: Precision = "fp32") -> bool:
    """Whether two answers agree to rounding, and with them the functions (``name=digest``) that both say they were
    scored by; one that varies agrees with none."""
    (one, those), (other, others) = map(_parted, (one, other))
    if VARYING in (one, other) or any(others.get(name, digest) != digest for name, digest in those.items()):
        return False
    if one == other:
        return True
    try:
        pairs = [(float(a), float(b)) for a, b in zip(one.split(), other.split(), strict=False)]
    except (ValueError, AttributeError):  # somebody wrote something else into a file of rows
        return False
    if len(pairs) != SUMS or any(math.isnan(a) != math.isnan(b) for a, b in pairs):
        return False
    largest = max((abs(value) for pair in pairs for value in pair if not math.isnan(value)), default=0.0)
    limit = TOLERANCE[precision.partition(" ")[0]] * largest
    return all(a == b or math.isnan(a) or abs(a - b) <= limit < math.inf for a, b in pairs)


def functions_of(answer: str) -> set[str]:
    """The names of the functions whose digests stand in an answer."""
    return set(_parted(answer)[1])


def _parted(answer: str) -> tuple[str, dict[str, str]]:
    """An answer's numbers, and the digests of functions behind them."""
    words = str(answer).split()
    functions = [word.partition("=")[::2] for word in words if "=" in word]
    return " ".join(word for word in words if "=" not in word), dict(functions)


def _answered(model: nn.Module, inputs: Any) -> str:
    """The weighted sums of one pass, in which torch's generators always draw the same."""
    with evaluating(model), seeded(Stream(0, "answer"), device_of(model)):
        values = predictions_of(call(model, inputs)).double().cpu().flatten()
    values = values[:: max(1, math.ceil(len(values) / OUTPUTS))]
    weights = Stream(0, "answer").normal((SUMS, len(values))).double()
    return " ".join(f"{value:.6g}" for value in (weights @ values / math.sqrt(len(values))).tolist())


def _plain_attributes(module: nn.Module) -> Iterator[str]:
    for name, value in sorted(vars(module).items()):
        several = value if isinstance(value, (tuple, list)) else [value]
        if name.startswith("_") or name == "training":
            continue
        if all(isinstance(one, (bool, int, float, str, type(None))) for one in several):
            yield f"{name}={value!r}"


def _tensors(model: nn.Module, names: Names) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers and tensors in public attributes, each under every name it has."""
    for path, module in model.named_modules(remove_duplicate=False):
        registered = {**module._parameters, **module._buffers}
        public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        for name, tensor in _within({**registered, **public}):
            yield names(f"{path}.{name}" if path else name), tensor


def _within(values: Mapping[str, object]) -> Iterator[tuple[str, Tensor]]:
    for name, value in values.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (tuple, list)):
            yield from _within({f"{name}[{index}]": one for index, one in enumerate(value)})
        elif isinstance(value, Mapping):
            yield from _within({f"{name}[{key}]": one for key, one in value.items()})
