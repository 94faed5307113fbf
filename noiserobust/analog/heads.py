"""A matrix that is looked up and multiplied: noise where it multiplies, while look-ups see the clean table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from noiserobust.analog.places import Stored, straight
from noiserobust.errors import UserError
from noiserobust.noise.sharded import is_sharded

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
TABLE = "weight_in_look_up"
"""The buffer in which an embedding holds the clean values while the head is open, for exports and saved states."""


class Head(Stored):
    """A matrix (outputs, inputs) that a product reads beside look-ups: the head of a language model that reads its
    embedding's weight (``linear(h, self.embedding.weight)``).

    The noise is written in place, so that every product sees it, however the matrix comes there. Look-ups
    (``embedding``, ``embedding_bag``, ``index_select``, indices of rows) give the clean rows: they are digital.
    Gradients of both go to the parameter. ``tables`` are the embeddings that hold it.
    """

    def __init__(self, *arguments: Any, tables: Sequence[nn.Module] = ()) -> None:
        super().__init__(*arguments)
        self.tables = tables

    @contextmanager
    def written(self) -> Iterator[None]:
        if is_sharded(self.latents[0]):
            raise UserError(f"{self.name}: expected a whole weight where it is looked up and multiplied, got shards")
        if any(getattr(table, "max_norm", None) is not None for table in self.tables):
            raise UserError(f"{self.name}: expected an embedding without max_norm, which changes it while it computes")
        parameters = {id(one): one for one in (*self.latents, *(m._parameters["weight"] for m in self.tables))}
        clean = self.latents[0].detach().clone()
        with ExitStack() as stack:
            for parameter in parameters.values():
                stack.enter_context(_looked_up_in(parameter, clean))
            for table in self.tables:
                stack.enter_context(_exportable(table, clean))
            yield


@contextmanager
def _looked_up_in(parameter: Any, clean: Tensor) -> Iterator[None]:
    """Inside, look-ups of ``parameter`` give the rows of ``clean``, unless an opening around this one keeps a table."""
    kind = type(parameter)
    if kind is _Looked:
        yield
        return
    parameter.__class__, parameter.table = _Looked, clean
    try:
        yield
    finally:
        parameter.__class__ = kind
        del parameter.table


@contextmanager
def _exportable(embedding: nn.Module, clean: Tensor) -> Iterator[None]:
    """Inside, an exported program has the clean table as a buffer: exporting makes plain tensors of parameters."""

    if TABLE in embedding._buffers:
        yield
        return
    export = _Export()
    embedding.register_buffer(TABLE, clean)
    hooks = (
        embedding.register_forward_pre_hook(export.begin),
        embedding.register_forward_hook(export.end, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        embedding._buffers.pop(TABLE, None)


class _Export:
    """Hooks around an embedding that let it compute with its buffer while it is exported."""

    def __init__(self) -> None:
        self.held: list[Any] = []

    def begin(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_exporting():
            self.held.append(module._parameters["weight"])
            module._parameters["weight"] = module._buffers[TABLE]  # type: ignore[assignment]

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.held:
            module._parameters["weight"] = self.held.pop()


class _Looked(nn.Parameter):
    """A parameter whose rows are looked up in ``table``; all else sees its own values."""

    table: Tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            if not _looks_up(func, args, kwargs):
                return func(*args, **kwargs)
            tables = [one.table if isinstance(one, cls) else one for one in args]
            named = {name: one.table if isinstance(one, cls) else one for name, one in kwargs.items()}
            found, through = func(*tables, **named), func(*args, **kwargs)
            return straight(found, through)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        if id(self) not in memo:
            memo[id(self)] = _rebuilt(self.detach().clone(), self.requires_grad, self.table.clone())
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuilt, (self.detach(), self.requires_grad, self.table)


def _rebuilt(values: Tensor, requires_grad: bool, table: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(values, requires_grad)
    parameter.__class__ = _Looked
    parameter.table = table  # type: ignore[attr-defined]
    return parameter


def _looks_up(func: Any, args: Any, kwargs: Mapping[str, Any]) -> bool:
    if func in (functional.embedding, functional.embedding_bag, torch.embedding):
        return True
    if func in (torch.index_select, Tensor.index_select):
        return (kwargs["dim"] if "dim" in kwargs else args[1]) in (0, -2)
    if func is not Tensor.__getitem__ or not isinstance(args[0], _Looked):
        return False
    first = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
    return isinstance(first, list) or (isinstance(first, Tensor) and first.dtype in (torch.int64, torch.int32))
