"""Which weights are analog, and exact copies of weights while they are moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from noiserobust.errors import UserError
from noiserobust.shards import is_sharded, local, whole

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True, eq=False)
class AnalogWeight:
    """A parameter that would sit in a crossbar.

    ``name`` is canonical (without ``module.`` and ``_orig_mod.``) and names the weight's randomness. ``tied`` says
    that an embedding shares it: the look-up stays digital, so only this layer sees the noise.
    """

    name: str
    parameter: nn.Parameter
    owner: nn.Module
    tied: bool = False

    @property
    def groups(self) -> int | None:
        """Groups of a transposed convolution, whose output channel is dimension 1; ``None`` for all others."""
        return self.owner.groups if isinstance(self.owner, nn.modules.conv._ConvTransposeNd) else None

    def as_rows(self, tensor: Tensor) -> Tensor:
        """``tensor``, shaped like the parameter, with the output channel first: (outputs, inputs...)."""
        if self.groups is None:
            return tensor
        if is_sharded(tensor):
            raise UserError(f"{self.name}: expected a whole transposed convolution, got one sharded over processes")
        inputs, outputs, *kernel = tensor.shape
        grouped = tensor.reshape(self.groups, inputs // self.groups, outputs, *kernel).transpose(1, 2)
        return grouped.reshape(self.groups * outputs, inputs // self.groups, *kernel)

    def from_rows(self, rows: Tensor) -> Tensor:
        """The inverse of :meth:`as_rows`."""
        if self.groups is None:
            return rows
        outputs, inputs, *kernel = rows.shape
        grouped = rows.reshape(self.groups, outputs // self.groups, inputs, *kernel).transpose(1, 2)
        return grouped.reshape(self.groups * inputs, outputs // self.groups, *kernel)


@dataclass(frozen=True)
class CoverageRow:
    """What becomes of one parameter: ``reason`` says why it is left digital, and is empty where it is noisy."""

    name: str
    shape: tuple[int, ...]
    noisy: bool
    reason: str
    max_over_rms: float
    """max|w| / rms(w): with noise proportional to the maximum, a layer with outliers is hit hardest."""

    @property
    def weights(self) -> int:
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Coverage:
    """Which parameters are noisy and which are not, layer by layer."""

    rows: tuple[CoverageRow, ...]

    @property
    def noisy(self) -> int:
        """Number of noisy weights."""
        return sum(row.weights for row in self.rows if row.noisy)

    @property
    def total(self) -> int:
        """Number of all parameters' elements."""
        return sum(row.weights for row in self.rows)

    @property
    def summary(self) -> str:
        """One line: how many weights of how many were noisy, and what was left out and why."""
        left: dict[str, list[int]] = {}
        for row in self.rows:
            if not row.noisy:
                left.setdefault(row.reason, []).append(row.weights)
        layers = sum(row.noisy for row in self.rows)
        share = 100 * self.noisy / max(1, self.total)
        text = f"{self.noisy:,} of {self.total:,} weights noisy ({share:.1f} %, {layers} tensors)"
        parts = [f"{sum(sizes):,} in {len(sizes)} x {reason}" for reason, sizes in left.items()]
        return text + (f"; digital: {', '.join(parts)}" if parts else "")

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=4)
        lines = [f"{'weight':{width}}  {'shape':>18}  {'max/rms':>7}  noise"]
        for row in self.rows:
            shape = "x".join(map(str, row.shape))
            fate = "yes" if row.noisy else f"no: {row.reason}"
            lines.append(f"{row.name:{width}}  {shape:>18}  {row.max_over_rms:7.2f}  {fate}")
        return "\n".join([*lines, self.summary])


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        if isinstance(model, (DistributedDataParallel, DataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def canonical(name: str) -> str:
    """A parameter's name without the marks that torch.compile leaves on submodules."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def analog_weights(model: nn.Module, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[AnalogWeight]:
    """The weights of ``model`` that would sit in a crossbar, in the model's order.

    Those of Linear, ConvNd, ConvTransposeNd, recurrent layers and cells, and attention in-projections; not biases,
    norms or embeddings. ``exclude`` takes weights out by shell pattern on their name, then ``include`` puts weights
    in (any parameter of two or more dimensions): ``exclude=["*"], include=["stages.0.*"]`` leaves only the first
    stage noisy.

    Raises :class:`~noiserobust.UserError` for a pattern that matches no parameter.
    """
    return [weight for weight, _ in _classified(model, include, exclude) if isinstance(weight, AnalogWeight)]


def coverage(model: nn.Module, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Coverage:
    """What noise would touch in ``model``, what it would leave alone, and why (arguments: :func:`analog_weights`)."""
    rows = []
    for weight, reason in _classified(model, include, exclude):
        name, parameter = (weight.name, weight.parameter) if isinstance(weight, AnalogWeight) else weight
        values = whole(parameter.detach()).float()
        rms = values.square().mean().sqrt()
        ratio = float(values.abs().amax() / rms) if rms > 0 else float("nan")  # NaN is not > 0: no weights, no ratio
        rows.append(CoverageRow(name, tuple(parameter.shape), isinstance(weight, AnalogWeight), reason, ratio))
    return Coverage(tuple(rows))


def filter_norms(rows: Tensor) -> Tensor:
    """The norm of every filter, (outputs, 1, ...); of the whole tensor when it has one dimension or none."""
    if rows.dim() < 2:
        return torch.linalg.vector_norm(rows)
    return torch.linalg.vector_norm(rows, dim=tuple(range(1, rows.dim())), keepdim=True)


class Backup:
    """Exact copies of tensors while they are moved, in one flat buffer per dtype and device that is kept for re-use."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)
        self._saved: list[Tensor] | None = None

    @contextmanager
    def moved(self) -> Iterator[None]:
        """Save now; put every bit back when the body ends, also when it raises.

        Restoring is copying: subtracting what was added would leave 91 % of float32 weights changed after 1,000 times.
        """
        if not self.tensors:
            yield
            return
        # Looked up now: model.to(...) gives parameters other memory.
        live = [local(tensor.detach()) for tensor in self.tensors]
        # Taken away meanwhile, so that a nested use saves somewhere else.
        saved, self._saved = self._saved, None
        if saved is None or any(s.dtype != t.dtype or s.device != t.device for s, t in zip(saved, live, strict=True)):
            saved = _like(live)
        with torch.no_grad():
            torch._foreach_copy_(saved, live)
        # An autocast that is open around us keeps low-precision copies of the weights: they must not outlive a move.
        torch.clear_autocast_cache()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(live, saved)
            torch.clear_autocast_cache()
            self._saved = saved


Unused = tuple[str, nn.Parameter]


def _classified(
    model: nn.Module, include: Sequence[str], exclude: Sequence[str]
) -> Iterator[tuple[AnalogWeight | Unused, str]]:
    """Every parameter once, as an analog weight or with the reason why it is none."""
    model = unwrap(model)
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, _EMBEDDINGS)}
    crossbar = {
        id(parameter)
        for module in model.modules()
        for attribute, parameter in module.named_parameters(recurse=False)
        if not _digital_reason(module, attribute, parameter)
    }
    seen: set[int] = set()
    matched: set[str] = set()
    found: list[tuple[AnalogWeight | Unused, str]] = []
    for path, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = canonical(f"{path}.{attribute}" if path else attribute)
            reason = _digital_reason(module, attribute, parameter)
            tied = id(parameter) in embedded and not isinstance(module, _EMBEDDINGS)
            if id(parameter) in seen and not tied:
                continue
            if reason and id(parameter) in crossbar and id(parameter) not in embedded:
                continue  # shared with a layer that does sit in a crossbar, and listed there
            matched |= {pattern for pattern in (*include, *exclude) if fnmatchcase(name, pattern)}
            if any(fnmatchcase(name, pattern) for pattern in exclude):
                reason = "excluded by pattern"
            if any(fnmatchcase(name, pattern) for pattern in include):
                reason = "" if parameter.dim() >= 2 else reason or "a vector, not a matrix"
            if tied and reason:
                continue  # the embedding itself is listed
            if tied and type(module).forward is not nn.Linear.forward:
                reason = f"{type(module).__name__} tied to an embedding"
            if not tied:
                seen.add(id(parameter))
            found.append(
                (AnalogWeight(name, parameter, module, tied), "") if not reason else ((name, parameter), reason)
            )
    for pattern in (*include, *exclude):
        if pattern not in matched:
            raise UserError(
                f"expected a pattern that matches a parameter, got '{pattern}'; coverage(model) lists the names"
            )
    yield from found


