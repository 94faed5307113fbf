"""What a forward pass does with each stored weight: seen in the pass, and not believed from a name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from noiserobust.analog.products import product_of
from noiserobust.models.modes import evaluating
from noiserobust.models.wrappers import Names, unwrap
from noiserobust.rng import Stream, seeded

_aten = torch.ops.aten
_SELECTIONS = {_aten.index, _aten.index_select}
_COPIES = {_aten.clone, _aten._to_copy}
_INPUTS = {_aten.embedding, _aten.rand, _aten.randn}
"""What looks up or makes an activation, though it reads none."""
LOOK_UPS = {"embedding", "_embedding_bag", "_embedding_bag_forward_only", "index", "index_select"}
_Places = frozenset[int]


@dataclass
class Trace:
    """What a forward pass did with one stored tensor."""

    axes: set[tuple[int, ...]] = field(default_factory=set)
    """Every way in which it was multiplied: the dimensions that counted outputs. One is what a crossbar can hold."""
    other: set[str] = field(default_factory=set)
    """Further operations that read it (its own norms, look-ups, element-wise products)."""
    macs: float | None = None
    """Multiply-accumulates of the whole pass, also with values computed from it; ``None``: no matrix product read
    it."""

    outside: float = 0.0
    """Those of them that no layer tied to an embedding computed in its own call."""

    @property
    def looked_up(self) -> bool:
        """Whether rows of it were read as those of a table."""
        return bool(self.other & LOOK_UPS)

    changed: bool = False
    """Whether a function of it was multiplied (a norm of the weight, a mask, a cast) instead of itself."""


@torch.no_grad()
def traced(model: nn.Module, forward: Callable[[], object], first: Sequence[Tensor] = ()) -> Watch:
    """Watch ``forward`` (a call of ``model``) in eval mode; the global random numbers are as before.

    ``first`` are those of the stored tensors to which a product of two stored ones belongs (of a weight and a table of
    positions).
    """
    stored = [*first, *unwrap(model).parameters(), *unwrap(model).buffers()]
    watch = Watch(stored, len(first))
    device = next((tensor.device for tensor in stored), torch.device("cpu"))
    with ExitStack() as stack:
        stack.enter_context(seeded(Stream(0, "trace"), device))
        stack.enter_context(evaluating(model))
        stack.enter_context(open_attention())
        for module in unwrap(model).modules():
            if isinstance(module, nn.RNNBase):
                stack.callback(module.register_forward_pre_hook(watch.pause).remove)
                stack.callback(module.register_forward_hook(watch.recurrent).remove)
        for module in _tied(unwrap(model)):
            stack.callback(module.register_forward_pre_hook(watch.enter).remove)
            stack.callback(module.register_forward_hook(watch.leave, always_call=True).remove)
        stack.enter_context(watch)
        forward()
    watch.forget()
    return watch


def traced_outputs(model: nn.Module, forward: Callable[[], object]) -> dict[str, Trace]:
    """The axes of outputs of every parameter of two or more dimensions that ``forward`` (a call of ``model``) reads.

    Watches the matrix products (mm, bmm, grouped_mm, convolutions) that read a parameter's memory, through whatever
    views: an argument's strides say which of the parameter's dimensions is summed over. Dimensions of size 1 are left
    out; tied parameters are told what any of them did. A parameter that is changed before it is multiplied (a norm of
    the weight, a cast) is not seen in the product: its :class:`Trace` has no axes.
    """
    names, watch = Names(model), traced(model, forward)
    every = unwrap(model).named_parameters(remove_duplicate=False)
    return {names(path): watch.of(parameter) for path, parameter in every if parameter.dim() > 1}


class Watch(TorchDispatchMode):
    """Follows stored tensors through a forward pass: into views by their memory, and into what is computed from them
    alone, such as a normalised or masked weight. Anything that an input went into is an activation."""

    def __init__(self, stored: Sequence[Tensor], first: int = 0) -> None:
        super().__init__()
        self.activations = 0.0
        """Multiply-accumulates of activations with each other."""
        self.stored = [tensor.detach() for tensor in stored]
        self.first = first
        self._traces = [Trace() for _ in stored]
        self._places: dict[int, list[tuple[int, int, int]]] = {}
        for number, tensor in enumerate(self.stored):
            storage = _storage(tensor)
            if storage is not None:
                start = _start(tensor)
                self._places.setdefault(storage, []).append((start, start + max(1, tensor.nbytes), number))
        self._derived: dict[int, tuple[Tensor, _Places]] = {}  # kept alive, so that no other takes their memory
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}  # by the copy's memory: it, and what it is a copy of
        self._written: set[int] = set()
        self._paused = self._tied = 0

    def of(self, tensor: Tensor) -> Trace:
        """What was done with a stored tensor, or with another one in its memory."""
        place = self._place(tensor)
        return Trace() if place is None else self._traces[place]

    def traces(self) -> dict[int, Trace]:
        """Everything that :meth:`of` may give, by its ``id``."""
        return {id(trace): trace for trace in self._traces}

    @property
    def total(self) -> float:
        """All multiply-accumulates of the pass."""
        return self.activations + sum(trace.macs or 0.0 for trace in self._traces)

    def forget(self) -> None:
        """Let go of all that was computed."""
        self._derived.clear()
        self._copies.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket is not _aten.linear and func._can_decompose():  # inside inference_mode
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        product = product_of(func, args, kwargs, out)
        operands: Iterable[int] = ()
        if product is not None and not self._paused:
            summed, macs = product
            operands = summed
            self._multiplied({n: (args[n], summed[n](args)) for n in summed if isinstance(args[n], Tensor)}, macs)
        if not func.is_view:
            for position, value in enumerate(args):
                place = self._place(value) if position not in operands and isinstance(value, Tensor) else None
                if place is not None:
                    self._traces[place].other.add(func._overloadpacket.__name__)
        self._follow(func, args, kwargs, out)
        return out

    def enter(self, *_: object) -> None:
        """A layer that is tied to an embedding is called."""
        self._tied += 1

    def leave(self, *_: object) -> None:
        """It is done."""
        self._tied -= 1

    def pause(self, *_: object) -> None:
        """Count nothing for a while."""
        self._paused += 1

    def recurrent(self, module: nn.RNNBase, args: tuple[Any, ...], output: object) -> None:
        """Count a recurrent layer by its closed form, each weight once per step: its kernels are closed."""
        self._paused -= 1
        inputs = args[0]
        data = inputs.data if isinstance(inputs, PackedSequence) else inputs
        for name in module._flat_weights_names:
            weight = getattr(module, name)
            if name.startswith("weight_"):
                self._add(self._from(weight), data.numel() / module.input_size * weight.numel())

    def _multiplied(self, operands: dict[int, tuple[Tensor, tuple[int, ...]]], macs: float) -> None:
        """Count a product for the stored operand."""
        sources = {n: self._from(tensor) for n, (tensor, _) in operands.items()}
        chosen = max(sources, key=lambda n: self._rank(sources[n]), default=None)
        places = None if chosen is None else sources[chosen]
        self._add(places, macs)
        if chosen is None or not places:
            return
        for n, (tensor, summed) in operands.items():
            place, axes = self._outputs(tensor, summed)
            if place is not None:
                self._traces[place].axes |= axes
            elif n == chosen:
                self._traces[self._largest(places)].changed = True

    def _outputs(self, used: Tensor, summed: tuple[int, ...]) -> tuple[int | None, set[tuple[int, ...]]]:
        """The stored tensor that ``used`` holds elements of, and its dimensions along which those summed do not vary.

        Elements are followed by their addresses, through views and copies alike.
        """
        varied, place = set[int](), self._place(used)
        for axis in summed:
            size, tensor = used.shape[axis], used
            addresses = torch.arange(size) * int(used.stride(axis)) + int(used.storage_offset())
            while (place := self._place(tensor)) is None:
                copied, source = self._copies.get(_storage(tensor) or 0, (None, None))
                if copied is None or source is None:
                    return None, set()
                at = _coordinates(addresses, copied)
                addresses = torch.full_like(addresses, int(source.storage_offset()))
                for dimension, position in at.items():
                    addresses += position * source.stride(dimension)
                tensor = source
            at = _coordinates(addresses, self.stored[place])
            varied |= {axis for axis, positions in at.items() if len(positions.unique()) > 1}
        large = [axis for axis, size in enumerate(self.stored[place].shape) if size > 1] if place is not None else []
        return place, {tuple(axis for axis in large if axis not in varied)} if varied else set()

    def _add(self, sources: _Places | None, macs: float) -> None:
        if not sources:
            self.activations += macs
            return
        trace = self._traces[self._largest(sources)]
        trace.macs = (trace.macs or 0.0) + macs
        trace.outside += 0.0 if self._tied else macs

    def _largest(self, sources: _Places) -> int:
        """Whose product it is: the largest of the tensors that a value was computed from, the first ones before."""
        return max(sources, key=lambda place: (place < self.first, self.stored[place].numel()))

    def _rank(self, sources: _Places | None) -> tuple[bool, int]:
        if not sources:
            return False, 0
        place = self._largest(sources)
        return place < self.first, self.stored[place].numel()

    def _from(self, tensor: Tensor) -> _Places | None:
        """The stored tensors that a value was computed from, none for a constant; ``None``: it is an activation."""
        place = self._place(tensor)
        if place is not None:
            return frozenset((place,))
        derived = self._derived.get(_storage(tensor) or 0)
        return None if derived is None else derived[1]

    def _place(self, tensor: Tensor) -> int | None:
        storage = _storage(tensor)
        if storage is None or storage not in self._places or storage in self._written:
            return None
        start = _start(tensor)
        return next((number for first, end, number in self._places[storage] if first <= start < end), None)

    def _follow(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Remember what was computed from stored tensors alone, and what an activation was written into."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        values = [leaf for leaf in given if leaf.is_floating_point() or leaf.is_complex()]
        packet = func._overloadpacket
        if packet in _SELECTIONS and _selects_matrices(args):
            given = values[:1]  # chosen by an input, such as a token's experts, but not made of it
        sources = [self._from(tensor) for tensor in given]
        constant = packet not in _INPUTS and None not in sources
        union: _Places = frozenset().union(*filter(None, sources))
        copied = _copied(func, args, out) if constant else None
        written = list(_written(func, args, kwargs))
        before = {_storage(tensor) for tensor in given} - {_storage(tensor) for tensor in written}
        for tensor in (*written, *tree_leaves(out)):
            storage = _storage(tensor) if isinstance(tensor, Tensor) else None
            if storage is None or storage in before:
                continue  # a view stays what it is
            self._copies.pop(storage, None)
            if storage in self._places:
                if not constant:
                    self._written.add(storage)
            elif not constant:
                self._derived.pop(storage, None)
            else:
                self._derived[storage] = (tensor, union)
                if copied is not None:
                    self._copies[storage] = (tensor, copied)


def _tied(model: nn.Module) -> Iterator[nn.Module]:
    """The layers whose weight is an embedding's."""
    kinds = (nn.Embedding, nn.EmbeddingBag)
    tables = {id(module._parameters.get("weight")) for module in model.modules() if isinstance(module, kinds)}
    for module in model.modules():
        if not isinstance(module, kinds) and any(
            id(one) in tables for one in module._parameters.values() if one is not None
        ):
            yield module


