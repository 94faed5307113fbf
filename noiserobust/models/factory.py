"""A network of your own: any importable function that builds one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from noiserobust.errors import UserError
from noiserobust.models.base import ModelSpec
from noiserobust.spec import OfFunction
from noiserobust.spec.references import load


@dataclass(frozen=True)
class ModelOfFunction(OfFunction, ModelSpec):
    """``package.module:function(width=8)``: what ``function(channels=..., classes=..., width=8)`` returns.

    A function or class that takes no ``channels`` or no ``classes`` is called without: it is of one size.

    The module is imported as Python finds it, the folder that the program runs in included (searched last). Importing
    runs its code: a checkpoint that names a function is therefore only built when a person names it, too.
    """

    given: ClassVar[Collection[str]] = ("channels", "classes")
    names_code: ClassVar[bool] = True

    def build(self, channels: int, classes: int) -> nn.Module:
        sizes = taken(load(self.reference), {"channels": channels, "classes": classes})
        network = self.call("expected a function of channels and classes", **sizes)
        if not isinstance(network, nn.Module):
            raise UserError(f"{self}: expected a function that returns a torch.nn.Module, got {type(network).__name__}")
        return network


def taken(function: Callable[..., Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that ``function`` has parameters for; all of them where nobody knows."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return dict(named)
    every = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return {name: value for name, value in named.items() if every or name in parameters}


@dataclass(frozen=True)
class Factory(ModelSpec, name="factory"):
    """A network of your own, returned by a function of your own.

    What ``function(channels=..., classes=...)`` of ``package.module`` returns. The same as ``package.module:function``,
    for functions without settings of their own.
    """

    example: ClassVar[str] = "factory:my_package.my_module:my_function"
    names_code: ClassVar[bool] = True

    target: str

    def __post_init__(self) -> None:
        if re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", self.target) is None:
            raise UserError(f"factory: expected package.module:function, got '{self.target}'")

    def build(self, channels: int, classes: int) -> nn.Module:
        return ModelOfFunction(self.target).build(channels, classes)
