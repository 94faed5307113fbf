"""Networks that compute with frozen copies of their weights are noticed: no noise would reach them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from noiserobust.analog.backup import Backup
from noiserobust.analog.noisy import NoisyWeights
from noiserobust.analog.openings import opened
from noiserobust.analog.places import AnalogWeight
from noiserobust.data import Batch, nests
from noiserobust.errors import UserError
from noiserobust.models.compute import Precision, autocast, device_of
from noiserobust.models.modes import evaluating, kept_buffers
from noiserobust.noise.sharded import field_like
from noiserobust.rng import Stream

FEW = 4
"""Samples that are asked first; all of a batch are asked before a network is refused."""
DRAWS = 3


@torch.no_grad()
def require_effect(noisy: NoisyWeights, ask: Callable[[Batch], Any], batch: Batch, precision: Precision) -> None:
    """Refuse a network whose answers are the same, bit for bit, whatever its analog weights are.

    ``ask`` gives its raw outputs for samples of ``batch``. Every weight is moved by several times the largest of its
    tensor, so that neither a small noise nor a low precision nor whole numbers as outputs hide the effect. Weights that
    are not used at all (an auxiliary head, in a network that else answers to its weights) are none of this' business.
    """

    def answers(samples: Batch) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in nests.tensors(ask(samples))]

    clean: list[Tensor] = []
    device = device_of(noisy.model)
    generators = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with evaluating(noisy.model), kept_buffers(noisy.model), generators, autocast(device, precision):
        for samples in (batch[:FEW], batch):
            with suppress(RuntimeError, ValueError, TypeError):  # takes no such few: the evaluation itself says why
                clean = answers(samples)
                for draw in range(DRAWS):
                    with noisy.replaced(partial(_moved, stream=Stream(0, "effect", draw))):
                        if _differ(clean, answers(samples)):
                            return
        if not clean or not any(bool(values.any()) for values in nests.tensors(batch.inputs)):
            return  # nothing was asked
        with _called(noisy) as called, _all_moved(noisy.model):
            if (_differ(clean, answers(batch)) and not called) or (called and not any(called)):
                return
    raise UserError(
        "expected answers that change with the weights, got the same ones under any noise: the network computes with "
        "frozen copies (inductor freezing, a frozen or optimised export, a cache of merged weights); hand over the "
        "network before it was frozen, or set torch._inductor.config.freezing = False and compile anew"
    )


def _moved(weight: AnalogWeight, stream: Stream) -> Tensor:
    clean = weight.value()
    rows = weight.as_rows(clean)
    field = field_like(stream.weight(weight.name).normal, rows)
    return clean + weight.from_rows(field * (3 * rows.abs().max() + 1)).to(clean.dtype)


def _differ(ones: list[Tensor], others: list[Tensor]) -> bool:
    return len(ones) != len(others) or any(
        one.shape != other.shape or not torch.equal(one, other) for one, other in zip(ones, others, strict=True)
    )


@contextmanager
def _called(noisy: NoisyWeights) -> Iterator[list[bool]]:
    """Of each call inside of a weight's layer: whether it is asked anything, by inputs that are not all 0."""
    called: list[bool] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        given = [*nests.tensors(args)]
        called.append(not given or any(bool(values.any()) for values in given))

    with ExitStack() as stack:
        for weight in noisy.weights:
            hook = weight.owner.register_forward_pre_hook(note)
            stack.callback(hook.remove)
        yield called


@contextmanager
def _all_moved(model: nn.Module) -> Iterator[None]:
    """Inside, all parameters are others."""
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    with opened(parameters) as opening:
        Backup(parameters).save(opening)
        for index, parameter in enumerate(parameters):
            field = field_like(Stream(0, "effect", index).normal, parameter.detach())
            parameter.add_((field + 1).to(parameter.dtype))
        yield