def _digital_reason(module: nn.Module, attribute: str, parameter: nn.Parameter) -> str:
    """Why a parameter is not in a crossbar; empty when it is."""
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise UserError(
            f"expected an initialised model, but {type(module).__name__} is lazy: run one batch through it first"
        )
    if parameter.numel() == 0:
        return "empty"
    known = (
        (isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and attribute == "weight")
        or (isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and attribute.startswith("weight_"))
        or (isinstance(module, nn.MultiheadAttention) and attribute in _ATTENTION)
    )
    if known:
        return ""
    if isinstance(module, _NORMS):
        return "normalisation"
    if isinstance(module, _EMBEDDINGS):
        return "embedding"
    if "bias" in attribute:
        return "bias"
    if isinstance(module, nn.utils.parametrize.ParametrizationList):
        return "parametrised weight (remove the parametrisation first)"
    return f"{type(module).__name__}.{attribute}: no known crossbar weight (include it by name)"


def _like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Uninitialised twins of ``tensors``, with their memory layout, that share one flat buffer per dtype and device."""
    sizes: dict[tuple[torch.dtype, torch.device], int] = {}
    for tensor in tensors:
        key = (tensor.dtype, tensor.device)
        sizes[key] = sizes.get(key, 0) + tensor.numel()
    free = {key: torch.empty(size, dtype=key[0], device=key[1]) for key, size in sizes.items()}
    twins = []
    for tensor in tensors:
        key = (tensor.dtype, tensor.device)
        own, free[key] = free[key][: tensor.numel()], free[key][tensor.numel() :]
        dense = torch.empty_like(tensor, device="meta")  # the strides that a dense copy would have
        twins.append(own.as_strided(dense.size(), dense.stride()))
    return twins
