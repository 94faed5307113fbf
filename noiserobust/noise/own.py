"""The noise that an aihwkit analog model brings itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.noise.base import Chip, NoiseModel
from noiserobust.rng import Stream


@dataclass(frozen=True)
class Own(NoiseModel, name="aihwkit"):
    """What an aihwkit analog model does itself: its tiles are programmed anew by their own noise models.

    Each draw is ``program_analog_weights``, each time ``drift_analog_weights`` with that ``t_inference``, compensated
    as the ``RPUConfig`` says. Only analog models of aihwkit have it, and only evaluation.
    """

    example: ClassVar[str] = "aihwkit"
    strength_field: ClassVar[str | None] = None

    @property
    def strength(self) -> float:
        """1: it is what it is."""
        return 1.0

    def scaled(self, factor: float) -> Own:
        if factor != 1:
            raise UserError(f"expected noise aihwkit as it is, got {factor} times it; scale it in the RPUConfig")
        return self

    def write(self, below: Chip, clean: Tensor, stream: Stream) -> Chip:
        raise UserError(
            "expected an analog model of aihwkit alone with noise aihwkit, which is its own, got a network of plain "
            "weights or another use; name a noise such as pcm"
        )
