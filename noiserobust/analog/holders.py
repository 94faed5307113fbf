"""Parameters and layers replaced while noise is in the weights: refused, since what took their place keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import is_
from typing import Any, NamedTuple

from torch import nn
from torch.nn.utils import parametrize

from noiserobust.analog.openings import Opening
from noiserobust.errors import UserError


class _Place(NamedTuple):
    path: str
    module: nn.Module
    held: dict[str, Any]
    """The module's parameters, buffers or children."""
    name: str
    analog: bool
    """Whether it holds an analog weight, or a layer with one."""


class Holders:
    """Where ``model`` holds its parameters, buffers and layers; some ``parameters`` are noisy, in layers ``owners``."""

    def __init__(self, model: nn.Module, parameters: Sequence[Any], owners: Sequence[nn.Module]) -> None:
        known = set(map(id, (*parameters, *owners)))
        self.model = model
        self._places = [
            _Place(f"{path}.{name}" if path else name, module, held, name, _holds(one, known))
            for path, module in model.named_modules()
            for held in (module._parameters, module._buffers, module._modules)
            if isinstance(held, dict)  # else of a scripted module
            for name, one in held.items()
        ]

    def watch(self, opening: Opening) -> None:
        """When ``opening`` closes after an analog weight was replaced: everything is put back, and
        :class:`~noiserobust.UserError`."""
        opening.callback(partial(self._check, self._held()))

    def _held(self) -> list[Any]:
        return [held.get(name) for _, _, held, name, _ in self._places]

    def _check(self, before: Sequence[Any]) -> None:
        if all(map(is_, self._held(), before)):  # as nearly always, at every draw
            return
        pairs = list(zip(self._places, before, strict=True))
        lost = [place.path for place, one in pairs if place.analog and self._is_lost(place, one)]
        if not lost:
            return
        for place, one in pairs:
            if place.name not in place.held and parametrize.is_parametrized(place.module, place.name):
                parametrize.remove_parametrizations(place.module, place.name, leave_parametrized=True)
            place.held.pop(place.name, None)  # put back in the order of before
            place.held[place.name] = one
        raise replaced(lost)

    def _is_lost(self, place: _Place, one: Any) -> bool:
        now = place.held.get(place.name)
        if now is None and isinstance(one, nn.Module):
            return False  # a layer that was taken away took its noise with it
        if isinstance(now, nn.Module):
            return one not in now.modules()  # else it is wrapped
        # One that has another name now, as in torch's prune, holds the clean values again.
        return now is not one and (now is not None or all(one is not other for other in self.model.parameters()))


def replaced(names: Sequence[str]) -> UserError:
    """What is said of parameters and layers of these names."""
    few = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return UserError(
        f"expected the weights that noise was put on until it is taken away, got others in place of {few} "
        "(load_state_dict(assign=True), a new nn.Parameter or layer); the clean ones are back: replace them outside"
    )


def _holds(one: Any, known: set[int]) -> bool:
    if isinstance(one, nn.Module):
        return any(id(module) in known for module in one.modules())
    return id(one) in known
