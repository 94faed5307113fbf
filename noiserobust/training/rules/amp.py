"""Adversarial model perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from noiserobust.analog.vectors import Vector, add, clones, divisor, precise, scale
from noiserobust.errors import UserError
from noiserobust.minima import Ascent
from noiserobust.training.engine import Engine, Output
from noiserobust.training.micro_batches import AnyBatch
from noiserobust.training.rules.sam import Climbing
from noiserobust.training.schedules import Progress, Schedule


@dataclass(frozen=True)
class AMP(Climbing, name="amp"):
    r"""Gradient ascent within a ball: it climbs by the gradient itself, and only a longer way is cut to the radius.

    From e = 0 on, ``steps`` times :math:`e \leftarrow e + \zeta\, g(w + e)`, and where e is longer than rho
    :math:`e \leftarrow \rho\, e / \lVert e \rVert_2`. The step is the gradient at w + e. SAM always climbs the whole
    radius; here e vanishes with the gradient.

    - ``rho``, ``perturb``, ``sync``: see :class:`Climbing`.
    - ``zeta``: rate of the ascent. ``steps``: how often it climbs.
    - ``layerwise``: every tensor has a ball of its own, as in the authors' code.

    Cost: 1 + steps forward and backward passes.
    Source: Zheng et al., "Regularizing Neural Networks via Adversarial Model Perturbation" (arXiv 2010.04925),
    Algorithm 1.
    """

    example: ClassVar[str] = "amp:0.5,zeta=1.0"

    rho: float | Schedule = 0.5
    zeta: float = 1.0
    steps: int = 1
    layerwise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.zeta < float("inf"):
            raise UserError(f"amp: expected a finite rate zeta > 0, got {self.zeta}; 1 is usual")
        if self.steps < 1:
            raise UserError(f"amp: expected steps >= 1, got {self.steps}")

    @property
    def visitable(self) -> bool:
        return False  # how long e is follows the gradient

    @property
    def passes(self) -> tuple[float, float]:
        return (1.0 + self.steps, 1.0 + self.steps)

    def perturbed_step(self, engine: Engine, batch: AnyBatch, progress: Progress, perturbation: Ascent) -> Output:
        out = engine.gradient(batch, sync=self.sync)
        e: Vector = [None] * len(engine.parameters)
        for step in range(1, self.steps + 1):
            climbed = engine.weights.only(precise(engine.take()), self.perturb)
            e = self.within(add(scale(climbed, self.zeta / engine.loss_scale), e), perturbation.rho)
            with engine.moved(clones(e)):
                engine.gradient(batch, norm_stats=False, sync=self.sync or step == self.steps)
        engine.commit()
        return out

    def within(self, e: Vector, rho: float) -> Vector:
        """``e``, in its own memory, cut to the ball."""
        parts: list[Vector] = [[v] for v in e if v is not None] if self.layerwise else [e]
        for part in parts:
            if any(v is not None for v in part):
                scale(part, (rho / divisor(part)).clamp(max=1.0))
        return e
