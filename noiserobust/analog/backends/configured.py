"""An ``RPUConfig`` of one's own as a backend: aihwkit's tiles as it says, written with our chips' weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor

from noiserobust.analog.backends.tiles import OnTiles
from noiserobust.errors import UserError
from noiserobust.spec import OfFunction, format_value
from noiserobust.spec.parser import Argument
from noiserobust.spec.references import agreed, reference_to
from noiserobust.spec.writer import called

NOISES = ("inp_noise", "out_noise", "w_noise", "inp_sto_round", "out_sto_round", "out_noise_std", "v_offset_std")
"""What makes a tile's outputs random, of the settings of its ``IOParameters``."""


@dataclass(frozen=True)
class Configured(OfFunction, OnTiles):
    """``package.module:Name(setting=value)``: an ``RPUConfig`` of aihwkit, or what a function returns as one.

    Its converters, noises of inputs and outputs, IR drop, mapping and tile sizes are used. Its noise model and drift
    compensation are not: weights are those of the noise that is evaluated, and compensation is asked for by name.
    ``digest`` names its content, which rows carry; where it is given, the config must still agree.
    """

    digest: str = ""
    _at_hand = None

    def __post_init__(self) -> None:
        config = self._made()
        if not hasattr(config, "forward") or not hasattr(config, "noise_model"):
            kind = type(config).__name__
            raise UserError(f"expected an RPUConfig for inference, got {kind}; InferenceRPUConfig is one")
        if not getattr(getattr(config, "mapping", None), "digital_bias", True):
            raise UserError(f"expected digital biases (mapping.digital_bias=True) in {self.reference}, got analog ones")
        used = "hand over the object that was used, or where it was changed"
        digest = agreed(f"expected {self.reference}", self.digest, digest_of(config), used)
        object.__setattr__(self, "digest", digest)
        object.__setattr__(self, "_at_hand", config)

    @classmethod
    def of(cls, config: Any) -> Configured:
        """The backend of a config that is at hand, or of its class."""
        given = config() if isinstance(config, type) else config
        made = object.__new__(cls)
        for name, value in {"reference": reference_to(type(given)), "options": (), "digest": ""}.items():
            object.__setattr__(made, name, value)
        object.__setattr__(made, "_at_hand", deepcopy(given))
        made.__post_init__()
        return made

    @classmethod
    def bound(cls, reference: str, function: Any, arguments: list[Argument], text: str, imports: bool) -> Any:
        own = [argument for argument in arguments if argument.key != "digest"]
        plain = super().bound(reference, function, own, text, imports)
        digest = next((argument.value for argument in arguments if argument.key == "digest"), "")
        return cls(plain.reference, plain.options, digest) if digest else plain

    def nested(self) -> str:
        options = [f"{name}={format_value(value)}" for name, value in self.options]
        return called(self.reference, [*options, f"digest={self.digest}"])

    @property
    def exact(self) -> bool:
        forward = self._made().forward
        return forward.is_perfect or not any(getattr(forward, name, 0) for name in NOISES)

    @property
    def note(self) -> str:
        return "" if self.exact else unnamed_noise([self._made()])

    def config(self, aihwkit: SimpleNamespace, perfect: bool = False) -> Any:
        config = deepcopy(self._made())
        config.drift_compensation = None  # ours, in Layer.write
        config.forward.is_perfect |= perfect
        return config

    def _made(self) -> Any:
        if self._at_hand is not None:
            return self._at_hand
        config = self.call("expected an RPUConfig of aihwkit, or a function that returns one")
        if not is_config(config) or isinstance(config, type):
            raise UserError(f"expected an RPUConfig of aihwkit from {self.reference}, got {type(config).__name__}")
        return config


def is_config(thing: Any) -> bool:
    """Whether this is an ``RPUConfig`` of aihwkit, or a class of them."""
    kind = thing if isinstance(thing, type) else type(thing)
    return any(base.__module__.startswith("aihwkit.simulator.") for base in kind.__mro__) and hasattr(
        kind, "tile_class"
    )


def unnamed_noise(configs: Iterable[Any]) -> str:
    """A word about tiles whose noise cannot be drawn from a named stream, to end a report."""
    compiled = {type(c).__name__ for c in configs if "simulator_tile_class" not in vars(c)}
    if not compiled:
        return ""
    return f"; values differ from run to run, since nobody can seed the noise of compiled tiles ({', '.join(compiled)})"


def digest_of(*configs: Any) -> str:
    """12 hex digits that name the content of ``RPUConfig`` objects, whatever their noise models and devices hold."""
    return hashlib.sha256("\n".join(map(_told, configs)).encode()).hexdigest()[:12]


def _told(value: Any, depth: int = 0) -> str:
    """``value`` as text, with all that it is made of."""
    if depth > 20:
        raise UserError(f"expected an RPUConfig that ends, got {type(value).__name__} that holds itself")
    inner = depth + 1
    if isinstance(value, (type, FunctionType)):
        return reference_to(value)
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{value.dtype}{value.tolist()}"
    if isinstance(value, Mapping):
        return f"({','.join(sorted(f'{_told(key, inner)}:{_told(one, inner)}' for key, one in value.items()))})"
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"{type(value).__name__}({','.join(_told(one, inner) for one in value)})"
    if hasattr(value, "__dict__"):
        return f"{reference_to(type(value))}{_told(vars(value), inner)}"
    return repr(value)