def _copied(func: Any, args: Any, out: Any) -> Tensor | None:
    """What the result of an operation is a copy of, dimension by dimension."""
    packet = func._overloadpacket
    if packet in _COPIES:
        return args[0]
    if (packet is _aten.index_select and args[1] == 0) or (packet is _aten.index and len(args[1]) == 1):
        return args[0][:1].expand(out.shape) if out.dim() == args[0].dim() else None
    return None


def _coordinates(addresses: Tensor, tensor: Tensor) -> dict[int, Tensor]:
    """Where elements of a dense tensor's memory are in it: by dimension (those of size 1 left out)."""
    left, found = addresses - int(tensor.storage_offset()), dict[int, Tensor]()
    for axis in sorted(range(tensor.dim()), key=tensor.stride, reverse=True):
        if tensor.shape[axis] > 1:
            found[axis], left = left // tensor.stride(axis), left % tensor.stride(axis)
    return found


def _selects_matrices(args: Any) -> bool:
    """Whether a selection leaves matrices: experts and not the rows of a table."""
    source = args[0]
    indices = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
    kept = [
        size for size, index in zip(source.shape, [*indices, *[None] * source.dim()], strict=False) if index is None
    ]
    return isinstance(source, Tensor) and sum(size > 1 for size in kept) >= 2


@cache
def _writes(func: Any) -> tuple[tuple[int, str], ...]:
    """Positions and names of the arguments that an operation writes into."""
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    for position, name in _writes(func):
        yield from (
            leaf
            for leaf in tree_leaves(args[position] if position < len(args) else kwargs.get(name))
            if isinstance(leaf, Tensor)
        )


def _storage(tensor: Tensor) -> int | None:
    """What names a tensor's memory; ``None`` for one that has none of its own (sparse ones)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


def _start(tensor: Tensor) -> int:
    return int(tensor.storage_offset()) * tensor.element_size()


@contextmanager
def open_attention() -> Iterator[None]:
    """Attention computed by operations that can be counted, not by fused kernels (some are unknown to the counter)."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
