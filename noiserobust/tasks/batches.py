"""Data made ready for forward passes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from noiserobust.data import Batch, Labelled, held_batches
from noiserobust.models.compute import Precision, as_weights, autocast
from noiserobust.models.modes import evaluating

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
            network(as_weights(network, images))
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
