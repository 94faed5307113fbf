"""Which weights are analog: those that would sit in a crossbar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from noiserobust.analog.digital import NORMS, adapters, packed, stored_elsewhere, unused
from noiserobust.analog.heads import EMBEDDINGS, Head
from noiserobust.analog.layer_table import LayerTable
from noiserobust.analog.layers import FIRST, Outputs, has_own_forward, outputs_named, outputs_of
from noiserobust.analog.patterns import Patterns
from noiserobust.analog.places import (
    AnalogWeight,
    Hooked,
    Inside,
    Parametrised,
    Stored,
    Untied,
    computing_hooks,
    hook_latents,
    parametrised,
)
from noiserobust.analog.probing import (
    CLOSED,
    Unclear,
    operand_of,
    products_of,
    read_as_stored,
    require_as_stored,
    stored_outputs,
)
from noiserobust.errors import UserError
from noiserobust.models.kinds import require_layers
from noiserobust.models.wrappers import Names, unwrap
from noiserobust.noise.sharded import is_sharded
from noiserobust.spec.kinds import typed

__all__ = [
    "EXCLUDED",
    "LATENT",
    "OWN_FORWARD",
    "AnalogWeight",
    "Unused",
    "analog_weights",
    "by_parameter",
    "classified",
    "place_of",
    "users",
]

OWN_FORWARD = "has a forward of its own"
VOUCHES = "no registered layer vouches for it"
EXCLUDED = "excluded by pattern"
LATENT = "latent of"
"""The beginning of the reason of a parameter from which a weight is computed: it is counted there."""


@typed
def analog_weights(
    model: nn.Module, *, include: Sequence[str] = (), exclude: Sequence[str] = (), layers: LayerTable | None = None
) -> list[AnalogWeight]:
    """The weights of ``model`` that would sit in a crossbar, in the model's order.

    Those of the layers that :mod:`noiserobust.analog.layers` knows: Linear, ConvNd, ConvTransposeNd, Bilinear,
    recurrent layers and cells, attention in-projections, and of ``transformers`` its Conv1D and stacked experts; not
    biases, norms or embeddings. A weight that is computed (a parametrization, weight norm, a pruning mask, a forward
    method that standardises or quantises) is the computed value. ``exclude`` takes weights out by shell pattern on
    their name or path, then ``include`` puts weights in: ``exclude=["*"], include=["stages.0.*"]`` leaves only the
    first stage noisy. A parameter of a layer that nobody registered needs its axes of outputs, too:
    ``include=["*.kernel@1"]`` where it is stored (inputs, outputs).

    ``layers`` is a table of settings by layer (:class:`~noiserobust.analog.layer_table.LayerTable`): what it says of
    ``digital`` holds over both.

    Raises :class:`~noiserobust.UserError` for a pattern that matches no parameter, and for one that includes
    vectors alone, or a parameter without saying where its outputs are.
    """
    return [weight for weight, _ in classified(model, include, exclude, layers) if isinstance(weight, AnalogWeight)]


Unused = tuple[str, Tensor]


def classified(
    model: nn.Module, include: Sequence[str], exclude: Sequence[str], layers: LayerTable | None = None
) -> Iterator[tuple[AnalogWeight | Unused, str]]:
    """Every weight once, as an analog weight or with the reason why it is none."""
    require_layers(model)
    patterns, found = Patterns(include, exclude, layers or LayerTable()), _Found(model)
    classes: list[tuple[AnalogWeight | Unused, str]] = []
    candidates = list(found.candidates())
    crossbar = {candidate.place for candidate in candidates if not candidate.reason}
    for candidate in candidates:
        reason, place = candidate.reason, candidate.place
        embedding = isinstance(candidate.owner, EMBEDDINGS)
        tied = place in found.embedded and not embedding
        if place in found.listed and not tied:
            continue
        if reason and place in crossbar and place not in found.embedded:
            continue  # shared with a layer that does sit in a crossbar, and listed there
        axes, excluded, included = patterns.about(candidate)
        if excluded and not candidate.latent:
            reason = EXCLUDED
        if included and candidate.tensor.numel():
            reason = "" if candidate.tensor.dim() >= 2 else reason or "a vector, not a matrix"
            reason = reason or candidate.fixed
        if tied and ((reason and OWN_FORWARD not in reason) or found.untied(candidate)):
            continue  # the embedding itself is listed, or another layer that is tied to it
        if not tied:
            found.listed.add(place)
        if reason:
            classes.append(((candidate.name, candidate.tensor), reason))
            continue
        outputs = outputs_named(axes, tuple(candidate.tensor.shape)) if axes else candidate.outputs
        if outputs is None:
            raise UserError(
                f"expected the axis of the outputs of {candidate.name}, of which no registered layer vouches for "
                f"{type(candidate.owner).__name__}.{candidate.attribute} {tuple(candidate.tensor.shape)}; include "
                f"'{included}@0' where outputs are in dimension 0, @1 in dimension 1"
            )
        weight = found.weight(candidate, outputs, tied, named=bool(axes))
        weight.axes = axes
        weight.settings = patterns.settings(candidate)
        classes.append((weight, ""))
    patterns.check()
    _check_overlaps([weight for weight, _ in classes if isinstance(weight, AnalogWeight)])
    yield from classes


@dataclass
class _Candidate:
    """A weight of one layer, before anyone has said whether it is analog."""

    name: str
    spellings: set[str]
    owner: nn.Module
    attribute: str
    tensor: Tensor
    """Its value, of its shape."""
    place: object
    reason: str
    """Why it is digital, unless somebody includes it."""
    outputs: Outputs | None = None
    kind: type[AnalogWeight] = Stored
    latents: Sequence[Any] = ()
    more: Mapping[str, Any] | None = None
    """Further arguments of its kind."""
    fixed: str = ""
    """Why it is digital even if somebody includes it."""
    latent: bool = False
    """Whether another weight is computed from it, and counted for it."""


class _Found:
    """The weights of a network: parameters, values computed from them, buffers and packed integers."""

    def __init__(self, model: nn.Module) -> None:
        self.names, self.model = Names(model), unwrap(model)
        self.unused, self.adapters = unused(self.model), adapters(self.model)
        modules = list(self.model.modules())
        self.embedded: dict[object, list[nn.Module]] = {}
        for one in modules:
            weight = one._parameters.get("weight") if isinstance(one, EMBEDDINGS) else None
            if weight is not None:  # else it is computed
                self.embedded.setdefault(place_of(weight), []).append(one)
        self.listed: set[object] = set()
        self._untied: dict[object, Untied] = {}
        self._latent: dict[int, str] = {}
        """By the ``id`` of a parameter: the name of the weight that is computed from it."""
        self._configs = [
            module.config
            for module in modules
            if getattr(getattr(module, "config", None), "tie_word_embeddings", None) is True
        ]

    def candidates(self) -> Iterator[_Candidate]:
        for path, module in self.model.named_modules():
            known = outputs_of(module)
            yield from self._computed(path, module, known)
            for attribute, parameter in module.named_parameters(recurse=False):
                yield self._parameter(path, module, attribute, parameter, known.get(attribute))
            for attribute, values, reason in stored_elsewhere(module):
                held = attribute in module._buffers
                candidate = self._candidate(path, module, attribute, values, reason)
                candidate.latents, candidate.outputs = [values], known.get(attribute)
                candidate.fixed = "" if held and values.is_floating_point() else reason
                yield candidate

    def weight(self, candidate: _Candidate, outputs: Outputs, tied: bool, named: bool) -> AnalogWeight:
        kind, more = candidate.kind, candidate.more or {}
        if tied and kind is Stored and not (named and outputs == FIRST):
            kind, more = Untied, {"configs": self._configs}
        elif named and kind is Stored and outputs == FIRST and candidate.tensor.dim() == 2:
            # A look-up is a product with outputs in dimension 1: an array that holds dimension 0 is none of it.
            kind, more = Head, {"tables": self.embedded.get(candidate.place, ())}
        arguments = candidate.name, candidate.owner, candidate.attribute, outputs, candidate.latents
        weight = kind(*arguments, **more)
        if isinstance(weight, Untied):
            self._untied[candidate.place] = weight
        return weight

    def untied(self, candidate: _Candidate) -> bool:
        """Whether a layer is tied to an embedding as another one is that is listed: they are one weight."""
        one = self._untied.get(candidate.place)
        if one is not None and one.attribute == candidate.attribute and candidate.kind is Stored:
            one.owners.append(candidate.owner)
            return True
        return False

    def _candidate(
        self, path: str, module: nn.Module, attribute: str, tensor: Tensor, reason: str, place: object = None
    ) -> _Candidate:
        full = f"{path}.{attribute}" if path else attribute
        place = place_of(tensor) if place is None else place
        return _Candidate(self.names(full), self.names.spellings(full), module, attribute, tensor, place, reason)

    def _computed(self, path: str, module: nn.Module, known: Mapping[str, Outputs]) -> Iterator[_Candidate]:
        """The weights that parametrizations and hooks compute."""
        kind: type[AnalogWeight]
        stored = {id(p): f"{path}.{n}" if path else n for n, p in module.named_parameters()}
        for attribute in (*parametrised(module), *computing_hooks(module)):
            if parametrize.is_parametrized(module, attribute):
                kind, more = Parametrised, {}
                latents = list(module.parametrizations[attribute].parameters())  # type: ignore[index,union-attr]
            else:
                kind, more = Hooked, {"hooks": computing_hooks(module)[attribute]}
                latents = hook_latents(module, attribute)
            outputs = known.get(attribute, FIRST)
            value = kind("", module, attribute, outputs, latents, **more).value()
            reason = self.unused.get(id(module)) or digital_reason(module, attribute, value)
            candidate = self._candidate(path, module, attribute, value, reason, (id(module), attribute))
            candidate.outputs, candidate.kind, candidate.latents = known.get(attribute), kind, latents
            candidate.more = more
            for latent in latents:
                self._latent[id(latent)] = candidate.name
                # Patterns may call it by the parameters that are stored.
                candidate.spellings |= self.names.spellings(stored[id(latent)])
            yield candidate

    def _parameter(
        self, path: str, module: nn.Module, attribute: str, parameter: nn.Parameter, outputs: Outputs | None
    ) -> _Candidate:
        latent = id(parameter) in self._latent
        form = f"{LATENT} {self._latent[id(parameter)]}" if latent else ""
        unused = self.unused.get(id(module)) or self.unused.get(id(parameter))
        reason = form or unused or digital_reason(module, attribute, parameter)
        if VOUCHES in reason:
            reason = self.adapters.get(id(parameter), reason)
        form = form or packed(parameter)
        if isinstance(module, nn.ParameterDict):  # the names of its owner say what it holds
            place = path.rpartition(".")[2]
            reason = reason.replace("ParameterDict.", f"{place}.")
            if place == "lora_embedding_B" and not unused:
                reason, outputs = "", FIRST
        candidate = self._candidate(path, module, attribute, parameter, reason or form)
        candidate.latents, candidate.outputs, candidate.fixed = [parameter], outputs, form
        candidate.latent = latent
        if outputs is not None and not candidate.reason and parameter.numel() and has_own_forward(module):
            self._inside(candidate, parameter)
        return candidate

    def _inside(self, candidate: _Candidate, parameter: nn.Parameter) -> None:
        """What a forward method of its own makes of a parameter."""
        module = candidate.owner
        try:
            if isinstance(module, CLOSED):
                require_as_stored(module, parameter)
                return
            operand, gains = operand_of(module, parameter)
            used = operand.of(products_of(module, parameter))
        except Unclear as unclear:
            if not isinstance(module, CLOSED) and (outputs := read_as_stored(module, parameter)) is not None:
                candidate.outputs = outputs
                return
            axis = ",".join(map(str, candidate.outputs.axes)) if candidate.outputs else "axis"
            advice = f"include it by name@{axis} if it uses the weight as it is"
            candidate.reason = f"{type(module).__name__} {OWN_FORWARD}: {unclear} ({advice})"
            return
        assert used is not None
        stored = None if operand.written else stored_outputs(parameter, used, operand.outputs)
        if stored is not None:
            candidate.outputs = stored
        else:
            candidate.kind, candidate.more, candidate.latents = Inside, {"operand": operand}, [parameter, *gains]
            self._latent |= dict.fromkeys(map(id, gains), candidate.name)
            candidate.outputs, candidate.tensor = operand.outputs, used


def by_parameter(weights: Sequence[AnalogWeight]) -> dict[int, AnalogWeight]:
    """Weights by the ``id`` of the parameter that has their shape: itself, or the one that they are computed from."""
    return {id(latent): w for w in weights for latent in w.latents if tuple(latent.shape) == w.shape}


def users(model: nn.Module, weights: Sequence[AnalogWeight]) -> Iterator[tuple[str, nn.Module, AnalogWeight]]:
    """The layers that compute with ``weights``: the name of the weight there, the layer and the weight. Several layers
    may share one; an embedding that does looks up, in digital."""
    names, model = Names(model), unwrap(model)
    stored = {id(weight.latents[0]): weight for weight in weights if isinstance(weight, (Stored, Untied))}
    computed = {(id(weight.owner), weight.attribute): weight for weight in weights}
    for path, module in model.named_modules():
        for attribute in (*module._parameters, *parametrised(module), *computing_hooks(module)):
            weight = stored.get(id(module._parameters.get(attribute))) or computed.get((id(module), attribute))
            head = isinstance(weight, Head) and weight.owner is module
            if weight is not None and (head or not isinstance(module, EMBEDDINGS)):
                yield names(f"{path}.{attribute}" if path else attribute), module, weight


def place_of(tensor: Tensor) -> object:
    """What makes two tensors one weight: the same memory, transposed or not (tied, or shared through .data)."""
    if is_sharded(tensor) or tensor.device.type == "meta" or tensor.layout != torch.strided or not tensor.numel():
        return id(tensor)
    return (id(tensor) if packed(tensor) else tensor.data_ptr()), tensor.device, tensor.numel()


def _check_overlaps(weights: Sequence[AnalogWeight]) -> None:
    """Refuse weights that share a part of their memory: it would get the noise of both."""
    for weight in weights:
        shared = (zip(p.shape, p.stride(), strict=True) for p in weight.latents if isinstance(place_of(p), tuple))
        if isinstance(weight, Stored) and any(size > 1 and not step for one in shared for size, step in one):
            raise UserError(
                f"expected a weight whose elements have memory of their own, got {weight.name}, which is expanded; "
                "make it of expanded.clone()"
            )
    spans = [
        (str(p.device), p.data_ptr(), p.data_ptr() + p.numel() * p.element_size(), weight.name)
        for weight in weights
        for p in weight.latents
        if isinstance(weight, Stored) and isinstance(place_of(p), tuple) and p.is_contiguous()
    ]
    spans.sort(key=lambda span: (span[0], span[1], -span[2]))
    for (device, start, end, name), (other_device, other_start, other_end, other) in pairwise(spans):
        if device == other_device and other_start < end and (start, end) != (other_start, other_end):
            raise UserError(
                f"expected weights that share all of their memory or none, got {name} and {other}; exclude one of them"
            )


def digital_reason(module: nn.Module, attribute: str, parameter: Tensor) -> str:
    """Why a parameter is not in a crossbar; empty when it is."""
    if parameter.numel() == 0:
        return "empty"
    if attribute in outputs_of(module):
        return ""
    if isinstance(module, NORMS):
        return "normalisation"
    if isinstance(module, EMBEDDINGS):
        return "embedding"
    if "bias" in attribute:
        return "bias"
    if parameter.dim() < 2:
        return f"{type(module).__name__}.{attribute}: a vector"
    return f"{type(module).__name__}.{attribute}: {VOUCHES} (include it by name@axis)"
