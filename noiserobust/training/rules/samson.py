"""Sharpness-aware minimisation scaled by outlier normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from noiserobust.errors import UserError
from noiserobust.minima import Ascent
from noiserobust.training.rules.sam import Climbing
from noiserobust.training.schedules import Progress, Schedule, strength_at


@dataclass(frozen=True)
class SAMSON(Climbing, name="samson"):
    r"""SAM that moves a weight in proportion to its share of the layer's largest one, as noise on arrays does.

    The step is the gradient at :math:`w + \rho\, T^2 g / \lVert T g \rVert_2`, one norm over all tensors, with
    :math:`T = |w| / \lVert w \rVert_p` in each tensor: a weight far below its layer's outliers hardly moves. It differs
    from ASAM by the norm, which makes layers of any scale alike.

    - ``rho``, ``perturb``, ``sync``: see :class:`Climbing`.
    - ``p``: norm of the layer's weights: ``inf``, the largest, or 2.
    - ``eta``: added to T, so that weights of 0 move, too; without it a bias that is 0 throughout stays where it is.

    Cost: two forward and two backward passes.
    Source: Mordido et al., "SAMSON: Sharpness-Aware Minimization Scaled by Outlier Normalization for Improving DNN
    Generalization and Robustness" (arXiv 2211.11561). The formula is from memory: of the paper only the abstract could
    be checked here, and there is no public code. T is that of every tensor, biases among them, which ASAM leaves at 1.
    """

    example: ClassVar[str] = "samson:0.5,p=2"

    rho: float | Schedule = 0.5
    p: Literal["inf", "2"] = "inf"
    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta < math.inf:
            raise UserError(f"samson: expected a finite eta >= 0, got {self.eta}")

    def perturbation(self, progress: Progress) -> Ascent:
        return Ascent(strength_at(self.rho, progress), self.perturb, eta=self.eta, p=float(self.p))
