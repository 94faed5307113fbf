"""A training method decides which gradients are taken; the engine knows how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from noiserobust.data.batches import Batch
from noiserobust.text import Described
from noiserobust.training.engine import Engine, Output
from noiserobust.training.schedules import Progress


@dataclass(frozen=True)
class Method(Described, family="method"):
    """One training step as a few lines of "gradient here, gradient there, combine"."""

    def step(self, engine: Engine, batch: Batch | Sequence[Batch], progress: Progress) -> Output:
        """Take the gradients this method wants and commit once; the clean pass's output (or the only one's)."""
        out = engine.gradient(batch)
        engine.commit()
        return out

    def strength(self, progress: Progress) -> float:
        """The size of this step's perturbation, for the log; 0 costs a plain step."""
        return 0.0

    def cost(self, progress: Progress) -> tuple[float, float]:
        """Expected forward and backward passes of this step."""
        return (1.0, 1.0)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beyond the settings."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave."""


@dataclass(frozen=True)
class Plain(Method, name="plain"):
    """Training without perturbation: the gradient at w."""
