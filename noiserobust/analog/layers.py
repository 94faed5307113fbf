"""Layers say where their outputs are: an open registry from layer types to the axes of their weights.

A weight's noise is scaled by the largest weight of one output (a column of the crossbar), so a wrong axis is a wrong
noise. A weight that no registered layer vouches for therefore never gets noise on a guessed axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from noiserobust.errors import UserError


@dataclass(frozen=True)
class Outputs:
    """Where the outputs of a weight are.

    ``axes`` are the dimensions that count outputs: (0,) for the weight (outputs, inputs, ...) of a Linear or a
    convolution, (1,) for one stored (inputs, outputs), (0, 1) for experts stacked as (experts, outputs, inputs),
    (0, 2) for (experts, inputs, outputs). ``groups`` is for transposed convolutions, (inputs, outputs / groups, ...):
    dimension 0 holds the groups' inputs one after the other.
    """

    axes: tuple[int, ...] = (0,)
    groups: int = 1

    @property
    def lead(self) -> bool:
        """Whether the weight lies output first already."""
        return self.axes == (0,)

    def rows(self, weight: Tensor) -> Tensor:
        """``weight`` with one row per output: (outputs, inputs, ...)."""
        if self.lead:
            return weight
        grouped = weight.unflatten(0, (self.groups, -1)) if self.groups > 1 else weight
        return self._lead(grouped).flatten(0, len(self._axes) - 1)

    def weight(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The inverse of :meth:`rows` for a weight of ``shape``."""
        if self.lead:
            return rows
        full = (self.groups, shape[0] // self.groups, *shape[1:]) if self.groups > 1 else tuple(shape)
        lead = [full[axis] for axis in self._axes]
        rest = [size for axis, size in enumerate(full) if axis not in self._axes]
        return rows.reshape(*lead, *rest).movedim(tuple(range(len(lead))), self._axes).reshape(shape)

    @property
    def _axes(self) -> tuple[int, ...]:
        return (0, *(axis + 1 for axis in self.axes)) if self.groups > 1 else self.axes

    def _lead(self, weight: Tensor) -> Tensor:
        return weight.movedim(self._axes, tuple(range(len(self._axes))))

    def count(self, shape: tuple[int, ...]) -> int:
        """How many outputs a weight of ``shape`` has."""
        return self.groups * math.prod(shape[axis] for axis in self.axes)


Rule = Callable[[nn.Module], Mapping[str, Outputs]]
"""From a module to its analog weights, by attribute."""

_RULES: dict[type | str, Rule] = {}


def register_layer(kind: type | str, rule: Rule | Mapping[str, Outputs]) -> None:
    """Make the weights of a layer type analog: ``register_layer(MyLinear, {"weight": Outputs((1,))})``.

    ``kind`` is the class, or its full name (``"package.module.Class"``) where importing it would cost time; subclasses
    follow it unless they have a rule of their own. ``rule`` gives the weights by attribute, or is a function of the
    module that does. Raises :class:`~noiserobust.UserError` for a kind that has a rule.
    """
    if kind in _RULES:
        raise UserError(f"expected a layer type that is not registered yet, got {_name(kind)}; make a subclass of it")
    _RULES[kind] = rule if callable(rule) else lambda module: rule


def outputs_of(module: nn.Module) -> Mapping[str, Outputs]:
    """The weights of ``module`` that would sit in a crossbar, by attribute; none for a type that nobody registered.

    A forward method of its own (:func:`has_own_forward`) may compute with a function of them (weight standardisation,
    ternary weights): :mod:`noiserobust.analog.places` looks what it multiplies by.
    """
    rule = _registered(type(module))[1]
    return _of_transformers(module) if rule is None else rule(module)


def has_own_forward(module: nn.Module) -> bool:
    """Whether ``module`` computes otherwise than the registered type that it is an instance of."""
    kind, (parent, rule) = type(module), _registered(type(module))
    if rule is None:
        return False
    # accelerate's hooks put a forward there that calls the class's.
    if "forward" in vars(module) and not hasattr(module, "_hf_hook"):
        return True
    # torch's own subclasses (LSTM of RNNBase, ...) are what their parents' rules are about.
    known = next(
        (base for base in kind.__mro__ if base is parent or base.__module__.startswith("torch.nn.modules.")), parent
    )
    return kind.forward is not known.forward  # type: ignore[attr-defined]


def registered_parent(module: nn.Module) -> type | None:
    """The registered type that ``module`` is an instance of."""
    kind, rule = _registered(type(module))
    return None if rule is None else kind


def _registered(kind: type) -> tuple[type, Rule | None]:
    for base in kind.__mro__:
        rule = _RULES.get(base) or _RULES.get(_name(base))
        if rule is not None:
            return base, rule
    return kind, None


def outputs_named(text: str, shape: tuple[int, ...]) -> Outputs:
    """The outputs that a person names behind a pattern: ``1`` or ``0,2`` of ``*.w1@1``, ``*.experts@0,2``."""
    try:
        axes = tuple(int(axis) for axis in text.split(","))
    except ValueError:
        axes = ()
    if not axes or len(set(axes)) < len(axes) or not all(0 <= axis < len(shape) for axis in axes):
        raise UserError(f"expected the axes of outputs of a weight {shape} such as @0 or @0,2, got '@{text}'")
    if len(axes) == len(shape):
        raise UserError(f"expected an axis of inputs beside those of outputs in a weight {shape}, got '@{text}'")
    return Outputs(axes)


def _name(kind: type | str) -> str:
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


FIRST = Outputs()
"""Outputs in dimension 0, as torch's own layers have them."""


def _recurrent(module: nn.Module) -> Mapping[str, Outputs]:
    names = getattr(module, "_flat_weights_names", ("weight_ih", "weight_hh"))
    return {name: FIRST for name in names if name.startswith("weight_")}


def _attention(module: nn.Module) -> Mapping[str, Outputs]:
    return dict.fromkeys(("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"), FIRST)


def _transposed(module: nn.Module) -> Mapping[str, Outputs]:
    return {"weight": Outputs((1,), int(module.groups))}  # type: ignore[arg-type]


def _of_transformers(module: nn.Module) -> Mapping[str, Outputs]:
    """What ``transformers`` makes anew for every model: stacked experts, whose classes say by ``is_transposed`` how
    their matrices lie, and the routers that choose among them."""
    kind = type(module)
    if not kind.__module__.startswith("transformers."):
        return {}
    if kind.__name__.lower().endswith("topkrouter"):
        return {"weight": FIRST}
    transposed = getattr(module, "is_transposed", None)
    if not isinstance(transposed, bool):
        return {}
    stacked = {name for name, weight in module.named_parameters(recurse=False) if weight.dim() == 3}
    outputs = Outputs((0, 2)) if transposed else Outputs((0, 1))
    return dict.fromkeys(stacked & {"gate_up_proj", "gate_proj", "up_proj", "down_proj"}, outputs)


register_layer(nn.Linear, {"weight": FIRST})
register_layer(nn.modules.conv._ConvNd, {"weight": FIRST})
register_layer(nn.modules.conv._ConvTransposeNd, _transposed)
register_layer(nn.Bilinear, {"weight": FIRST})
register_layer(nn.RNNBase, _recurrent)
register_layer(nn.RNNCellBase, _recurrent)
register_layer(nn.MultiheadAttention, _attention)
register_layer("transformers.pytorch_utils.Conv1D", {"weight": Outputs((1,))})
register_layer("transformers.models.falcon.modeling_falcon.FalconLinear", {"weight": FIRST})
register_layer(
    "transformers.models.xlnet.modeling_xlnet.XLNetRelativeAttention",
    {**dict.fromkeys("qkvr", Outputs((1, 2))), "o": FIRST},
)
_STACKED, _STACKED_INPUTS_FIRST = Outputs((0, 1)), Outputs((0, 2))
for _kind, _rule in {
    "convbert.modeling_convbert.GroupedLinearLayer": {"weight": _STACKED_INPUTS_FIRST},
    "csm.modeling_csm.CsmCodebooksHead": {"weight": _STACKED_INPUTS_FIRST},
    "dbrx.modeling_dbrx.DbrxExpertGLU": lambda module: {
        "w1": FIRST,
        "v1": FIRST,
        "w2": Outputs((1,), int(module.moe_num_experts)),  # experts one after the other, each (inputs, outputs)
    },
    "funnel.modeling_funnel.FunnelRelMultiheadAttention": {"r_kernel": Outputs((1, 2))},
    "jetmoe.modeling_jetmoe.JetMoeParallelExperts": {"weight": _STACKED},
    "kyutai_speech_to_text.modeling_kyutai_speech_to_text.KyutaiSpeechToTextFlexibleLinear": {"weight": _STACKED},
    "llama4.modeling_llama4.Llama4TextExperts": dict.fromkeys(("gate_up_proj", "down_proj"), _STACKED_INPUTS_FIRST),
    "longcat_flash.modeling_longcat_flash.LongcatFlashExperts": dict.fromkeys(("gate_up_proj", "down_proj"), _STACKED),
    "moshi.modeling_moshi.MoshiFlexibleLinear": {"weight": _STACKED},
    "recurrent_gemma.modeling_recurrent_gemma.RecurrentGemmaRglru": dict.fromkeys(
        ("input_gate_weight", "recurrent_gate_weight"), _STACKED_INPUTS_FIRST
    ),
}.items():
    register_layer(f"transformers.models.{_kind}", _rule)  # type: ignore[arg-type]
register_layer("timm.layers.conv2d_same.Conv2dSame", {"weight": FIRST})


def _compiled_tile(module: nn.Module) -> Mapping[str, Outputs]:
    weight = module._parameters.get("shared_weights")
    return {} if weight is None else {"shared_weights": FIRST if weight.device.type == "cpu" else Outputs((1,))}


register_layer("aihwkit.simulator.tiles.torch_tile.TorchSimulatorTile", {"weight": FIRST})
register_layer("aihwkit.simulator.tiles.torch_tile_irdrop_t.TorchSimulatorTileIRDropT", {"weight": FIRST})
register_layer("aihwkit.simulator.tiles.inference.InferenceTile", _compiled_tile)


def tiles_of(model: nn.Module) -> dict[str, Any]:
    """The tiles of an aihwkit analog model by name, in the order in which aihwkit programs them; none of others."""
    return {name: module for name, module in model.named_modules() if _is_tile(module)}


def _is_tile(module: nn.Module) -> bool:
    return "aihwkit.simulator.tiles.module.TileModule" in map(_name, type(module).__mro__)
