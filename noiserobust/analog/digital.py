"""Weights that exist and sit in no crossbar: packed integers, buffers, and what no forward pass uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from noiserobust.analog.places import held_name
from noiserobust.models.lora import Adapted
from noiserobust.noise.sharded import is_sharded

DIGITAL = "adapter, digital beside its base"
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


def packed(tensor: Tensor) -> str:
    """Why no noise can be written into a weight; empty where its elements are real floating-point numbers."""
    if is_sharded(tensor):
        return ""
    data = tensor.data
    if hasattr(type(data), "__tensor_flatten__"):  # a weight of quantisation libraries that looks like a float
        return f"packed {type(data).__name__}"
    if tensor.is_complex():
        return "complex (an array holds real numbers: store real and imaginary parts by themselves)"
    if tensor.is_floating_point() and tensor.element_size() == 1:
        return f"packed {_kind(tensor)}"  # no arithmetic is defined on it
    return "" if tensor.is_floating_point() else f"packed {_kind(tensor)}"


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def stored_elsewhere(module: nn.Module) -> Iterator[tuple[str, Tensor, str]]:
    """Weights of ``module`` itself that are no parameters: attribute, values, why they are digital.

    Buffers of two or more dimensions that are saved with the network, but for those of norms, masks and indices, and
    what torch's quantised modules pack away.
    """
    if not isinstance(module, NORMS):
        for attribute, buffer in module.named_buffers(recurse=False):
            if attribute not in module._non_persistent_buffers_set and _holds_weights(module, attribute, buffer):
                yield attribute, buffer, "buffer" if buffer.is_floating_point() else f"packed {_kind(buffer)} buffer"
    if type(module).__module__.startswith("torch.ao."):
        yield from _quantised(module)


def _holds_weights(module: nn.Module, attribute: str, buffer: Tensor) -> bool:
    if buffer.layout != torch.strided:
        return False  # a graph
    if buffer.dim() < 2 or not buffer.numel() or attribute.endswith(("mask", held_name(""))):
        return False
    if isinstance(module, nn.utils.parametrize.ParametrizationList) or hasattr(module, "observer_enabled"):
        return False
    return buffer.is_floating_point() or buffer.dtype in (torch.int8, torch.uint8)


def _quantised(module: Any) -> Iterator[tuple[str, Tensor, str]]:
    """The weights that torch's quantised modules pack away; they give them by methods of those names."""
    if not callable(getattr(module, "weight", None)):
        if callable(getattr(module, "get_weight", None)):
            for name, weight in module.get_weight().items():
                yield name, weight.dequantize(), f"packed {_kind(weight)}"
        return
    weight = module.weight()
    yield "weight", weight.dequantize(), f"packed {_kind(weight)}"
    bias = module.bias() if callable(getattr(module, "bias", None)) else None
    if bias is not None:
        yield "bias", bias.detach(), "bias"


def unused(model: nn.Module) -> dict[int, str]:
    """By the ``id`` of a module, or of a parameter in a dictionary: why no array holds it.

    No forward pass uses it: PEFT keeps the originals of modules that it trains whole, adapters that are not active, and
    adapters that are merged into the weights beside them. Or it is an adapter of this package, which are digital.
    """
    found: dict[int, str] = {}
    for module in model.modules():
        parts = [
            *(_replaced(module) if hasattr(module, "original_module") else ()),
            *(_adapters(module) if hasattr(module, "base_layer") else ()),
            *(((part, DIGITAL) for part in module.adapter) if isinstance(module, Adapted) else ()),
        ]
        for part, reason in parts:
            found |= dict.fromkeys(map(id, part.modules() if isinstance(part, nn.Module) else [part]), reason)
    return found


def adapters(model: nn.Module) -> dict[int, str]:
    """By the ``id`` of a parameter of PEFT's adapters: what its adapter is, where no array is known to hold it."""
    return {
        id(parameter): (
            f"part of an adapter ({type(layer).__mro__[0].__module__.split('.')[-2]}), digital beside its base; "
            "merge_and_unload() puts it into the array"
        )
        for layer in model.modules()
        if hasattr(layer, "base_layer")
        for name in getattr(layer, "adapter_layer_names", ())
        if isinstance(container := layer._modules.get(name), nn.Module)
        for parameter in container.parameters()
    }


def _replaced(wrapper: Any) -> Iterator[tuple[nn.Module, str]]:
    """Of a module that is trained whole: the original, or the copies that are not active."""
    copies = getattr(wrapper, "modules_to_save", None)
    if not isinstance(copies, nn.ModuleDict) or not isinstance(wrapper.original_module, nn.Module):
        return
    active = set() if wrapper.disable_adapters else set(wrapper.active_adapters) & set(copies)
    if active:
        yield wrapper.original_module, f"original, replaced by adapter {min(active)}"
    for name in set(copies) - active:
        yield copies[name], f"adapter {name}, not active"


def _adapters(layer: Any) -> Iterator[tuple[nn.Module | nn.Parameter, str]]:
    """Adapters beside a layer that do not compute."""
    if not hasattr(layer, "adapter_layer_names"):
        return
    active = set() if layer.disable_adapters else set(layer.active_adapters)
    for container in map(layer._modules.get, layer.adapter_layer_names):
        for name in container if isinstance(container, (nn.ModuleDict, nn.ParameterDict)) else ():
            if name in layer.merged_adapters:
                yield container[name], f"adapter {name}, merged into its base layer"
            elif name not in active:
                yield container[name], f"adapter {name}, not active"
