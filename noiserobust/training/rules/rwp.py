"""Random weight perturbation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from noiserobust.errors import UserError
from noiserobust.minima import Random
from noiserobust.noise import Gaussian, NoiseModel
from noiserobust.training.engine import Engine, Output
from noiserobust.training.micro_batches import AnyBatch
from noiserobust.training.rules.base import Method
from noiserobust.training.schedules import Progress, Schedule, check_strength, strength_at


@dataclass(frozen=True)
class RWP(Method, name="rwp"):
    r"""Training with noisy weights: every minibatch draws the noise anew and steps with the gradient found there.

    The step is :math:`\nabla L(w + e)`, e a draw of ``noise``.

    - ``noise``: any noise model; it perturbs the analog weights.
    - ``schedule``: factor on the noise's strength over training (``noise.scaled``), a number or a schedule.
      It also holds for noises that single layers have of their own (a table of settings by layer).
    - ``draws``: gradients of several draws are averaged per step.
    - ``antithetic``: draws come in pairs, w + e and w - e, so that what is odd in e cancels.

    There is one pass only, so normalisation statistics learn from it (from the first, with several draws).

    Cost: ``draws`` forward and backward passes, and the draws of the noise.
    Source: "Incorruptible Neural Networks" (arXiv 2602.07320), Eq. 2.
    """

    example: ClassVar[str] = "rwp:gaussian(0.1),schedule=quadratic(1.0)"

    shards: ClassVar[bool] = True

    noise: NoiseModel = field(default_factory=lambda: Gaussian(0.1))
    schedule: float | Schedule = 1.0
    draws: int = 1
    antithetic: bool = False

    def __post_init__(self) -> None:
        check_strength(self.name, "factor", self.schedule)
        if self.draws < 1:
            raise UserError(f"rwp: expected draws >= 1, got {self.draws}")
        if self.antithetic and self.draws % 2:
            raise UserError(f"rwp: expected an even number of antithetic draws, got {self.draws}: they come in pairs")

    def perturbation(self, progress: Progress) -> Random:
        factor = strength_at(self.schedule, progress)
        return Random(self.noise.scaled(factor), self.draws, own=factor)

    @property
    def passes(self) -> tuple[float, float]:
        return (float(self.draws), float(self.draws))

    def perturbed_step(self, engine: Engine, batch: AnyBatch, progress: Progress, perturbation: Random) -> Output:
        outputs = []
        for draw in range(self.draws):
            last = draw == self.draws - 1
            e, number = perturbation, draw
            if self.antithetic:
                number, second = divmod(draw, 2)
                e = replace(perturbation, mirrored=bool(second))
            with engine.perturbed(e, progress.step, number):
                outputs.append(engine.gradient(batch, weight=1 / self.draws, sync=last, norm_stats=draw == 0))
        engine.commit()
        return outputs[0]
