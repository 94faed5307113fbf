"""Digital factors of compensated weights: what the outputs of their crossbars are multiplied by, after the ADC.

While a layer's weight is compensated its parameter holds what the array gives times the factor. A layer without
converters computes with that; converters take the factor out of the output, and put it back behind the ADC.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from torch import Tensor, nn

_FACTORS: WeakKeyDictionary[nn.Module, dict[str, Tensor]] = WeakKeyDictionary()


def set_factor(layer: nn.Module, attribute: str, factor: Tensor | None) -> Callable[[], None]:
    """Say what factor, (outputs, inputs...), is in the weight of ``layer`` (None: none); gives what undoes it."""
    held = _FACTORS.setdefault(layer, {})
    before = held.pop(attribute, None)
    if factor is not None:
        held[attribute] = _compact(factor)

    def undo() -> None:
        held.pop(attribute, None)
        if before is not None:
            held[attribute] = before

    return undo


def has_factor(layer: nn.Module, attribute: str) -> bool:
    """Whether a factor is in the weight of ``layer``."""
    return attribute in _FACTORS.get(layer, {})


def gain_of(layer: nn.Module, attribute: str, inputs: slice) -> Tensor | None:
    """(outputs,): what the outputs of a crossbar that holds these ``inputs`` of the weight are multiplied by; None:
    nothing. Where its inputs had several factors, of crossbars that were cut otherwise, it is their mean."""
    factor = _FACTORS.get(layer, {}).get(attribute)
    if factor is None:
        return None
    return factor[:, 0] if factor.shape[1] == 1 else _compact(factor[:, inputs]).mean(1)


def _compact(factor: Tensor) -> Tensor:
    """``factor`` as (outputs, inputs), or as (outputs, 1) where all inputs have the same."""
    flat = factor.flatten(1) if factor.dim() > 1 else factor[:, None]
    first = flat[:, :1]
    return first.clone() if bool((flat == first).all()) else flat
