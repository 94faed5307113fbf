"""Operations that can be differentiated twice, in the place of those that cannot, or wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp.decompositions import grid_sampler_2d
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from noiserobust.analog.tracing import open_attention


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` computes by operations whose second derivatives are there, and right, with equal results."""
    with ExitStack() as stack:
        # Fused kernels of attention and recurrent layers have none.
        stack.enter_context(open_attention())
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False, allow_tf32=None))
            tf32 = torch.backends.cudnn.allow_tf32
            stack.enter_context(torch.backends.cudnn.flags(enabled=False, allow_tf32=tf32))
        stack.enter_context(_Replaced())
        yield


class _Replaced(TorchFunctionMode):
    """Single functions by others that are equal."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return REPLACEMENTS.get(func, func)(*args, **(kwargs or {}))


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g v / ||v||, the norm over all dimensions but ``dim``.

    Torch's fused kernel differentiates a second time as if the norm did not depend on v: its Hessian is not symmetric.
    """
    return v * (g / torch.norm_except_dim(v, 2, dim))


def grid_sample(
    input: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """Torch's ``grid_sample``, of plain operations for B x C x H x W; its own kernels have no second derivative."""
    if input.dim() != 4:
        return functional.grid_sample(input, grid, mode, padding_mode, align_corners)
    kinds = ["bilinear", "nearest", "bicubic"].index(mode), ["zeros", "border", "reflection"].index(padding_mode)
    return grid_sampler_2d(input, grid, *kinds, bool(align_corners))


def embedding(input: Tensor, weight: Tensor, *settings: Any, sparse: bool = False, **others: Any) -> Tensor:
    """Torch's ``embedding`` with a dense gradient: a sparse one has no derivative."""
    return functional.embedding(input, weight, *settings[:4], **others)


REPLACEMENTS: dict[Any, Callable[..., Tensor]] = {
    torch._weight_norm: weight_norm,
    functional.grid_sample: grid_sample,
    functional.embedding: embedding,
}
