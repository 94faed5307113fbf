"""The forward pass that evaluation and epoch selection share: accuracy and loss of a model on prepared batches."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from noiserobust.data import Batch, Labelled, held_batches
from noiserobust.errors import UserError

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


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters live (the CPU for a model without any)."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def known_device(device: torch.device | str) -> torch.device:
    """``device`` as torch knows it; :class:`~noiserobust.UserError` when it is no device, or not on this machine."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"expected a device that is there, such as cpu or cuda, got '{device}'") from None


FORWARD_BATCH = {"cpu": 50}
OTHER_FORWARD_BATCH = 500
"""Images per forward pass, by device, of networks that are not known yet."""
CACHE = 3 << 20
"""Bytes of a batch's largest layer output on the CPU, so that it stays in the caches (docs/speed.md); twice that where
it would be less than :data:`FEW` images, since each pass also puts all weights into the order its kernels want."""
FEW = 24


@torch.no_grad()
def forward_batch(network: nn.Module, images: Tensor, precision: Precision = "fp32") -> int:
    """Images per forward pass that suit ``network`` and its device, 8 to 500; ``images`` are a few of its inputs."""
    sizes = [1]
    if images.device.type != "cpu":
        return OTHER_FORWARD_BATCH

    def note(module: nn.Module, inputs: object, output: object) -> None:
        sizes.append(output.numel() * output.element_size() if isinstance(output, Tensor) else 0)

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        with evaluating(network), autocast(images.device, precision):
            network(_as_weights(network, images))
    except Exception:  # it will say so when it is evaluated
        return FORWARD_BATCH["cpu"]
    finally:
        for hook in hooks:
            hook.remove()
    fitting = CACHE * len(images) // max(sizes)
    return min(max(fitting, min(FEW, 2 * fitting), 8), OTHER_FORWARD_BATCH)


def prepare(
    data: Labelled, device: torch.device, batch_size: int | None = None, channels_last: bool = False
) -> Sequence[Batch]:
    """All of ``data``, normalised and moved once, in order, so that every draw reads the same tensors.

    ``batch_size`` is by default what suits forward passes on ``device``. Streamed data that would not fit are read
    again at every pass.
    """
    size = FORWARD_BATCH.get(device.type, OTHER_FORWARD_BATCH) if batch_size is None else batch_size
    return held_batches(data, size, device=device, channels_last=channels_last)


Metric = Callable[[Tensor, Tensor], Tensor | float]
"""From all logits (N, C), float32, and all labels (N) to one number."""

METRICS: dict[str, Metric] = {
    "perplexity": lambda logits, labels: functional.cross_entropy(logits, labels).exp(),
    "top5": lambda logits, labels: 100 * (logits.topk(5).indices == labels[:, None]).any(1).float().mean(),
}
"""Further metrics by name; ``accuracy`` (percent) and ``loss`` (nats) are always there."""


@torch.no_grad()
def score(
    model: nn.Module,
    batches: Sequence[Batch],
    precision: Precision = "fp32",
    classes: int = 0,
    metrics: Mapping[str, Metric] | None = None,
) -> dict[str, float]:
    """Accuracy in percent and mean cross-entropy (nats) of ``model`` as it stands, in eval mode, and the ``metrics``.

    Inputs are given in the precision of the model's parameters. Raises :class:`~noiserobust.UserError` when its output
    is no (B, C) tensor, or C is less than the ``classes`` of the data.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    device = device_of(model)
    correct, loss, count = torch.zeros((), device=device), torch.zeros((), device=device), 0
    with evaluating(model), autocast(device, precision):
        for batch in batches:
            logits = _logits(model, batch, classes)
            correct += (logits.argmax(1) == batch.labels).sum()
            loss += functional.cross_entropy(logits, batch.labels, reduction="sum")
            count += len(batch)
            if metrics:
                kept.append((logits, batch.labels))
    values = {"accuracy": 100 * correct.item() / count, "loss": loss.item() / count}
    if metrics:
        seen = [torch.cat(parts) for parts in zip(*kept, strict=True)]
        values |= {name: float(metric(*seen)) for name, metric in metrics.items()}
    return values


def known_metrics(names: Mapping[str, Metric] | Sequence[str]) -> dict[str, Metric]:
    """Metrics by name: of :data:`METRICS`, or ``package.module:function``; a mapping is taken as it is."""
    if isinstance(names, Mapping):
        return dict(names)
    return {name: METRICS[name] if name in METRICS else _imported(name) for name in names}


def _imported(name: str) -> Metric:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError):
        raise UserError(
            f"expected a metric ({', '.join(METRICS)}) or package.module:function, got '{name}': not to be imported"
        ) from None
    return cast(Metric, found)


@torch.no_grad()
def answers(
    model: nn.Module, batches: Sequence[Batch], precision: Precision = "fp32", classes: int = 0
) -> tuple[Tensor, Tensor]:
    """Image by image, in order: whether it is classified rightly (bool), as :func:`score` counts it, and its signed
    margin, the logit of its class minus the largest other one (infinite where there is no other)."""
    found = []
    with evaluating(model), autocast(device_of(model), precision):
        for batch in batches:
            logits, labels = _logits(model, batch, classes), batch.labels[:, None]
            others = logits.scatter(1, labels, -torch.inf).amax(1)
            found.append((logits.argmax(1) == batch.labels, logits.gather(1, labels)[:, 0] - others))
    correct, margin = zip(*found, strict=True)
    return torch.cat(correct), torch.cat(margin)


def _logits(model: nn.Module, batch: Batch, classes: int) -> Tensor:
    """float32 (B, C); the inputs are given in the precision of the model's parameters."""
    logits = model(_as_weights(model, batch.inputs))
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < classes:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"expected a model that gives logits of shape (B, {classes} or more), got {got}")
    return logits.float()


def _as_weights(model: nn.Module, inputs: Tensor) -> Tensor:
    """``inputs`` in the precision of the model's parameters; whole numbers as they are."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


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
                model(batch.inputs)
        yield
    finally:
        for norm, state, momentum in zip(norms, saved, momenta, strict=True):
            norm.load_state_dict(state)
            norm.momentum = momentum
