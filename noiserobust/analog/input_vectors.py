"""What the input lines of a layer's crossbars are given: vectors, one per position of its output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CONVOLUTIONS = {
    kind.forward: dimensions
    for dimensions, kinds in enumerate(
        [(nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d), (nn.Conv3d, nn.ConvTranspose3d)], 1
    )
    for kind in kinds
}
LINEAR = {"torch.nn.modules.linear.Linear.forward", "transformers.pytorch_utils.Conv1D.forward"}
"""What computes W x + b of vectors x in the last dimension; by name, so that none need be imported."""


def is_linear(forward: Any) -> bool:
    """Whether ``forward`` is that of a Linear, or of the same with another name."""
    return f"{forward.__module__}.{forward.__qualname__}" in LINEAR


def input_vectors(layer: Any, x: Tensor, output: torch.Size) -> Tensor:
    """(samples, positions, groups, inputs) of a batch ``x`` for which ``layer`` gives a batch of shape ``output``.

    A convolution's vectors are its patches, in the order of the weight's inputs (channels, then the kernel). Those of
    a transposed convolution are patches of the input with zeros between its pixels.
    """
    spatial = CONVOLUTIONS.get(type(layer).forward, 0)
    if not spatial:
        return x.reshape(len(x), x.shape[1:-1].numel(), 1, x.shape[-1])

    def every(steps: Sequence[int]) -> Any:
        return (..., *(slice(None, None, step) for step in steps))

    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    kernel, stride, dilation, groups = layer.kernel_size, layer.stride, layer.dilation, layer.groups
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if transposed:
        sizes = [s * (n - 1) + 1 for s, n in zip(stride, x.shape[2:], strict=True)]
        apart = x.new_zeros(*x.shape[:2], *sizes)
        apart[every(stride)] = x
        before = [span - 1 - padding for span, padding in zip(spans, layer.padding, strict=True)]
        after = [n - 1 + span - b - size for n, span, b, size in zip(output[2:], spans, before, sizes, strict=True)]
        around = [pad for pair in zip(reversed(before), reversed(after), strict=True) for pad in pair]
        x, stride = functional.pad(apart, around), (1,) * spatial
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = functional.pad(x, layer._reversed_padding_repeated_twice, mode)
    for axis, (span, step) in enumerate(zip(spans, stride, strict=True), 2):
        x = x.unfold(axis, span, step)
    x = x[every(dilation)]
    if transposed:
        x = x.flip(tuple(range(-spatial, 0)))
    samples, channels = x.shape[:2]
    patches = x.reshape(samples, groups, channels // groups, output[2:].numel(), math.prod(kernel))
    return patches.permute(0, 3, 1, 2, 4).flatten(3)
