"""Which elements of a weight form one output, seen in a forward pass and not believed from a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from noiserobust.analog.macs import open_attention
from noiserobust.models.modes import evaluating
from noiserobust.models.wrappers import Names, unwrap

_aten = torch.ops.aten


@dataclass(frozen=True)
class Trace:
    """What a forward pass did with one parameter."""

    axes: frozenset[tuple[int, ...]]
    """Every way in which it was multiplied: the dimensions that counted outputs. One is what a crossbar can hold."""
    other: frozenset[str]
    """Further operations that read it (its own norms, look-ups, element-wise products)."""


@torch.no_grad()
def traced_outputs(model: nn.Module, forward: Callable[[], object]) -> dict[str, Trace]:
    """The axes of outputs of every parameter of two or more dimensions that ``forward`` (a call of ``model``) reads.

    Watches the matrix products (mm, bmm, grouped_mm, convolutions) that read a parameter's memory, through whatever
    views: an argument's strides say which of the parameter's dimensions is summed over. Dimensions of size 1 are left
    out; tied parameters are told what any of them did. A parameter that is changed before it is multiplied (a norm of
    the weight, a cast) is not seen in the product: its :class:`Trace` has no axes.
    """
    names, every = Names(model), unwrap(model).named_parameters(remove_duplicate=False)
    named = {names(path): parameter.detach() for path, parameter in every if parameter.dim() > 1}
    watch = _Watch(named)
    with evaluating(model), open_attention(), watch:
        forward()
    return {name: Trace(frozenset(watch.axes[name]), frozenset(watch.other[name])) for name in named}


@dataclass
class _Watch(TorchDispatchMode):
    named: Mapping[str, Tensor]
    axes: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)
    other: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self.axes = {name: set() for name in self.named}
        self.other = {name: set() for name in self.named}
        self.places = [(p.data_ptr(), p.data_ptr() + p.nbytes, name) for name, p in self.named.items()]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        summed = SUMMED.get(func._overloadpacket)
        for position, value in enumerate(args):
            for name in self.owners(value) if isinstance(value, Tensor) and not func.is_view else ():
                if summed is None or position not in summed:
                    self.other[name].add(func._overloadpacket.__name__)
                else:
                    self.axes[name] |= _outputs(self.named[name], value, summed[position](args))
        return out

    def owners(self, tensor: Tensor) -> list[str]:
        place = tensor.data_ptr()
        return [name for first, end, name in self.places if first <= place < end]


def _outputs(parameter: Tensor, used: Tensor, summed: tuple[int, ...]) -> set[tuple[int, ...]]:
    """The parameter's dimensions that are not those summed over in ``used``, a view of it."""
    strides = {used.stride(axis) for axis in summed if used.shape[axis] > 1}
    large = [axis for axis, size in enumerate(parameter.shape) if size > 1]
    return {tuple(axis for axis in large if parameter.stride(axis) not in strides)} if strides else set()


def _convolution(args: Any) -> tuple[int, ...]:
    weight, transposed = args[1], args[6]
    kernel = tuple(range(2, weight.dim()))
    return (0, *kernel) if transposed else (1, *kernel)


SUMMED: dict[Any, dict[int, Callable[[Any], tuple[int, ...]]]] = {
    _aten.mm: {0: lambda a: (1,), 1: lambda a: (0,)},
    _aten.addmm: {1: lambda a: (1,), 2: lambda a: (0,)},
    _aten.mv: {0: lambda a: (1,), 1: lambda a: (0,)},
    _aten.bmm: {0: lambda a: (2,), 1: lambda a: (1,)},
    _aten.baddbmm: {1: lambda a: (2,), 2: lambda a: (1,)},
    _aten.convolution: {1: _convolution},
    _aten._grouped_mm: {0: lambda a: (a[0].dim() - 1,), 1: lambda a: (a[1].dim() - 2,)},
    _aten.linear: {1: lambda a: (1,)},
}
"""By operation and argument: the dimensions of that argument which are summed over."""
