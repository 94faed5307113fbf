"""The modes of a network: evaluation mode, batch statistics, statistics learnt anew; each ends as it began."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm

from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.models.compute import Precision, as_weights, autocast, call, device_of


@contextmanager
def evaluating(model: nn.Module, learning: bool = False) -> Iterator[None]:
    """Eval mode inside, in which nothing is learnt: buffers that passes change, as observers of quantisation, counters
    and moving averages do, are as before outside, and every module has its own mode again.

    ``learning``: but for observers, what passes change stays.
    """
    modules = list(model.modules())  # walking over them and setting modes are slow
    training = [module for module in modules if module.training]
    if training:
        model.eval()
    try:
        with _frozen_observers(modules), nullcontext() if learning else _kept_buffers(modules):
            yield
    finally:
        before = set(map(id, training))
        for module in modules:
            if module.training != (id(module) in before):
                module.training = not module.training


@contextmanager
def _frozen_observers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, observers of torch's quantisation keep their ranges, which they learn in eval mode, too."""
    if "torch.ao.quantization" not in sys.modules:
        yield
        return
    from torch.ao.quantization import FakeQuantizeBase, ObserverBase

    quantising = [module for module in modules if isinstance(module, (FakeQuantizeBase, ObserverBase))]
    learning: list[Any] = [module.observer_enabled for module in quantising if isinstance(module, FakeQuantizeBase)]
    observers = [module for module in quantising if isinstance(module, ObserverBase)]
    ranges = [{name: value.clone() for name, value in one.state_dict().items()} for one in observers]
    before = [enabled.clone() for enabled in learning]
    try:
        for enabled in learning:
            enabled.zero_()
        yield
    finally:
        for enabled, was in zip(learning, before, strict=True):
            enabled.copy_(was)
        for observer, kept in zip(observers, ranges, strict=True):
            observer.load_state_dict(kept)


@contextmanager
def _kept_buffers(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Buffers that passes inside change or replace are as before afterwards; torch's own layers change none in eval
    mode, and are not looked at."""
    places = [
        (module._buffers, name, buffer, buffer.clone(), _version(buffer))
        for module in modules
        if not type(module).__module__.startswith("torch.nn.modules.")
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffers, name, buffer, before, version in places:
                if version is None or _version(buffer) != version:
                    buffer.copy_(before)
                if name in buffers and buffers[name] is not buffer:
                    buffers[name] = buffer


def _version(tensor: torch.Tensor) -> int | None:
    """What in-place changes count up; None for tensors that do not count."""
    return None if tensor.is_inference() else tensor._version


@contextmanager
def kept_norm_stats(model: nn.Module) -> Iterator[None]:
    """Normalisation statistics and their counters (also spectral norm's vectors) are as before when the body ends, and
    observers of quantisation learn nothing in it.

    The usual trick of momentum 0 still advances ``num_batches_tracked``, so the buffers themselves are kept.
    """
    buffers = [
        buffer
        for module in model.modules()
        if isinstance(module, (nn.modules.batchnorm._NormBase, nn.utils.parametrizations._SpectralNorm))
        for buffer in module.buffers(recurse=False)
    ]
    for module in model.modules():  # the older spectral norm is a hook
        names = [hook.name for hook in module._forward_pre_hooks.values() if isinstance(hook, SpectralNorm)]
        buffers += [getattr(module, f"{name}_{vector}") for name in names for vector in "uv"]
    # One call per dtype: on a GPU one or two kernels instead of one per buffer.
    kinds = [[buffer for buffer in buffers if buffer.dtype == dtype] for dtype in {b.dtype for b in buffers}]
    kept = [[buffer.clone() for buffer in kind] for kind in kinds]
    try:
        with _frozen_observers(model.modules()):
            yield
    finally:
        with torch.no_grad():
            for kind, values in zip(kinds, kept, strict=True):
                torch._foreach_copy_(kind, values)


@contextmanager
def batch_normalised(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, but for normalisation, which uses the statistics of each batch as in training and learns
    nothing from them."""
    with evaluating(model), kept_norm_stats(model):
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.train()
        yield


@contextmanager
def recalibrated(model: nn.Module, batches: Sequence[Batch], precision: Precision = "fp32") -> Iterator[None]:
    """Inside, batch norm (and instance norm that has learnt statistics) uses statistics learnt anew from ``batches``,
    of the model as it stands (noisy weights and all): their mean over the batches, each with equal weight. Its own
    come back bit for bit.

    Inputs are given in the precision of the model's parameters. A last sample alone has no statistics where norms see
    one value of it a channel: it joins the batch before it.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    if not norms:
        raise UserError(f"expected a network with batch norm to recalibrate, got none in {type(model).__name__}")
    if any(isinstance(norm, nn.BatchNorm1d) for norm in norms) and len(batches) and len(batches[-1]) == 1:
        if len(batches) == 1:
            raise UserError("expected 2 or more images to recalibrate batch norm from, got 1")
        batches = [*batches[:-2], Batch.join(batches[-2:])]
    momenta = [norm.momentum for norm in norms]
    try:
        with kept_norm_stats(model):
            with torch.no_grad(), evaluating(model, learning=True), autocast(device_of(model), precision):
                for norm in norms:
                    norm.reset_running_stats()
                    norm.train()
                for index, batch in enumerate(batches):
                    for norm in norms:
                        # None is a cumulative average, which instance norm does not know.
                        instance = isinstance(norm, nn.modules.instancenorm._InstanceNorm)
                        norm.momentum = 1 / (index + 1) if instance else None
                    call(model, as_weights(model, batch.inputs))
            yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
