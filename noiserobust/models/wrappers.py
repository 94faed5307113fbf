"""Networks inside wrappers, and names that do not depend on the wrapping."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from itertools import takewhile

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import UninitializedParameter

_WRAPPERS = {"DistributedDataParallel", "DataParallel", "AveragedModel"}
"""Classes whose child ``module`` is the network itself; by name, so that none need be imported."""
_MARKS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"}
"""Children that torch.compile, FSDP, checkpointing and PEFT put between a place and the layer that is there."""


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        if isinstance(model, (DistributedDataParallel, DataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


class Names:
    """The names of a network's weights: places in the network, not in its wrapping.

    ``Names(model)(path)`` is the name of the parameter, buffer or module at ``path`` (as ``unwrap(model)`` lists it):

    - the marks of wrappers around single layers are left out (``q.base_layer.weight`` is ``q.weight``);
    - so is what the paths of all parameters of two or more dimensions begin with: ``model.fc.weight`` is ``fc.weight``
      where ``model.`` leads to all of them. Vectors do not count there: a wrapper may bring loss weights of its own.

    A network has the same names by itself and wrapped, whatever is trained or included. Names of two parameters that
    would be the same are told apart by ``#2``.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = unwrap(model)
        self._outer = _path_of(self.model, model)
        places = {
            f"{path}.{attribute}" if path else attribute: parameter
            for path, module in self.model.named_modules()
            for attribute, parameter in module._parameters.items()
            if parameter is not None
        }
        bare = {path: self._bare(path) for path in places}
        matrices = [
            bare[path]
            for path, parameter in places.items()
            if isinstance(parameter, UninitializedParameter) or parameter.dim() > 1
        ]
        self._shared = reduce(_common, [_module(path) for path in matrices or bare.values()] or [[]])
        self._names: dict[str, str] = {}
        taken: Counter[str] = Counter()
        # First those within the network, so that what a wrapper adds does not change their names.
        for path in sorted(places, key=lambda path: -len(_common(bare[path], self._shared))):
            name = self._within(bare[path])
            taken[name] += 1
            self._names[path] = name if taken[name] == 1 else f"{name}#{taken[name]}"

    def __call__(self, path: str) -> str:
        return self._names.get(path) or self._within(self._bare(path))

    def spellings(self, path: str) -> set[str]:
        """All that a pattern may call the parameter at ``path``: its name, its path, and what the path is without some
        or all of the wrappers."""
        bare = self._bare(path)
        within = bare[: len(bare) - len(self._within(bare).split("."))]
        inner = {".".join(bare[start:]) for start in range(len(within) + 1)}
        return {self(path), path, f"{self._outer}{path}", *inner}

    def _within(self, bare: list[str]) -> str:
        return ".".join(bare[len(_common(bare, self._shared)) :])

    def _bare(self, path: str) -> list[str]:
        """The parts of ``path`` that are no marks of a wrapper."""
        parts: list[str] = []
        module: nn.Module | None = self.model
        saved = False  # PEFT's modules_to_save.ADAPTER stands for the layer that it replaces
        for part in path.split("."):
            saves = part == "modules_to_save" and hasattr(module, "original_module")
            wraps = part == "module" and any(kind.__name__ in _WRAPPERS for kind in type(module).__mro__)
            if not (saved or saves or wraps or part in _MARKS):
                parts.append(part)
            inner = None if module is None else module._modules  # of a scripted module it is no dictionary
            module, saved = inner[part] if inner is not None and part in inner else None, saves
        return parts


def _common(one: list[str], other: list[str]) -> list[str]:
    """What both begin with."""
    return [part for part, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def _module(path: list[str]) -> list[str]:
    """The path of the module that computes with a parameter; a parametrisation lies inside it."""
    return path[: path.index("parametrizations")] if "parametrizations" in path else path[:-1]


def _path_of(network: nn.Module, model: nn.Module) -> str:
    return next((f"{path}." for path, module in model.named_modules() if module is network and path), "")
