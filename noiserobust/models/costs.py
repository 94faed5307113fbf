"""What a network costs: its parameters and the floating-point operations of a forward and a backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from noiserobust.errors import UserError
from noiserobust.limits import within
from noiserobust.models.base import ModelSpec
from noiserobust.models.check import taking
from noiserobust.models.compute import predictions_of
from noiserobust.models.sizes import built
from noiserobust.rng import Stream, seeded

BATCH = 2
"""Images counted at once: batch norm refuses to learn from a single value."""


@dataclass(frozen=True)
class Cost:
    """A network's size, and FLOPs per image (a multiplication and an addition are two)."""

    parameters: int
    forward: int
    forward_backward: int


def cost(
    spec: ModelSpec | str, channels: int | None = None, size: int | None = None, classes: int | None = None
) -> Cost:
    """Parameters and FLOPs of ``spec`` for ``size`` x ``size`` images (default: the problem it was made for).

    FLOPs are those that ``torch.utils.flop_counter`` counts: matrix products, convolutions and attention, in training
    mode; norms, activations and pooling are not in it. The backward pass is that of training: gradients for all
    weights and for every activation, not for the image. Nothing is computed: the tensors have shapes only. Raises
    :class:`~noiserobust.UserError` when the network takes no such images.
    """
    from torch.utils.flop_counter import FlopCounterMode

    spec = ModelSpec.parse(spec) if isinstance(spec, str) else spec
    channels, size, classes = (
        native if given is None else given for given, native in zip((channels, size, classes), spec.native, strict=True)
    )
    if min(channels, size, classes) < 1:
        raise UserError(f"expected channels, size and classes >= 1, got {channels}, {size} and {classes}")
    within("pixels of an image", "pixels", size**2, spec)
    with seeded(Stream(0, "cost")):  # the weights' values do not matter; the caller's random numbers do
        network = built(spec.without_weights(), channels, classes).to("meta").train()
    # The plain formula of attention: the fused ones are not all counted.
    counting = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward}
    )
    with counting as counter, sdpa_kernel(SDPBackend.MATH):
        inputs = spec.inputs(BATCH, channels, size)
        with taking(inputs, str(spec)):
            logits = predictions_of(network(inputs))
        forward = counter.get_total_flops()
        logits.sum().backward()
        total = counter.get_total_flops()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, forward // BATCH, total // BATCH)


def _convolution_backward(grad: list[int], x: list[int], weight: list[int], *arguments: Any, out_shape: Any) -> int:
    """FLOPs from shapes: either gradient, for x and for the weight, multiplies what the forward pass multiplies.

    torch's own formula leaves out that a grouped convolution has a weight gradient within its groups only, which makes
    the backward pass of MobileNet-v2 nineteen times its forward pass.
    """
    from torch.utils.flop_counter import conv_flop_count

    (*_, transposed, _padding, _groups, mask) = arguments
    forward = conv_flop_count(x, weight, grad, transposed=transposed)
    return forward * (mask[0] + mask[1])
