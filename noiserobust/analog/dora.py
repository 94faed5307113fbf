r"""DoRA's norms while its weights are noisy: digital numbers, made of the clean weights.

.. math:: y = \frac{m}{\lVert W + s B A \rVert}\, (W x + s B A x) + b

The arrays hold W, A and B. What they give is multiplied by m over the norms of the columns, which a chip's digital part
has been told once; peft computes the norms anew in every pass, from whatever the weights hold then.
Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (arXiv 2402.09353), Eq. 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

NAME = "get_weight_norm"


def dora_layers(model: nn.Module) -> list[Any]:
    """The layers of peft in ``model`` that have DoRA's magnitudes."""
    return [module for module in model.modules() if getattr(module, "lora_magnitude_vector", None)]


@contextmanager
def norms_kept(layers: list[Any]) -> Iterator[None]:
    """Inside, the norms are those of the weights now."""
    kept = [(part, _Norm(norm)) for layer in layers for part, norm in _norms(layer) if NAME not in vars(part)]
    for part, norm in kept:
        setattr(part, NAME, norm)
    try:
        yield
    finally:
        for part, _ in kept:
            delattr(part, NAME)


class _Norm:
    """What takes the place of the method; copies and pickles of a network have it, too."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __call__(self, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.value.to(weight.device, weight.dtype)


@torch.no_grad()
def _norms(layer: Any) -> list[tuple[Any, Tensor]]:
    norms = []
    for adapter, part in layer.lora_magnitude_vector.items():
        if adapter in layer.lora_embedding_A:
            low, high = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
        else:
            low, high = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        magnitude = part.weight
        try:
            part.update_layer(
                base_layer=layer.get_base_layer(), lora_A=low, lora_B=high, scaling=layer.scaling[adapter]
            )
            norms.append((part, part.weight.detach()))
        finally:
            part.weight = magnitude
    return norms
