"""What a layer with a forward method of its own multiplies by, seen by calling it alone.

Weight standardisation, ternary weights and fake quantisation compute with a function of the stored weight. That value
sits in the array, so that it gets the noise: it is replaced at the operation that uses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from noiserobust.analog.layers import Outputs, registered_parent
from noiserobust.analog.tracing import traced
from noiserobust.models.modes import evaluating
from noiserobust.rng import Stream, seeded


class Unclear(Exception):
    """Why it cannot be told what a layer multiplies by."""


@dataclass(frozen=True)
class Operand:
    """One argument of one product in a layer's forward pass."""

    product: int
    """The how manieth product of the pass it is in, from 0."""
    argument: int
    outputs: Outputs
    written: bool = False
    """Whether the layer writes the value into its parameter before the product (a limit on norms, signs of a copy): it
    would change noise that lies there."""

    def of(self, seen: Mapping[tuple[int, int], tuple[Tensor, Outputs]]) -> Tensor | None:
        return seen[self.product, self.argument][0] if (self.product, self.argument) in seen else None


Found = tuple[Operand, list[nn.Parameter]]
T = TypeVar("T")
_SEEN: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], Any]] = WeakKeyDictionary()
"""What probes found: by module, and by probe, parameter and forward method. A text says why it is unclear."""


def _once(module: nn.Module, parameter: nn.Parameter, probe: Callable[[nn.Module, nn.Parameter], T]) -> T:
    """What ``probe`` finds, or its :class:`Unclear`: it is asked once."""
    forward = vars(module).get("forward", type(module).forward)
    # Neither a bound method nor an exception with its frames is kept: they would keep the layer.
    known, key = _SEEN.setdefault(module, {}), (probe, id(parameter), getattr(forward, "__func__", forward))
    if key not in known:
        try:
            known[key] = probe(module, parameter)
        except Unclear as unclear:
            known[key] = str(unclear)
    if isinstance(found := known[key], str):
        raise Unclear(found)
    return found


def operand_of(module: nn.Module, parameter: nn.Parameter) -> Found:
    """The only argument of a product in ``module`` that is made of ``parameter`` and not of the input, and which other
    parameters of the module (gains) it is made of.

    It is as large as the parameter, the same for two different inputs, and another one for another parameter, or the
    parameter itself where the pass writes it. Raises :class:`Unclear` where there is none, or more than one.
    """
    return _once(module, parameter, _probed)


@torch.no_grad()
def _probed(module: nn.Module, parameter: nn.Parameter) -> Found:
    others = [one for one in module.parameters(recurse=False) if one is not parameter and one.is_floating_point()]
    saved = [one.clone() for one in (parameter, *others)]
    try:
        first, second = (_copies(module, parameter, inputs) for inputs in (0, 1))
        constant = [place for place in first if place in second and _equal(first[place][0], second[place][0])]
        for number, one in enumerate(others):  # a gain of 0 would hide the rest
            _fill(one, number)
        passes = [_copies(module, parameter)]
        for number, one in enumerate((parameter, *others)):
            _fill(one, number + len(others))
            passes.append(_copies(module, parameter))
        own = _own_places(module, parameter)
    finally:
        for one, before in zip((parameter, *others), saved, strict=True):
            one.copy_(before)
    changed = [
        {place for place in constant if place in now and not _equal(now[place][0], before[place][0])}
        for before, now in pairwise(passes)
        if set(constant) <= set(before)
    ]
    found = list(changed[0]) if changed else []
    if own is not None and not found:
        found = [place for place in constant if place in own]
    if len(found) != 1:
        raise Unclear(
            "no product with a function of it alone" if not found else "several products with functions of it"
        )
    gains = [one for one, places in zip(others, changed[1:], strict=True) if found[0] in places]
    return Operand(*found[0], first[found[0]][1], own is not None), gains


def _own_places(module: nn.Module, parameter: Tensor) -> set[tuple[int, int]] | None:
    """Which products multiply by the parameter's own memory, if a pass writes into it; ``None`` if it does not. Its
    values are large, so that limits show."""
    parameter.copy_(parameter.sign() * 1e3)
    before = parameter.clone()
    seen = products_of(module, parameter)
    if _equal(parameter, before):
        return None
    return {place for place, (value, _) in seen.items() if value.data_ptr() == parameter.data_ptr()}


def _copies(module: nn.Module, parameter: Tensor, inputs: int = 0) -> dict[tuple[int, int], tuple[Tensor, Outputs]]:
    # Copies, since the value may be the parameter's own memory.
    seen = products_of(module, parameter, inputs)
    return {place: (value.clone(), outputs) for place, (value, outputs) in seen.items()}


