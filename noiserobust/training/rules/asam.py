"""Adaptive sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from noiserobust.errors import UserError
from noiserobust.minima import Ascent
from noiserobust.training.rules.sam import Climbing
from noiserobust.training.schedules import Progress, Schedule, strength_at


@dataclass(frozen=True)
class ASAM(Climbing, name="asam"):
    r"""SAM whose neighbourhood is relative to each weight's size: large weights move further.

    The step is the gradient at :math:`w + \rho\, T^2 g / \lVert T g \rVert_2`, one norm over all tensors. T is
    :math:`|w| + \eta` element by element on weights and 1 on biases (parameters whose name says bias), so that the
    neighbourhood does not change when a layer is re-scaled.

    - ``rho``, ``perturb``, ``sync``: see :class:`Climbing`. On CIFAR-100 1.0 is usual.
    - ``eta``: keeps weights near 0 movable.

    Cost: two forward and two backward passes.
    Source: Kwon et al., "ASAM: Adaptive Sharpness-Aware Minimization" (arXiv 2102.11600), Eq. 8 and Algorithm 1.
    """

    example: ClassVar[str] = "asam:0.5"

    rho: float | Schedule = 0.5
    eta: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta < float("inf"):
            raise UserError(f"asam: expected a finite eta >= 0, got {self.eta}; 0.01 is usual")

    def perturbation(self, progress: Progress) -> Ascent:
        return Ascent(strength_at(self.rho, progress), self.perturb, eta=self.eta)
