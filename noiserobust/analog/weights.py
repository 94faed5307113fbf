"""Which weights are analog: those that would sit in a crossbar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from noiserobust.errors import UserError
from noiserobust.models.wrappers import canonical, unwrap
from noiserobust.noise.sharded import is_sharded

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


def analog_weights(model: nn.Module, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[AnalogWeight]:
    """The weights of ``model`` that would sit in a crossbar, in the model's order.

    Those of Linear, ConvNd, ConvTransposeNd, recurrent layers and cells, and attention in-projections; not biases,
    norms or embeddings. ``exclude`` takes weights out by shell pattern on their name, then ``include`` puts weights
    in (any parameter of two or more dimensions): ``exclude=["*"], include=["stages.0.*"]`` leaves only the first
    stage noisy.

    Raises :class:`~noiserobust.UserError` for a pattern that matches no parameter.
    """
    return [weight for weight, _ in classified(model, include, exclude) if isinstance(weight, AnalogWeight)]


Unused = tuple[str, nn.Parameter]


def classified(
    model: nn.Module, include: Sequence[str], exclude: Sequence[str]
) -> Iterator[tuple[AnalogWeight | Unused, str]]:
    """Every parameter once, as an analog weight or with the reason why it is none."""
    model = unwrap(model)
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, _EMBEDDINGS)}
    crossbar = {
        id(parameter)
        for module in model.modules()
        for attribute, parameter in module.named_parameters(recurse=False)
        if not digital_reason(module, attribute, parameter)
    }
    seen: set[int] = set()
    matched: set[str] = set()
    found: list[tuple[AnalogWeight | Unused, str]] = []
    for path, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = canonical(f"{path}.{attribute}" if path else attribute)
            reason = digital_reason(module, attribute, parameter)
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


def digital_reason(module: nn.Module, attribute: str, parameter: nn.Parameter) -> str:
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
