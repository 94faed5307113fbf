"""Networks are built within bounds: a text of ten letters may ask for more than a machine holds."""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from noiserobust.errors import UserError, reason_of
from noiserobust.limits import limits, within
from noiserobust.models.base import ModelSpec

SPARE = 1_000_000
"""Parameters that a network may have beyond the weights of its checkpoint: it does not fit them anyway."""
LARGE = 50_000_000
"""Parameters from which on a network is built without memory first."""
MAKERS = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full, torch.arange, torch.linspace}


def built(spec: ModelSpec, channels: int, classes: int, weights: int | None = None) -> nn.Module:
    """``spec.build(channels, classes)``, refused in one line where it fails or asks for more than there may be.

    - ``weights``: how many numbers the checkpoint has that the network is built for; the limit ``parameters``
      (:mod:`noiserobust.limits`) holds, too.

    A person's own code is not watched.
    """
    try:
        if spec.names_code:
            return spec.build(channels, classes)
        with Bounds(spec, channels, classes, weights):
            return spec.build(channels, classes)
    except (RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise UserError(
            f"expected a network that can be built for {channels} channels and {classes} classes, got {spec}: "
            f"{reason_of(error)}"
        ) from error


class Bounds(TorchFunctionMode):
    """Inside, a network that becomes too large is refused while it is built.

    ``large``: it is not built without memory first; ``spare``: how many parameters it may have beyond ``weights``;
    ``tensors``: how many it may have (0: the limit).
    """

    def __init__(
        self,
        spec: ModelSpec,
        channels: int,
        classes: int,
        weights: int | None,
        large: bool = False,
        spare: float = SPARE,
        tensors: int = 0,
    ) -> None:
        super().__init__()
        self.spare, self.most = spare, tensors
        self.spec, self.channels, self.classes, self.weights = spec, channels, classes, weights
        self.parameters, self.tensors, self.copied, self.large, self.counts = 0, 0, 0, large, True
        self.thread = threading.get_ident()

    def __enter__(self) -> Any:
        self.hook = register_module_parameter_registration_hook(self._count)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.hook.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in MAKERS:
            size = args[0] if args and isinstance(args[0], (tuple, list)) else args
            if all(isinstance(side, int) for side in size):
                # Beside parameters, masks and the like are made.
                self._check(self.parameters + math.prod(size), limits().headroom / 4)
        if func is torch.Tensor.clone:  # copy.deepcopy of layers tells nobody
            self.copied += args[0].numel()
            self._check(self.copied, self.spare)
            self._check_tensors()
        return func(*args, **(kwargs or {}))

    def _count(self, module: nn.Module, name: str, parameter: Tensor | None) -> None:
        if self.counts and threading.get_ident() == self.thread and parameter is not None:
            self.parameters += parameter.numel()
            self._check(self.parameters, self.spare)
            self._check_tensors()
            if self.parameters > LARGE and not self.large:
                self._look_ahead()

    def _look_ahead(self) -> None:
        """Build the whole without memory, to know before it fills the machine whether it is too large."""
        self.large, self.counts = True, False
        try:
            with torch.random.fork_rng([]), torch.device("meta"), Bounds(*self._arguments, large=True):
                self.spec.build(self.channels, self.classes)
        except UserError:
            raise
        except Exception:  # it cannot be built like that
            return
        finally:
            self.counts = True

    @property
    def _arguments(self) -> tuple[ModelSpec, int, int, int | None]:
        return self.spec, self.channels, self.classes, self.weights

    def _check_tensors(self) -> None:
        self.tensors += 1
        if self.most and self.tensors > self.most:
            raise self._many_more()
        if not self.most:
            within("tensors of a network", "tensors", self.tensors, self.spec)

    def _check(self, parameters: int, spare: float) -> None:
        if self.weights is not None and parameters > self.weights + spare:
            raise self._many_more()
        within("parameters of a network", "parameters", parameters, self.spec)

    def _many_more(self) -> UserError:
        return UserError(
            f"expected a network of the {self.weights:,} weights that are there, got {self.spec}, which has many "
            "more; check the model and its width"
        )
