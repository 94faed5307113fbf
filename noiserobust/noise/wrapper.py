"""The base of noises around another noise: a weight is stored in further chips, which hold it together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from noiserobust.noise.base import Chip, NoiseModel
from noiserobust.rng import Stream


@dataclass(frozen=True)
class Wrapper(NoiseModel):
    """A noise around the noise of single cells. Its text form has parentheses, ``cells(pcm,number=4)``."""

    strength_field: ClassVar[str | None] = "noise"
    enclosed: ClassVar[bool] = True

    noise: NoiseModel


class Assembly(Chip):
    r"""A weight that chips of their own, its ``parts``, store together.

    What is seen is ``below`` plus ``strength`` (join(parts) - target), where the target is what ``below`` held when the
    parts were programmed. Gradients pass straight through.
    """

    def __init__(
        self,
        below: Chip,
        target: Tensor,
        parts: Sequence[Chip],
        join: Callable[[list[Tensor]], Tensor],
        strength: float = 1.0,
    ) -> None:
        super().__init__(below.weight)
        self.below, self.target, self.parts, self.join, self.strength = below, target, parts, join, strength
        self.tile = parts[0].tile or below.tile
        self.scale = below.scale if parts[0].scale is None else parts[0].scale

    def read(self, stream: Stream, t: float | None = None) -> Tensor:
        parts = [part.read(stream.child("part", index), t) for index, part in enumerate(self.parts)]
        return self._seen(self.below.read(stream.child("below"), t), parts)

    def programmed(self) -> Tensor:
        return self._seen(self.below.programmed(), [part.programmed() for part in self.parts])

    @torch.no_grad()
    def _deviation(self, parts: list[Tensor]) -> Tensor:
        return self.strength * (self.join(parts) - self.target)

    def _seen(self, below: Tensor, parts: list[Tensor]) -> Tensor:
        return below + self._deviation(parts)


def stored(below: Chip) -> Tensor:
    """What ``below`` holds for the next stage to store: a constant for autograd, in one memory format."""
    return below.programmed().detach().contiguous()
