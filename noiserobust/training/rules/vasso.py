"""Variance-suppressed sharpness-aware optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from noiserobust.analog.vectors import Vector, add, only, scale
from noiserobust.training.rules.averaged import Averaging


@dataclass(frozen=True)
class VaSSO(Averaging, name="vasso"):
    r"""SAM that climbs along a running mean of gradients, so that a single batch does not choose the direction.

    The step is the gradient at :math:`w + \rho\, d / \lVert d \rVert_2` with
    :math:`d \leftarrow (1 - \theta) d + \theta g`; the first step has d = g.

    - ``rho``, ``perturb``, ``sync``: see :class:`Climbing`; what earlier steps leave of d is averaged over ranks.
    - ``theta``: share of the present batch's gradient, 0.1 to 0.4; 1 is SAM.

    Cost: two forward and two backward passes, and one more copy of the gradient.
    Source: Li and Giannakis, "Enhancing Sharpness-Aware Optimization Through Variance Suppression" (arXiv 2309.15639),
    Eq. 5 and Algorithm 2.
    """

    example: ClassVar[str] = "vasso:0.1,theta=0.4"

    theta: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_share("theta", self.theta)

    @property
    def decay(self) -> float:
        return 1 - self.theta

    def mixed(self, gradient: Vector, mean: Vector) -> Vector:
        known = [m is not None for m in mean]
        scale(only(gradient, known), self.theta)
        return add(gradient, mean, 1 - self.theta)
