"""A network of your own: any importable function that builds one."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from noiserobust.errors import UserError
from noiserobust.models.base import ModelSpec


@dataclass(frozen=True)
class Factory(ModelSpec, name="factory"):
    """``factory:package.module:function``: what ``function(channels=..., classes=...)`` returns.

    The module is imported as Python finds it, the folder that the program runs in included (searched last). Importing
    runs its code: a checkpoint that names a factory is therefore only built when a person names the factory, too.
    """

    target: str

    def __post_init__(self) -> None:
        if re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", self.target) is None:
            raise UserError(f"factory: expected package.module:function, got '{self.target}'")

    def build(self, channels: int, classes: int) -> nn.Module:
        module, _, name = self.target.partition(":")
        with _one_line(f"{self}: expected a function that can be imported"), _working_folder():
            function: Callable[..., object] = importlib.import_module(module)  # type: ignore[assignment]
            for part in name.split("."):
                function = getattr(function, part)
        with _one_line(f"{self}: expected a function of channels and classes"):
            network = function(channels=channels, classes=classes)
        if not isinstance(network, nn.Module):
            raise UserError(f"{self}: expected a function that returns a torch.nn.Module, got {type(network).__name__}")
        return network


@contextmanager
def _working_folder() -> Iterator[None]:
    """The present folder is importable, after everything else (installed programs do not look there)."""
    here, known = os.getcwd(), list(sys.path)
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path[:] = known


@contextmanager
def _one_line(expected: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a stranger's function does wrong
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"{expected}, got {type(error).__name__}: {reason}") from error
