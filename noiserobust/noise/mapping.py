"""How a weight becomes conductances: as a difference of two devices, or as one device against a reference.

x is a weight relative to the scale of its group, within [-1, 1]; g_min and g_max are the ends of the range in use.
Sources: Xiao et al., "On the accuracy of analog neural network inference accelerators", arXiv:2109.01262 (differential
and offset mapping compared); Shafiee et al., "ISAAC", ISCA 2016 (a bias that is subtracted from every output).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.reference import even_split

Mapping = Literal["pair", "offset", "offset-column"]


class Pair:
    """The difference of two devices, of which one is meant to be at g_min: g = g_min + (g_max - g_min) max(±x, 0)."""

    def __init__(self, g_min: float, g_max: float, columns: int | None = None) -> None:
        self.g_min, self.g_max, self.columns = g_min, g_max, columns

    def split(self, x: Tensor) -> list[Tensor]:
        """The target conductances of the devices that store ``x``."""
        return [self.g_min + (sign * x).clamp(0, 1) * (self.g_max - self.g_min) for sign in (1, -1)]

    def join(self, conductances: list[Tensor]) -> Tensor:
        """The inverse of :meth:`split`."""
        positive, negative = conductances
        return (positive - negative) / (self.g_max - self.g_min)


class Offset(Pair):
    """One device per weight, g = g_min + (g_max - g_min) (x + 1) / 2; the constant is subtracted without an error."""

    def split(self, x: Tensor) -> list[Tensor]:
        return [self.g_min + (x.clamp(-1, 1) + 1) / 2 * (self.g_max - self.g_min)]

    def join(self, conductances: list[Tensor]) -> Tensor:
        return 2 * (conductances[0] - self.g_min) / (self.g_max - self.g_min) - 1


class OffsetColumn(Offset):
    """One device per weight, and one column of a crossbar that is subtracted from all others.

    The column's devices are programmed to the middle of the range. Their errors are those of a whole input line.
    """

    def split(self, x: Tensor) -> list[Tensor]:
        middle = torch.full_like(x[: len(self._crossbars(x))] if x.dim() > 1 else x, (self.g_min + self.g_max) / 2)
        return [*super().split(x), middle]

    def join(self, conductances: list[Tensor]) -> Tensor:
        weights, column = conductances
        if weights.dim() > 1:
            parts = self._crossbars(weights)
            column = torch.cat([column[i : i + 1].expand_as(weights[part]) for i, part in enumerate(parts)])
        return 2 * (weights - column) / (self.g_max - self.g_min)

    def _crossbars(self, x: Tensor) -> list[slice]:
        """The outputs of each crossbar; one holds all of them where ``columns`` is None."""
        return list(even_split(len(x), self.columns or len(x)))


MAPPINGS: dict[str, Callable[[float, float, int | None], Pair]] = {
    "pair": Pair,
    "offset": Offset,
    "offset-column": OffsetColumn,
}


def check_mapping(name: str, mapping: str, on_off: float | None, g_max: float | None) -> None:
    """Refuse a mapping that there is none of, and an on/off ratio or a largest conductance that leave no range."""
    if mapping not in get_args(Mapping):
        raise UserError(f"{name}: expected mapping {', '.join(get_args(Mapping))}, got {mapping!r}")
    if on_off is not None and not 1 < on_off < float("inf"):
        raise UserError(f"{name}: expected an on/off ratio on_off > 1, g_max / g_min, got {on_off}")
    if g_max is not None and not 0 < g_max < float("inf"):
        raise UserError(f"{name}: expected a finite g_max > 0 (µS, or the unit of the table), got {g_max}")


def range_in_use(
    name: str, device: tuple[float, float], on_off: float | None, g_max: float | None
) -> tuple[float, float]:
    """g_min and g_max of the range in use: the ``device``'s own, or ``g_max`` and g_max / ``on_off``, within them."""
    least, most = device
    high = most if g_max is None else g_max
    if not least < high <= most * (1 + 1e-9):
        raise UserError(f"{name}: expected g_max above {least:g} and up to {most:g}, the device's own, got {g_max}")
    low = least if on_off is None else high / on_off
    if low < least * (1 - 1e-9):
        raise UserError(
            f"{name}: expected an on/off ratio on_off of at most that of the device, {high / least:.6g}, got {on_off}"
        )
    return low, high
