"""A training method decides which gradients are taken; the engine knows how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.minima import Perturbation, Unperturbed
from noiserobust.spec import Described
from noiserobust.training.engine import Engine, Output
from noiserobust.training.schedules import Progress


@dataclass(frozen=True)
class Method(Described, family="method"):
    """One training step as a few lines of "gradient here, gradient there, combine".

    A method is its settings and never changes; what a run must remember from step to step lies in ``engine.memory``.
    """

    every_step: ClassVar[bool] = False
    """Whether the method must see every step of a run, so that a coin cannot leave any out."""

    def prepare(self, engine: Engine) -> None:
        """Lay out what the run will remember, before it starts (the first step does it, too)."""

    def step(self, engine: Engine, batch: Batch | Sequence[Batch], progress: Progress) -> Output:
        """Take the gradients this method wants and commit once; the clean pass's output (or the only one's)."""
        out = engine.gradient(batch)
        engine.commit()
        return out

    def strength(self, progress: Progress) -> float:
        """The size of this step's perturbation, for the log; 0 costs a plain step."""
        return 0.0

    def perturbation(self, progress: Progress, m: int) -> Perturbation:
        """Where this step's update gradient is taken, batches being of ``m`` samples: what a log calls ``training``.

        Raises :class:`~noiserobust.UserError` for a rule whose point cannot be found apart from its step.
        """
        if type(self).step is not Method.step:
            raise UserError(
                f"expected a rule whose update gradient's point is known to measures, got {self.name}; "
                "name a perturbation in place of training, such as ascent(0.05)"
            )
        return Unperturbed(m)

    def cost(self, progress: Progress) -> tuple[float, float]:
        """Expected forward and backward passes of this step, in units of one over the whole batch."""
        return (1.0, 1.0)


@dataclass(frozen=True)
class Plain(Method, name="plain"):
    """Training without perturbation: the gradient at w."""

    example: ClassVar[str] = "plain"