def _fill(parameter: Tensor, number: int) -> None:
    """Random numbers about as large as before."""
    noise = Stream(0, "probe", "weight", number).normal(parameter.shape, device=parameter.device)
    parameter.copy_(noise * parameter.abs().max().clamp(min=1e-3) if parameter.numel() else noise)


_COPIED = {"clone", "_to_copy"}
"""What may be done with a stored weight on the way to a product."""


def read_as_stored(module: nn.Module, parameter: nn.Parameter) -> Outputs | None:
    """Where the outputs of ``parameter`` are if all that ``module`` does with it is to multiply by it as it lies there,
    in one or several products by whatever operation (``einsum``, ``tensordot``, rows by themselves); else ``None``."""
    with suppress(Unclear):
        return _once(module, parameter, _read)
    return None


def _read(module: nn.Module, parameter: nn.Parameter) -> Outputs | None:
    watch = traced(module, lambda: _called_alone(module, parameter, _input_shapes(module), 0, nullcontext()))
    trace = watch.of(parameter)
    if not trace.macs or trace.changed or not trace.other <= _COPIED or len(trace.axes) != 1:
        return None
    (axes,) = trace.axes
    return Outputs(axes) if 0 < len(axes) < parameter.dim() else None


CLOSED = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
"""Layers whose products are inside one operation that takes all their weights."""


def require_as_stored(module: nn.Module, parameter: nn.Parameter) -> None:
    """:class:`Unclear` unless a forward method of a recurrent or attention layer gives ``parameter`` as it is to the
    operation that the layer is about, or to a product (parts of an in-projection, say)."""
    _once(module, parameter, _require_given)


def _require_given(module: nn.Module, parameter: nn.Parameter) -> None:
    """:class:`Unclear` unless an operation is given rows of the parameter's own memory."""
    unclear = Unclear("")
    for count in (1, 3) if isinstance(module, nn.MultiheadAttention) else (1,):
        watch = _Given(parameter)
        try:
            _called_alone(module, parameter, [_input_shapes(module)[number] for number in range(count)], 0, watch)
        except Unclear as error:
            unclear = error
            continue
        if watch.found:
            return
        unclear = Unclear("no product with it as it is stored")
    raise unclear


class _Given(TorchFunctionMode):
    """Sees whether rows of a parameter are given to a product, or to a recurrent or attention operation."""

    def __init__(self, parameter: Tensor) -> None:
        super().__init__()
        self.parameter, self.found = parameter, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in PRODUCTS or getattr(func, "__name__", "") in _CLOSED_OPERATIONS:
            self.found = self.found or any(map(self._is_of_it, tree_leaves((args, kwargs))))
        return func(*args, **kwargs)

    def _is_of_it(self, value: Any) -> bool:
        if not isinstance(value, Tensor) or value.dim() != 2 or value.stride() != self.parameter.stride():
            return False
        start, end = self.parameter.data_ptr(), self.parameter.data_ptr() + self.parameter.nbytes
        return value.shape[1] == self.parameter.shape[1] and start <= value.data_ptr() < end


