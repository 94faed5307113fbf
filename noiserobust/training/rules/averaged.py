"""What F-SAM and VaSSO share: they climb along more than the present batch's gradient."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from noiserobust.analog.vectors import Vector, add, clones, precise, scale
from noiserobust.errors import UserError
from noiserobust.training.engine import Engine
from noiserobust.training.rules.sam import Climbing


@dataclass(frozen=True)
class Averaging(Climbing):
    """Rules that climb along a mixture of the gradient g and the running mean m of earlier steps' gradients.

    m starts at the first gradient and becomes :math:`\\lambda m + (1 - \\lambda) g` after every step that the optimizer
    made. It is of gradients averaged over ranks; each rank mixes it with its own g.
    """

    @property
    @abstractmethod
    def decay(self) -> float:
        """lambda."""

    @abstractmethod
    def mixed(self, gradient: Vector, mean: Vector) -> Vector:
        """What is climbed along, in the memory of ``gradient``; ``mean`` is that of the steps before."""

    @property
    def visitable(self) -> bool:
        return False  # the mean is the run's

    def direction(self, engine: Engine, gradient: Vector) -> tuple[Vector, Vector | None]:
        # In units that do not follow the loss scale, which changes between steps.
        gradient = scale(precise(gradient), 1 / engine.loss_scale)
        mean = engine.recalled(engine.memory.get(self.name, []))
        new = clones(gradient)
        if not self.sync:
            new = engine.average(new)
        known = [m is not None for m in mean]
        # What has no mean yet (the first step, a layer just unfrozen) has its gradient as one.
        blend = [None if g is None else g * (1 - self.decay) if k else g for g, k in zip(new, known, strict=True)]
        following = add(blend, scale(clones(mean), self.decay))
        return self.mixed(gradient, mean), engine.remembered(following)

    def check_share(self, symbol: str, value: float) -> None:
        """Refuse what is no share."""
        if not 0 <= value <= 1:
            raise UserError(f"{self.name}: expected {symbol} in [0, 1], got {value}")
