"""Operations that multiply matrices: which arguments they multiply, what is summed over, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
Summed = Callable[[Any], tuple[int, ...]]


@dataclass(frozen=True)
class Product:
    """One kind of operation that multiplies matrices."""

    summed: Mapping[int, Summed]
    """By the position of an operand: its dimensions that are summed over."""
    macs: Callable[[Any, Tensor], float]
    """Multiply-accumulates of one call, from its arguments and its result."""


def product_of(func: Any, args: Any, kwargs: Any, out: Any) -> tuple[Mapping[int, Summed], float] | None:
    """Operands and multiply-accumulates of a call; ``None`` where it multiplies no matrices."""
    product = PRODUCTS.get(func._overloadpacket)
    if product is not None:
        return product.summed, product.macs(args, out)
    formula = flop_registry.get(func._overloadpacket)  # fused attention, and kernels of single backends
    return None if formula is None else ({}, formula(*args, **kwargs, out_val=out) / 2)


def _matrices(first: int, second: int) -> Product:
    """(..., n, k) times (..., k, m); a sparse matrix costs what it holds."""

    def macs(args: Any, out: Tensor) -> float:
        a, b = args[first], args[second]
        if a.layout != torch.strided:
            return float(a._nnz() * b.shape[-1])
        if b.layout != torch.strided:
            return float(b._nnz() * a.shape[0])
        return float(out.numel() * a.shape[-1])

    return Product({first: lambda a: (a[first].dim() - 1,), second: lambda a: (a[second].dim() - 2,)}, macs)


def _vectors(matrix: int, vector: int) -> Product:
    return Product(
        {matrix: lambda a: (a[matrix].dim() - 1,), vector: lambda a: (0,)}, lambda a, out: float(a[matrix].numel())
    )


def _convolved(args: Any) -> tuple[int, ...]:
    weight, transposed = args[1], args[6]
    kernel = tuple(range(2, weight.dim()))
    return (0, *kernel) if transposed else (1, *kernel)


def _convolution(args: Any, out: Tensor) -> float:
    x, weight, transposed = args[0], args[1], args[6]
    # Each input of a transposed one, each output of another, meets the weights of one channel of its group.
    return float((x if transposed else out).numel() * math.prod(weight.shape[1:]))


def _grouped(args: Any, out: Tensor) -> float:
    a, b = args[:2]
    return float(a.numel() * b.shape[-1] if b.dim() == 2 else out.numel() * a.shape[-1])


_rowwise = Product({1: lambda a: (1,)}, lambda a, out: float(out.numel() * a[1].shape[-1]))
PRODUCTS: dict[Any, Product] = {
    **dict.fromkeys((_aten.mm, _aten.bmm, _aten._int_mm, _aten._scaled_mm, _aten._sparse_mm), _matrices(0, 1)),
    **dict.fromkeys((_aten.addmm, _aten.baddbmm, _aten._sparse_addmm), _matrices(1, 2)),
    **dict.fromkeys((_aten.mv, _aten.dot, _aten.vdot), _vectors(0, 1)),
    _aten.addmv: _vectors(1, 2),
    **dict.fromkeys((_aten.linear, _aten._weight_int8pack_mm), _rowwise),
    _aten.convolution: Product({1: _convolved}, _convolution),
    _aten._grouped_mm: Product({0: lambda a: (a[0].dim() - 1,), 1: lambda a: (a[1].dim() - 2,)}, _grouped),
    # nn.Bilinear: every element of its weight (outputs, inputs, inputs) once per sample.
    _aten._trilinear: Product({1: lambda a: (1, 2)}, lambda a, out: float(out.numel() * math.prod(a[1].shape[1:]))),
}
"""By operation; those that torch's FLOP counter alone knows are counted by its formula."""
