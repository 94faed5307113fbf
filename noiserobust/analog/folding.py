"""Batch norm folded into the noisy layer before it: the weights are multiplied instead of every image.

In eval mode batch norm is affine, so that after a layer it can be taken into the layer's weight and bias.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from noiserobust.analog.noisy import NoisyWeights
from noiserobust.models.modes import evaluating
from noiserobust.models.wrappers import unwrap

ROUNDING = 1e-4
"""Norms are folded only if the network then gives what it gave before, up to this fraction of its largest output."""

_LAYERS = {nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5, nn.Linear: 2}
"""Layers, and the dimensions of an output whose dimension 1 is the layer's output channel."""
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Folding:
    r"""The batch norms of ``noisy``'s network that can be folded, found by watching it compute ``images``.

    .. math:: \gamma \frac{(W x + b) - \mu}{\sqrt{v + \epsilon}} + \beta = (a W) x + (a (b - \mu) + \beta),
        \qquad a = \gamma / \sqrt{v + \epsilon}

    W is the *noisy* weight: the noise and its scale are those of the weight in the array. A norm is folded if its input
    is the output of a Linear or convolution with a noisy weight of its own, nothing else uses that output, both are
    called once, and neither has hooks or a forward method of its own. ``report`` says how many are, and why none is.
    """

    def __init__(self, noisy: NoisyWeights, images: Tensor) -> None:
        self.noisy, self.pairs = noisy, list[_Pair]()
        model = noisy.model
        norms = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
        if not norms:
            self.report = ""
            return
        try:
            with torch.no_grad(), evaluating(model):
                self.pairs = _pairs(noisy, images)
                reason = self._wrong(images)
        except Exception as error:  # whatever a network does with a probe; it is then run as it is
            reason = f"{type(error).__name__}: {(str(error) or '?').splitlines()[0]}"
        if reason:
            self.pairs = []
        self.report = f"{len(self.pairs)} of {norms} batch norms folded" + (f" ({reason})" if reason else "")

    @contextmanager
    def folded(self) -> Iterator[None]:
        """Inside ``noisy.replaced`` or ``noisy.perturbed`` (which bring the weights back): norms are in the weights."""
        with ExitStack() as stack:
            for pair in self.pairs:
                stack.enter_context(pair.folded())
            yield

    def _wrong(self, images: Tensor) -> str:
        """Why folding would change what the network computes; empty if it would not."""
        if not self.pairs:
            return "none directly follows a noisy layer"
        model = self.noisy.model
        plain = model(images)
        with self.noisy.replaced(lambda weight: weight.parameter.detach()), self.folded():
            found = model(images)
        close = (found - plain).abs().max() <= ROUNDING * plain.abs().max()
        return "" if close else "the network then gives another output"


@dataclass(frozen=True, eq=False)
class _Pair:
    layer: Any
    norm: Any
    bias: nn.Parameter
    """The folded layer's, one tensor for all draws: a compiled network need not be compiled again."""

    @contextmanager
    def folded(self) -> Iterator[None]:
        layer, norm = self.layer, self.norm
        with torch.no_grad():
            scale = torch.rsqrt(norm.running_var + norm.eps)
            shift = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
            if norm.affine:
                scale = scale * norm.weight
            shift = shift * scale
            self.bias.copy_(shift + norm.bias if norm.affine else shift)
            layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
        own, layer._parameters["bias"] = layer._parameters["bias"], self.bias
        norm.forward = _as_it_is
        try:
            yield
        finally:
            layer._parameters["bias"] = own
            del norm.forward


def _as_it_is(x: Tensor) -> Tensor:
    return x


class _Uses(TorchDispatchMode):
    """How many operations take a tensor's memory, views of it included."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _memory((args, kwargs))
        self.of.update(given)
        result = func(*args, **(kwargs or {}))
        for new in _memory(result) - given:
            self.of[new] = 0  # where something lay that is gone
        return result


def _memory(tree: Any) -> set[int]:
    return {leaf.untyped_storage()._cdata for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}


def _pairs(noisy: NoisyWeights, images: Tensor) -> list[_Pair]:
    model = unwrap(noisy.model)
    owners = Counter(
        id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False)
    )  # parameters of one module under two names are no matter: it is called twice then
    analog = {id(weight.parameter) for weight in noisy.weights if not weight.tied}
    calls: dict[nn.Module, list[Tensor]] = {}  # kept alive, so that no memory is used twice

    def is_watched(module: Any) -> bool:
        if type(module) in _LAYERS:
            return id(module.weight) in analog and owners[id(module.weight)] == 1 and _is_plain(module)
        return type(module) in _NORMS and module.running_var is not None and _is_plain(module)

    watched = list(filter(is_watched, model.modules()))
    with ExitStack() as stack:
        for module in watched:
            seen = calls.setdefault(module, [])
            is_layer = type(module) in _LAYERS
            hook = module.register_forward_hook(
                lambda module, args, output, seen=seen, is_layer=is_layer: seen.append(output if is_layer else args[0])
            )
            stack.callback(hook.remove)
        uses = stack.enter_context(_Uses())
        noisy.model(images)
    once: dict[Any, Tensor] = {module: tensors[0] for module, tensors in calls.items() if len(tensors) == 1}
    made_by = {id(tensor): module for module, tensor in once.items() if type(module) in _LAYERS}
    pairs = []
    for norm, tensor in once.items():
        layer = made_by.get(id(tensor))
        if type(norm) not in _NORMS or layer is None or tensor.dim() != _LAYERS[type(layer)]:
            continue
        (memory,) = _memory(tensor)
        if uses.of[memory] == 1 and layer.weight.dtype in (torch.float32, torch.float64):
            pairs.append(_Pair(layer, norm, nn.Parameter(torch.empty_like(norm.running_mean), requires_grad=False)))
    return pairs


def _is_plain(module: nn.Module) -> bool:
    """Whether a call of ``module`` is its class's own forward method and nothing else."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return "forward" not in vars(module) and not any(hooks)
