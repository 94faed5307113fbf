"""A network of your own: any importable function that builds one."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from noiserobust.errors import UserError
from noiserobust.models.base import ModelSpec
from noiserobust.spec import OfFunction


@dataclass(frozen=True)
class ModelOfFunction(OfFunction, ModelSpec):
    """``package.module:function(width=8)``: what ``function(channels=..., classes=..., width=8)`` returns.

    The module is imported as Python finds it, the folder that the program runs in included (searched last). Importing
    runs its code: a checkpoint that names a function is therefore only built when a person names it, too.
    """

    given: ClassVar[Collection[str]] = ("channels", "classes")
    names_code: ClassVar[bool] = True

    def build(self, channels: int, classes: int) -> nn.Module:
        network = self.call("expected a function of channels and classes", channels=channels, classes=classes)
        if not isinstance(network, nn.Module):
            raise UserError(f"{self}: expected a function that returns a torch.nn.Module, got {type(network).__name__}")
        return network


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
