"""Sharpness-aware minimisation: climb to w + e, step with the gradient found there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.minima import Ascent, Perturbation
from noiserobust.minima.vectors import Gradients, ascent, clones
from noiserobust.training.engine import Engine, Output
from noiserobust.training.parts import before
from noiserobust.training.rules.base import Method
from noiserobust.training.schedules import Progress, Schedule, strength_at


@dataclass(frozen=True)
class Climbing(Method):
    """Rules that climb by a step e made of the gradient g at w, and update with the gradient g_p at w + e.

    - ``rho``: the radius, a number or a schedule.
    - ``perturb``: ``all`` trainable parameters, or only the ``analog`` weights.
    - ``sync``: under DDP, whether ranks average g before they climb; by default each climbs its own (m-sharpness).

    A rule with another e than SAM's states it in :meth:`ascent`. Normalisation statistics learn from the clean pass.
    """

    rho: float | Schedule = 0.05
    perturb: Literal["all", "analog"] = "all"
    sync: bool = False

    def __post_init__(self) -> None:
        check_rho(self.name, self.rho)
        if self.perturb not in ("all", "analog"):
            raise UserError(f"{self.name}: expected perturb all or analog, got {self.perturb!r}")

    def ascent(self, engine: Engine, gradients: Gradients, rho: float, progress: Progress) -> Gradients:
        """The step e for a clean gradient, here SAM's; made in its memory. Must not depend on the gradients' scale."""
        return ascent(gradients, rho)

    def step(self, engine: Engine, batch: Batch | Sequence[Batch], progress: Progress) -> Output:
        return self.mixed_step(engine, batch, progress, 0.0)

    def mixed_step(
        self, engine: Engine, batch: Batch | Sequence[Batch], progress: Progress, clean: float, unit: bool = False
    ) -> Output:
        """Step with ``clean * g + (1 - clean) * (what the rule steps with)``; ``unit`` takes g / ||g|| for g."""
        rho = self.strength(progress)
        if rho == 0:
            return super().step(engine, batch, progress)
        out = engine.gradient(self.first(engine, batch), sync=self.sync)
        gradients = engine.take()
        if clean:
            # Put back before the second pass: ranks then average both parts at once.
            engine.put(unit_scaled(engine, clones(gradients)) if unit else clones(gradients), weight=clean)
        with engine.moved(self.climb(engine, gradients, rho, progress)):
            engine.gradient(batch, norm_stats=False, weight=1 - clean)
        engine.commit()
        return out

    def first(self, engine: Engine, batch: Batch | Sequence[Batch]) -> Batch | Sequence[Batch]:
        """The samples whose gradient is climbed, here the step's own."""
        return batch

    def climb(self, engine: Engine, gradients: Gradients, rho: float, progress: Progress) -> Gradients:
        """:meth:`ascent` on the parameters that are perturbed; uses the gradients up."""
        chosen = engine.only_analog(gradients) if self.perturb == "analog" else gradients
        return self.ascent(engine, chosen, rho, progress)

    def strength(self, progress: Progress) -> float:
        return strength_at(self.rho, progress)

    def perturbation(self, progress: Progress, m: int) -> Perturbation:
        if type(self).ascent is not Climbing.ascent:
            return super().perturbation(progress, m)
        return Ascent(self.strength(progress), self.perturb, m)

    def cost(self, progress: Progress) -> tuple[float, float]:
        return (2.0, 2.0) if self.strength(progress) else (1.0, 1.0)


@dataclass(frozen=True)
class SAM(Climbing, name="sam"):
    r"""Step with the gradient at :math:`w + \rho\, g / (\lVert g \rVert_2 + 10^{-12})`, one norm over all tensors.

    - ``rho``, ``perturb``, ``sync``: see :class:`Climbing`.
    - ``alpha``: weight of the clean gradient in the step, ``alpha g + (1 - alpha) g_p``.
    - ``batches``: g and g_p are of the ``same`` batch, or g of a ``different`` one, that of the step before (the first
      step uses its own twice), which undoes SAM: "Efficient Generalization Improvement Guided by Random Weight
      Perturbation", appendix C.

    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", Eq. 2 and 3;
    "Incorruptible Neural Networks", Eq. 1; mixing: "Revisiting Random Weight Perturbation", section 4.7.
    """

    example: ClassVar[str] = "sam:0.05"

    alpha: float = 0.0
    batches: Literal["same", "different"] = "same"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batches not in ("same", "different"):
            raise UserError(f"sam: expected batches same or different, got {self.batches!r}")
        if not 0 <= self.alpha <= 1:
            raise UserError(f"sam: expected alpha in [0, 1], got {self.alpha}")

    def step(self, engine: Engine, batch: Batch | Sequence[Batch], progress: Progress) -> Output:
        return self.mixed_step(engine, batch, progress, self.alpha)

    def first(self, engine: Engine, batch: Batch | Sequence[Batch]) -> Batch | Sequence[Batch]:
        return batch if self.batches == "same" else before(engine.own_memory, self.name, batch)

    def perturbation(self, progress: Progress, m: int) -> Perturbation:
        # The samples climbed are not those that a measure looks at.
        return super().perturbation(progress, m) if self.batches == "same" else Method.perturbation(self, progress, m)


def unit_scaled(engine: Engine, gradients: Gradients) -> Gradients:
    """``g / ||g||``, times the loss scale that :meth:`Engine.commit` takes out again."""
    return ascent(gradients, engine.loss_scale)


def check_rho(name: str, rho: float | Schedule) -> None:
    """Refuse a radius that is negative or not finite."""
    if not isinstance(rho, Schedule) and not 0 <= rho < float("inf"):
        raise UserError(f"{name}: expected a finite rho >= 0, got {rho}")
