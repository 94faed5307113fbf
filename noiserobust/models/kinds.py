"""Networks whose weights cannot be moved by layer: compiled programs, frozen ones, weights that are elsewhere."""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from noiserobust.errors import UserError


def require_layers(model: nn.Module) -> None:
    """Refuse programs made of a network, which hold its weights but no layers that say what is done with them, and
    networks whose weights have no shape yet."""
    for path, module in model.named_modules():
        name = f"{path} ({type(module).__name__})" if path else type(module).__name__
        if any(map(is_lazy, module._parameters.values())):
            raise UserError(f"expected an initialised model, but {name} is lazy: run one batch through it first")
        if isinstance(module, torch.jit.ScriptModule) and (module is model or _has_matrices(module)):
            raise UserError(
                f"expected a network of layers, got the TorchScript program {name}; hand over the module that was "
                "scripted or traced"
            )
        # What torch.export makes refuses train and eval by methods of its own.
        if isinstance(module, torch.fx.GraphModule) and "eval" in vars(module):
            raise UserError(
                f"expected a network of layers, got the exported program {name}; hand over the module that was exported"
            )


def require_weights(model: nn.Module) -> None:
    """Refuse weights that are not in memory, and a compiler that is told to copy them."""
    if any(hasattr(module, "_hf_hook") for module in model.modules()) and _on_meta(model):
        raise UserError(
            "expected weights in memory, got some that accelerate offloads to the processor or disk and loads for each "
            "pass; load the network without a device_map"
        )
    if _on_meta(model):
        raise UserError(
            "expected weights with values, got some on the meta device; load them first (to_empty and load_state_dict)"
        )
    if not torch.is_inference_mode_enabled() and any(parameter.is_inference() for parameter in model.parameters()):
        raise UserError(
            "expected weights that can be changed, got some that were made inside torch.inference_mode; copy the "
            "network outside of it (copy.deepcopy)"
        )
    inductor = sys.modules.get("torch._inductor.config")
    compiled = any(hasattr(module, "_orig_mod") or module._compiled_call_impl for module in model.modules())
    if compiled and inductor is not None and inductor.freezing:
        raise UserError(
            "expected a compiled network that reads its weights, got torch._inductor.config.freezing, which makes them "
            "constants; set it to False before torch.compile"
        )


def _has_matrices(program: torch.jit.ScriptModule) -> bool:
    """Whether a TorchScript program has weights, as parameters or, frozen, as constants; an activation has none."""
    constants = (node for node in program.inlined_graph.nodes() if node.kind() == "prim::Constant")
    frozen = (node.t("value") for node in constants if "value" in node.attributeNames() and node.kindOf("value") == "t")
    return any(weight.dim() > 1 for weight in (*program.parameters(), *frozen))


def _on_meta(model: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in model.parameters())
