"""Friendly sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from noiserobust.analog.vectors import Vector, add
from noiserobust.errors import UserError
from noiserobust.training.rules.averaged import Averaging


@dataclass(frozen=True)
class FSAM(Averaging, name="f-sam"):
    r"""SAM that climbs along the part of the gradient that is the batch's own, without that of all data.

    The step is the gradient at :math:`w + \rho\, d / \lVert d \rVert_2` with :math:`d = g - \sigma m`. The running mean
    of batch gradients, :math:`m \leftarrow \lambda m + (1 - \lambda) g`, stands for the gradient of all data. In the
    first step m is not known, and d = g.

    - ``rho``, ``perturb``, ``sync``: see :class:`Climbing`; m is of gradients averaged over ranks.
    - ``sigma``: share of m that is taken out. ``lam``: decay of m, 0.6 to 0.95.

    Cost: two forward and two backward passes, and one more copy of the gradient.
    Source: Li et al., "Friendly Sharpness-Aware Minimization" (arXiv 2403.12350), Eq. 9 and Algorithm 1. As in the
    authors' code d is taken with the mean before this batch; with the one after it (as printed) d is lambda times that
    for sigma 1, so that e is the same. As there m begins at the first gradient; the paper's begins at 0.
    """

    example: ClassVar[str] = "f-sam:0.1,lam=0.9"

    sigma: float = 1.0
    lam: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sigma < float("inf"):
            raise UserError(f"f-sam: expected a finite sigma >= 0, got {self.sigma}; 1 takes the mean out")
        self.check_share("lam", self.lam)

    @property
    def decay(self) -> float:
        return self.lam

    def mixed(self, gradient: Vector, mean: Vector) -> Vector:
        return add(gradient, mean, -self.sigma)