_CLOSED_OPERATIONS = {
    *("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
    *("multi_head_attention_forward", "_native_multi_head_attention"),
}


def products_of(module: nn.Module, parameter: Tensor, inputs: int = 0) -> dict[tuple[int, int], tuple[Tensor, Outputs]]:
    """By product and argument: the arguments as large as ``parameter`` in a pass of ``module`` alone in eval mode, and
    where their outputs are. ``inputs`` numbers random inputs."""
    watch = Products(parameter.numel())
    _called_alone(module, parameter, _input_shapes(module), inputs, watch)
    return watch.seen


def _called_alone(
    module: nn.Module,
    parameter: Tensor,
    shapes: Sequence[tuple[int, ...]],
    inputs: int,
    watch: AbstractContextManager[object],
) -> None:
    stream = Stream(0, "probe", inputs)
    given = [
        stream.child(number).normal(shape, device=parameter.device).to(parameter.dtype)
        for number, shape in enumerate(shapes)
    ]
    try:
        with torch.no_grad(), evaluating(module), seeded(stream, parameter.device), watch:
            module.forward(*given)
    except Exception as error:  # whatever a stranger's layer does with a probe
        raise Unclear(f"it cannot be called alone: {(str(error) or type(error).__name__).splitlines()[0]}") from None


class Products(TorchFunctionMode):
    """Sees the products of a forward pass; ``replaced`` gives the argument that computes in place of another one."""

    def __init__(self, size: int, operand: Operand | None = None, replace: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.size, self.operand, self.replace = size, operand, replace
        self.seen: dict[tuple[int, int], tuple[Tensor, Outputs]] = {}
        self.count = 0
        self.replaced = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        product = PRODUCTS.get(func)
        if product is not None:
            number, self.count = self.count, self.count + 1
            for argument, (keyword, outputs) in product.items():
                value = kwargs.get(keyword) if keyword in kwargs else args[argument] if argument < len(args) else None
                if not isinstance(value, Tensor) or value.numel() != self.size or value.dim() < 2:
                    continue
                self.seen[number, argument] = value.detach(), outputs(value, args, kwargs)
                operand = self.operand
                if self.replace and operand and (number, argument) == (operand.product, operand.argument):
                    self.replaced = True
                    if keyword in kwargs:
                        kwargs[keyword] = self.replace(value)
                    else:
                        args = (*args[:argument], self.replace(value), *args[argument + 1 :])
        return func(*args, **kwargs)


Place = Callable[[Tensor, Any, Any], Outputs]


def _first(value: Tensor, args: Any, kwargs: Any) -> Outputs:
    return Outputs()


def _last(value: Tensor, args: Any, kwargs: Any) -> Outputs:
    """Of the right factor (..., inputs, outputs); those of a stack count its dimensions, too."""
    return Outputs((*range(value.dim() - 2), value.dim() - 1))


def _left(value: Tensor, args: Any, kwargs: Any) -> Outputs:
    return Outputs(tuple(range(value.dim() - 1)))


def _transposed(value: Tensor, args: Any, kwargs: Any) -> Outputs:
    return Outputs((1,), int(kwargs["groups"] if "groups" in kwargs else args[6] if len(args) > 6 else 1))


_MATRICES: dict[int, tuple[str, Place]] = {0: ("input", _left), 1: ("other", _last)}
PRODUCTS: dict[Any, dict[int, tuple[str, Place]]] = {
    functional.linear: {1: ("weight", _first)},
    functional.bilinear: {2: ("weight", _first)},
    **{key: {1: ("weight", _first)} for key in (torch.conv1d, torch.conv2d, torch.conv3d)},
    **{
        key: {1: ("weight", _transposed)}
        for key in (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
    },
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__), _MATRICES),
    Tensor.__rmatmul__: {0: ("self", _last), 1: ("other", _left)},
    **{key: {0: ("input", _left), 1: ("mat2", _last)} for key in (torch.mm, Tensor.mm, torch.bmm, Tensor.bmm)},
    **{key: {1: ("mat1", _left), 2: ("mat2", _last)} for key in (torch.addmm, Tensor.addmm)},
}
"""By operation and argument: its keyword, and where its outputs are."""


def _input_shapes(module: Any) -> list[tuple[int, ...]]:
    """The shapes of a small input of a layer of a known type."""
    parent = registered_parent(module)
    if parent is nn.Linear:
        return [(3, module.in_features)]
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return [(3, 2, module.input_size) if isinstance(module, nn.RNNBase) else (2, module.input_size)]
    if isinstance(module, nn.MultiheadAttention):
        return [(3, 2, size) for size in (module.embed_dim, module.kdim, module.vdim)]
    if parent is nn.Bilinear:
        return [(3, module.in1_features), (3, module.in2_features)]
    if isinstance(module, nn.modules.conv._ConvNd):
        reach = zip(module.dilation, module.kernel_size, strict=True)
        return [(2, module.in_channels, *(dilation * (size - 1) + 2 for dilation, size in reach))]
    if parent is not None and parent.__name__ == "Conv1D":
        return [(3, module.weight.shape[0])]
    raise Unclear("it cannot be called alone: its inputs are not known")


def stored_outputs(parameter: Tensor, used: Tensor, outputs: Outputs) -> Outputs | None:
    """Where the outputs of ``parameter`` are whose own memory is ``used``; ``None`` where that is another tensor."""
    same = used.data_ptr() == parameter.data_ptr() and used.numel() == parameter.numel()
    if not same or math.prod(used.shape) == 0:
        return None
    if used.shape == parameter.shape and used.stride() == parameter.stride():
        return outputs
    if outputs.groups > 1 or sorted(used.stride()) != sorted(parameter.stride()):
        return None
    strides = {used.stride(axis) for axis in outputs.axes}
    return Outputs(tuple(axis for axis in range(parameter.dim()) if parameter.stride(axis) in strides))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
