"""Which weights are analog: those that would sit in a crossbar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import Tensor, nn

from noiserobust.analog.layers import FIRST, Outputs, has_own_forward, outputs_named, outputs_of, registered_parent
from noiserobust.errors import UserError
from noiserobust.models.wrappers import Names, unwrap
from noiserobust.noise.sharded import is_sharded

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
OWN_FORWARD = "has a forward of its own"
EXCLUDED = "excluded by pattern"


@dataclass(frozen=True, eq=False)
class AnalogWeight:
    """A parameter that would sit in a crossbar.

    ``name`` is its place in the network whatever wraps that (:class:`~noiserobust.models.wrappers.Names`), and names
    its randomness. ``outputs`` says which of its dimensions count outputs. ``tied`` says that an embedding shares it:
    the look-up stays digital, so only this layer sees the noise.
    """

    name: str
    parameter: nn.Parameter
    owner: nn.Module
    tied: bool = False
    outputs: Outputs = FIRST

    def as_rows(self, tensor: Tensor) -> Tensor:
        """``tensor``, shaped like the parameter, with one row per output: (outputs, inputs...)."""
        if not self.outputs.lead and is_sharded(tensor):
            raise UserError(f"{self.name}: expected outputs in dimension 0 of a weight sharded over processes")
        return self.outputs.rows(tensor)

    def from_rows(self, rows: Tensor) -> Tensor:
        """The inverse of :meth:`as_rows`."""
        return self.outputs.weight(rows, tuple(self.parameter.shape))


def analog_weights(model: nn.Module, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[AnalogWeight]:
    """The weights of ``model`` that would sit in a crossbar, in the model's order.

    Those of the layers that :mod:`noiserobust.analog.layers` knows: Linear, ConvNd, ConvTransposeNd, Bilinear,
    recurrent layers and cells, attention in-projections, and of ``transformers`` its Conv1D and stacked experts; not
    biases, norms or embeddings. ``exclude`` takes weights out by shell pattern on their name or path, then ``include``
    puts weights in: ``exclude=["*"], include=["stages.0.*"]`` leaves only the first stage noisy. A parameter of a layer
    that nobody registered needs its axes of outputs, too: ``include=["*.kernel@1"]`` where it is stored (inputs,
    outputs).

    Raises :class:`~noiserobust.UserError` for a pattern that matches no parameter, and for one that includes
    vectors alone, or a parameter without saying where its outputs are.
    """
    return [weight for weight, _ in classified(model, include, exclude) if isinstance(weight, AnalogWeight)]


Unused = tuple[str, nn.Parameter]


def classified(
    model: nn.Module, include: Sequence[str], exclude: Sequence[str]
) -> Iterator[tuple[AnalogWeight | Unused, str]]:
    """Every parameter once, as an analog weight or with the reason why it is none."""
    names, model = Names(model), unwrap(model)
    included = [_Included(*pattern.partition("@")[::2], pattern) for pattern in include]
    embedded = {_place(module.weight) for module in model.modules() if isinstance(module, _EMBEDDINGS)}
    crossbar = {
        _place(parameter)
        for module in model.modules()
        for attribute, parameter in module.named_parameters(recurse=False)
        if attribute in outputs_of(module) and parameter.numel()
    }
    seen: set[object] = set()
    matched: set[str] = set()
    effective: set[str] = set()
    classes: list[tuple[AnalogWeight | Unused, str]] = []
    for path, module in model.named_modules():
        known = outputs_of(module)
        for attribute, parameter in module.named_parameters(recurse=False):
            full, place = f"{path}.{attribute}" if path else attribute, _place(parameter)
            name, spellings = names(full), names.spellings(full)
            reason = digital_reason(module, attribute, parameter)
            tied = place in embedded and not isinstance(module, _EMBEDDINGS)
            if place in seen and not tied:
                continue
            if reason and place in crossbar and place not in embedded:
                continue  # shared with a layer that does sit in a crossbar, and listed there
            asked = [one for one in included if _matches(spellings, one.names)]
            excluded = {pattern for pattern in exclude if _matches(spellings, pattern)}
            matched |= {one.text for one in asked} | excluded
            outputs = known.get(attribute)
            if excluded:
                reason = EXCLUDED
            if parameter.dim() >= 2 and parameter.numel():
                effective |= {one.text for one in asked}
            if asked and parameter.numel():
                reason = "" if parameter.dim() >= 2 else reason or "a vector, not a matrix"
            if tied and reason:
                continue  # the embedding itself is listed
            if tied and type(module).forward is not nn.Linear.forward:
                reason = f"{type(module).__name__} tied to an embedding"
            if not tied:
                seen.add(place)
            if reason:
                classes.append(((name, parameter), reason))
                continue
            for one in asked:
                outputs = outputs_named(one.axes, tuple(parameter.shape)) if one.axes else outputs
            if outputs is None:
                raise UserError(
                    f"expected the axis of the outputs of {name}, of which no registered layer vouches for "
                    f"{type(module).__name__}.{attribute} {tuple(parameter.shape)}; include '{asked[0].names}@0' where "
                    "outputs are in dimension 0, @1 in dimension 1"
                )
            classes.append((AnalogWeight(name, parameter, module, tied, outputs), ""))
    for pattern in (*include, *exclude):
        if pattern not in matched:
            raise UserError(
                f"expected a pattern that matches a parameter, got '{pattern}'; coverage(model) lists the names"
            )
    for pattern in include:
        if pattern not in effective:
            raise UserError(
                f"expected a pattern that matches a matrix, got '{pattern}', which matches vectors alone; biases and "
                "scales are no part of a crossbar"
            )
    yield from classes


class _Included(NamedTuple):
    names: str
    axes: str
    text: str


def _matches(spellings: Iterable[str], pattern: str) -> bool:
    return any(fnmatchcase(one, pattern) for one in spellings)


def _place(parameter: Tensor) -> object:
    """What makes two parameters one weight: the same memory, seen in the same way (tied, or shared through .data)."""
    if is_sharded(parameter) or parameter.device.type == "meta" or not parameter.numel():
        return id(parameter)
    return parameter.device, parameter.data_ptr(), tuple(parameter.shape), parameter.stride()


def digital_reason(module: nn.Module, attribute: str, parameter: nn.Parameter) -> str:
    """Why a parameter is not in a crossbar; empty when it is."""
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise UserError(
            f"expected an initialised model, but {type(module).__name__} is lazy: run one batch through it first"
        )
    if parameter.numel() == 0:
        return "empty"
    if attribute in outputs_of(module):
        return ""
    if isinstance(module, _NORMS):
        return "normalisation"
    if isinstance(module, _EMBEDDINGS):
        return "embedding"
    if "bias" in attribute:
        return "bias"
    if isinstance(module, nn.utils.parametrize.ParametrizationList):
        return "parametrised weight (remove the parametrisation first)"
    parent = registered_parent(module)
    if parent is not None and has_own_forward(type(module), parent) and parameter.dim() > 1:
        return f"{type(module).__name__} {OWN_FORWARD} (include it by name@axis if it uses the weight as it is)"
    if parameter.dim() < 2:
        return f"{type(module).__name__}.{attribute}: a vector"
    return f"{type(module).__name__}.{attribute}: no registered layer vouches for it (include it by name@axis)"
