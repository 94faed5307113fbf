"""Outputs of modules kept from one pass and given again in another, where a module is asked the very same."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.Size)
"""Types of arguments besides tensors that can be compared."""


class Unkept(Exception):
    """Arguments or outputs that cannot be compared, or kept."""


@dataclass(frozen=True, eq=False)
class _Leaf:
    """A tensor as it was; ``version`` counts what was written into it since (torch's own count)."""

    tensor: Tensor
    version: int

    @property
    def stands(self) -> bool:
        return self.tensor._version == self.version

    def same(self, other: Any) -> bool:
        """Whether ``other`` is this tensor, or has its every value."""
        mine = self.tensor
        if other is mine:
            return True
        alike = type(other) is type(mine) and other.shape == mine.shape and other.dtype == mine.dtype
        # Another memory layout may be computed by another kernel, which rounds otherwise.
        return alike and other.device == mine.device and other.stride() == mine.stride() and torch.equal(other, mine)


@dataclass(frozen=True, eq=False)
class _Call:
    """What a module was asked, and what it answered."""

    given: Any
    output: Any
    kept: tuple[_Leaf, ...]

    def answers(self, asked: Any) -> bool:
        return all(leaf.stands for leaf in self.kept) and _same(self.given, asked)


class Reuse:
    """Modules of a network whose outputs are kept, batch by batch, and given again.

    In :meth:`again` a module that holds nothing of what changed, and that is given exactly what it was given in
    :meth:`noted` (the same tensors or equal values, none of them written into since), gives the tensors that it gave
    then, without computing. So what lies before a changed layer, or beside it, is computed once, whatever code there is
    between modules. A module without the changed weights that reads them all the same, or that keeps or draws anything,
    is not seen: compare with a plain pass before you trust it.

    ``depth`` keeps the modules down to that depth only (children of the network: 1).
    """

    def __init__(self, network: nn.Module, depth: int | None = None) -> None:
        depths = _depths(network)
        self.network = network
        self.deepest = max(depths.values(), default=0)
        self.modules = [
            module
            for module, level in depths.items()
            if module is not network and (depth is None or level <= depth) and not _is_watched(module)
        ]
        self._depths = depths
        self._calls: dict[Any, dict[nn.Module, list[_Call]]] = {}
        self._noting: dict[nn.Module, list[_Call]] | None = None
        self._asking: dict[nn.Module, list[_Call]] | None = None
        self._changed: Collection[nn.Module] = ()

    @staticmethod
    def possible(network: nn.Module) -> bool:
        """Whether calls of its modules can be seen: not where they are compiled, scripted or watched everywhere."""
        everywhere = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
        return not any(everywhere) and not any(
            hasattr(module, "_orig_mod")
            or isinstance(module, torch.jit.ScriptModule)
            or getattr(module, "_compiled_call_impl", None) is not None
            for module in network.modules()
        )

    def holding(self, parts: Collection[Any]) -> set[nn.Module]:
        """The modules that hold any of these parameters or modules, themselves or further down."""
        known = set(map(id, parts))
        return {
            module
            for module in self.modules
            if any(id(one) in known for held in (module.modules(), module.parameters()) for one in held)
        }

    @contextmanager
    def open(self) -> Iterator[Reuse]:
        """Inside, calls are seen, and activation functions write into no tensor that is kept; nothing is kept then."""
        written = [m for m in self.network.modules() if getattr(m, "inplace", False) is True]
        try:
            for module in self.modules:
                # What torch calls instead of a module, hooks and all: it is there for compiled modules.
                module._compiled_call_impl = partial(self._called, module)
            for module in written:
                module.inplace = False  # type: ignore[assignment]
            yield self
        finally:
            for module in self.modules:
                module._compiled_call_impl = None
            for module in written:
                module.inplace = True  # type: ignore[assignment]
            self.forget()

    @contextmanager
    def noted(self, batch: Any) -> Iterator[None]:
        """Inside, one pass is kept, under the name ``batch``."""
        self._noting = self._calls[batch] = {}
        try:
            yield
        finally:
            self._noting = None

    @contextmanager
    def again(self, batch: Any, changed: Collection[nn.Module]) -> Iterator[None]:
        """Inside, a pass of the same ``batch`` after ``changed`` modules changed."""
        self._asking, self._changed = self._calls[batch], changed
        try:
            yield
        finally:
            self._asking = None

    def forget(self) -> None:
        """Keep nothing."""
        self._calls = {}

    def bytes_by_depth(self, batch: Any) -> list[int]:
        """Memory that is kept of ``batch`` down to depth 1, 2, ..."""
        sizes, total = [], 0
        known: set[int] = set()
        for level in range(1, self.deepest + 1):
            for module, calls in self._calls[batch].items():
                if self._depths[module] != level:
                    continue
                for storage in (leaf.tensor.untyped_storage() for call in calls for leaf in call.kept):
                    if storage.data_ptr() not in known:
                        known.add(storage.data_ptr())
                        total += storage.nbytes()
            sizes.append(total)
        return sizes

    def _called(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        noting, asking = self._noting, self._asking
        if noting is None and (asking is None or module in self._changed):
            return module._call_impl(*args, **kwargs)
        if noting is None:
            assert asking is not None
            calls = asking.get(module, ())
            found = next((call.output for call in calls if call.answers((args, kwargs))), self)
            return module._call_impl(*args, **kwargs) if found is self else found
        kept: list[_Leaf] = []
        with suppress(Unkept):
            given = _noted((args, kwargs), kept)
            output = module._call_impl(*args, **kwargs)
            with suppress(Unkept):
                # A list or dictionary may be filled further by whom it is given to.
                _noted(output, kept, (tuple,))
                noting.setdefault(module, []).append(_Call(given, output, tuple(kept)))
            return output
        return module._call_impl(*args, **kwargs)


def _depths(network: nn.Module) -> dict[nn.Module, int]:
    """How deep each module lies, at its shallowest place."""
    depths: dict[nn.Module, int] = {}
    level, depth = [network], 0
    while level:
        fresh = [module for module in dict.fromkeys(level) if module not in depths]
        depths |= dict.fromkeys(fresh, depth)
        level, depth = [child for module in fresh for child in module.children()], depth + 1
    return depths


def _is_watched(module: nn.Module) -> bool:
    """Whether somebody's hooks see calls in it, which would not happen."""
    return any(one._forward_hooks or one._forward_pre_hooks for one in module.modules())


def _noted(nest: Any, kept: list[_Leaf], kinds: tuple[type, ...] = (tuple, list, dict)) -> Any:
    """The nest with every tensor as a :class:`_Leaf`, which is added to ``kept``; :class:`Unkept` for what else."""
    if type(nest) in (Tensor, nn.Parameter):
        try:
            leaf = _Leaf(nest, nest._version)
        except RuntimeError:  # made in inference mode: nobody counts what is written into it
            raise Unkept from None
        kept.append(leaf)
        return leaf
    if type(nest) in PLAIN:
        return nest
    if type(nest) not in kinds:
        raise Unkept
    if isinstance(nest, dict):
        return {key: _noted(value, kept, kinds) for key, value in nest.items()}
    return type(nest)(_noted(value, kept, kinds) for value in nest)


def _same(given: Any, asked: Any) -> bool:
    """Whether ``asked`` is what ``given`` noted."""
    if isinstance(given, _Leaf):
        return given.same(asked)
    if type(given) is not type(asked):
        return False
    if isinstance(given, dict):
        return given.keys() == asked.keys() and all(_same(value, asked[key]) for key, value in given.items())
    if isinstance(given, (tuple, list)) and not isinstance(given, torch.Size):
        pairs: Sequence[Any] = list(zip(given, asked, strict=False))
        return len(given) == len(asked) and all(_same(*pair) for pair in pairs)
    return bool(given == asked)
