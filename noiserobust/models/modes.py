"""The modes of a network: evaluation mode, batch statistics, statistics learnt anew; each ends as it began."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.models.compute import Precision, as_weights, autocast, call, device_of


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module's own mode again outside."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def kept_norm_stats(model: nn.Module) -> Iterator[None]:
    """Normalisation statistics and their counters (also spectral norm's vectors) are as before when the body ends.

    The usual trick of momentum 0 still advances ``num_batches_tracked``, so the buffers themselves are kept.
    """
    buffers = [
        buffer
        for module in model.modules()
        if isinstance(module, (nn.modules.batchnorm._NormBase, nn.utils.parametrizations._SpectralNorm))
        for buffer in module.buffers(recurse=False)
    ]
    # One call per dtype: on a GPU one or two kernels instead of one per buffer.
    kinds = [[buffer for buffer in buffers if buffer.dtype == dtype] for dtype in {b.dtype for b in buffers}]
    kept = [[buffer.clone() for buffer in kind] for kind in kinds]
    try:
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
@torch.no_grad()
def recalibrated(model: nn.Module, batches: Sequence[Batch], precision: Precision = "fp32") -> Iterator[None]:
    """Inside, batch norm uses statistics learnt anew from ``batches``, of the model as it stands (noisy weights and
    all): their mean over the batches, each with equal weight. Its own come back bit for bit.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        raise UserError(f"expected a network with batch norm to recalibrate, got none in {type(model).__name__}")
    saved = [{name: value.clone() for name, value in norm.state_dict().items()} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    try:
        with evaluating(model), autocast(device_of(model), precision):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # cumulative average
                norm.train()
            for batch in batches:
                call(model, as_weights(model, batch.inputs))
        yield
    finally:
        for norm, state, momentum in zip(norms, saved, momenta, strict=True):
            norm.load_state_dict(state)
            norm.momentum = momentum
