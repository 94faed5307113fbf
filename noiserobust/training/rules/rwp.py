"""Random weight perturbation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.minima import Perturbation, Random
from noiserobust.noise import Gaussian, NoiseModel
from noiserobust.training.engine import Engine, Output
from noiserobust.training.rules.base import Method
from noiserobust.training.schedules import Progress, Schedule, strength_at


@dataclass(frozen=True)
class RWP(Method, name="rwp"):
    """Step with the gradient at w + e, e drawn anew from ``noise`` for every minibatch.

    - ``noise``: any noise model; it perturbs the analog weights.
    - ``schedule``: factor on the noise's strength over training (``noise.scaled``), a number or a schedule.
    - ``draws``: gradients of several draws are averaged per step.

    There is one pass only, so normalisation statistics learn from it (from the first, with several draws).
    Source: "Incorruptible Neural Networks", Eq. 2.
    """

    example: ClassVar[str] = "rwp:gaussian(0.1),schedule=quadratic(1.0)"

    noise: NoiseModel = field(default_factory=lambda: Gaussian(0.1))
    schedule: float | Schedule = 1.0
    draws: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule) and not 0 <= self.schedule < float("inf"):
            raise UserError(f"rwp: expected a finite factor >= 0 as schedule, got {self.schedule}")
        if self.draws < 1:
            raise UserError(f"rwp: expected draws >= 1, got {self.draws}")

    def step(self, engine: Engine, batch: Batch | Sequence[Batch], progress: Progress) -> Output:
        factor = strength_at(self.schedule, progress)
        noise = self.noise.scaled(factor)
        if noise.is_identity:
            return super().step(engine, batch, progress)
        outputs = []
        for draw in range(self.draws):
            last = draw == self.draws - 1
            with engine.noisy(noise, progress.step, draw):
                outputs.append(engine.gradient(batch, weight=1 / self.draws, sync=last, norm_stats=draw == 0))
        engine.commit()
        return outputs[0]

    def strength(self, progress: Progress) -> float:
        return self.noise.strength * strength_at(self.schedule, progress)

    def perturbation(self, progress: Progress, m: int) -> Perturbation:
        return Random(self.noise.scaled(strength_at(self.schedule, progress)), self.draws, m=m)

    def cost(self, progress: Progress) -> tuple[float, float]:
        passes = float(self.draws) if self.strength(progress) else 1.0
        return (passes, passes)
