"""The Hessian of the loss: its largest eigenvalues and its trace, from products with vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from noiserobust.analog.weight_space import Over
from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.minima.base import Measure, Streams, Values
from noiserobust.minima.perturbations import check_over
from noiserobust.minima.surface import Surface
from noiserobust.minima.twice import twice_differentiable
from noiserobust.models.modes import evaluating

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class HessianTop(Measure, name="hessian_top"):
    r"""The ``k`` algebraically largest eigenvalues of the loss's Hessian :math:`\nabla^2 L(w)`, by Lanczos.

    - ``k``: the value is the largest; with k > 1 the parts ``2`` to ``k`` are those that follow.
    - ``over``: ``all`` trainable parameters (default) or the block of the ``analog`` weights.
    - ``tolerance``: relative accuracy at which the iteration stops.

    NaN where a product with the Hessian is no finite number (distances of a point from itself have no second
    derivative).

    Every iteration is a Hessian-vector product: a forward and two backward passes or so; some 10 to 100 of them.
    Source: Pearlmutter, "Fast exact multiplication by the Hessian"; scipy's ``eigsh``.
    """

    example: ClassVar[str] = "hessian_top:3"

    k: int = 1
    over: Over = "all"
    tolerance: float = 1e-3
    names_over: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_over(self.name, self.over)
        if self.k < 1:
            raise UserError(f"hessian_top: expected k >= 1 eigenvalues, got {self.k}")
        if not 0 < self.tolerance < 1:
            raise UserError(f"hessian_top: expected a tolerance in (0, 1), got {self.tolerance}")

    def values(self, surface: Surface, streams: Streams) -> list[Values]:
        from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

        size = sum(p.numel() for p in _chosen(surface, self.over))
        if self.k >= size:
            raise UserError(f"hessian_top: expected k < {size} (the parameters), got {self.k}")
        with _products(surface, self.over) as product:

            def times(v: np.ndarray) -> np.ndarray:
                vector = torch.from_numpy(v.reshape(-1)).to(surface.device, _chosen(surface, self.over)[0].dtype)
                values = product(vector).double().cpu().numpy()
                if not np.isfinite(values).all():
                    raise FloatingPointError  # ARPACK would say that its workspace is too small
                return values

            # Named, since ARPACK would start from numpy's global generator.
            start = streams(0).child("hessian").normal((size,)).double().numpy()
            operator = LinearOperator((size, size), matvec=times, dtype=np.float64)
            few = min(size, max(20, 2 * self.k + 1))
            settings = {"which": "LA", "v0": start, "ncv": few, "tol": self.tolerance, "return_eigenvectors": False}
            try:
                eigenvalues = eigsh(operator, self.k, **settings)
            except ArpackError:
                if times(start).any():
                    raise
                eigenvalues = np.zeros(self.k)  # so is the Hessian
            except FloatingPointError:
                eigenvalues = np.full(self.k, np.nan)
        largest_first = np.sort(eigenvalues)[::-1].tolist()
        return [{"" if rank == 1 else str(rank): value for rank, value in enumerate(largest_first, start=1)}]


@dataclass(frozen=True)
class HessianTrace(Measure, name="hessian_trace"):
    r"""The trace of the loss's Hessian :math:`\nabla^2 L(w)`, estimated from products with random signs v.

    By Hutchinson: the mean of :math:`v^\top \nabla^2 L(w)\, v`.

    - ``probes``: how many v; the part ``standard_error`` is that of the mean over them.
    - ``over``: ``all`` trainable parameters (default) or the block of the ``analog`` weights.

    Isotropic noise of standard deviation s raises the loss by s^2/2 times the trace, to second order. ``probes``
    Hessian-vector products. Source: Hutchinson, "A stochastic estimator of the trace of the influence matrix".
    """

    example: ClassVar[str] = "hessian_trace:100"

    probes: int = 30
    over: Over = "all"
    names_over: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_over(self.name, self.over)
        if self.probes < 2:
            raise UserError(f"hessian_trace: expected 2 or more probes, got {self.probes}: one has no standard error")

    def values(self, surface: Surface, streams: Streams) -> list[Values]:
        parameters = _chosen(surface, self.over)
        size, dtype = sum(p.numel() for p in parameters), parameters[0].dtype
        values = []
        with _products(surface, self.over) as product:
            for probe in range(self.probes):
                coins = streams(0).child("hutchinson", probe).uniform((size,)) < 0.5
                v = coins.to(surface.device, dtype).mul_(2).sub_(1)
                values.append((v.double() @ product(v).double()).item())
        error = float(np.std(values, ddof=1) / len(values) ** 0.5)
        return [{"": float(np.mean(values)), "standard_error": error}]


@contextmanager
def _products(surface: Surface, over: Over) -> Iterator[Product]:
    """Inside, v -> H v for flat vectors over the chosen parameters, in eval mode and in the parameters' precision."""
    parameters = _chosen(surface, over)
    if any(parameter.is_complex() for parameter in parameters):
        raise UserError("expected real weights for a Hessian, got complex ones; freeze them (requires_grad_(False))")
    sizes, units = [parameter.numel() for parameter in parameters], surface.units()

    def along(batch: Batch, pieces: Sequence[Tensor]) -> Tensor | float:
        """The part of one batch; 0 where its gradient is the same everywhere."""
        loss = surface.total(surface.losses_of(batch), batch) / units
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        pairs = [(g.flatten(), piece) for g, piece in zip(gradients, pieces, strict=True) if g is not None]
        if not pairs or not (slope := torch.stack([g @ piece for g, piece in pairs]).sum()).requires_grad:
            return 0.0
        parts = torch.autograd.grad(slope, parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    def product(v: Tensor) -> Tensor:
        """The gradient of <gradient, v>."""
        pieces, total = v.split(sizes), torch.zeros_like(v)
        try:
            for batch in surface.batches:
                total += along(batch, pieces)
        except (RuntimeError, NotImplementedError) as error:
            if "not implemented" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise UserError(f"expected layers with second derivatives for a Hessian: {reason}") from None
        surface.passes["backward"] += 2
        return total

    with evaluating(surface.model), twice_differentiable(surface.model), torch.enable_grad():
        yield product


def _chosen(surface: Surface, over: Over) -> list[nn.Parameter]:
    return [p for p, mark in zip(surface.parameters, surface.chosen(over), strict=True) if mark]
