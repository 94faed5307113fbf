"""Efficient sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from noiserobust.analog.vectors import only
from noiserobust.errors import UserError
from noiserobust.minima import Ascent
from noiserobust.minima.subset import most_risen
from noiserobust.training.engine import Engine, Output
from noiserobust.training.micro_batches import AnyBatch
from noiserobust.training.rules.base import Method
from noiserobust.training.rules.sam import check_m, climbed_apart
from noiserobust.training.schedules import Progress, Schedule, check_strength, strength_at


@dataclass(frozen=True)
class ESAM(Method, name="esam"):
    r"""SAM at less cost: it perturbs a random choice of tensors (SWP) and steps on the samples hurt most by it (SDS).

    SWP: every tensor is chosen with probability beta (never none), the gradient at w is taken for the chosen ones only,
    and :math:`e = \rho\, g_S / (\beta \lVert g_S \rVert_2)`. SDS: of B samples exactly max(1, floor(gamma B)) are kept,
    those whose loss rose most from w to w + e (the first ones among equals); the step is their mean gradient at w + e.

    - ``rho``: the radius, a number or a schedule.
    - ``beta``: in (0, 1]; 1 is SDS alone. ``gamma``: in (0, 1]; 1 is SWP alone; both 1 are SAM.
    - ``scaling``: ``selected`` as above; ``full`` divides by the whole gradient's norm instead, so that the mean of e
      is exactly SAM's, at the price of a whole first backward pass; ``paper`` is Eq. 5 as printed,
      :math:`\rho\, g_S / ((1 - \beta) \lVert g \rVert_2)` with the norm of the whole gradient (the mean of e is SAM's
      only at beta 0.5).
    - ``m``: every m samples climb their own gradient and keep their own share, as in :class:`SAM`.

    Ranks choose the same tensors, each climbs its own gradient and keeps its own samples. Normalisation statistics
    learn from the pass at w only. The samples kept are re-packed into as few micro-batches as hold them.

    Cost: 2 + gamma forward passes (1 + gamma without SDS) and 1 + gamma backward. The pass that
    ranks the samples is a forward of the whole batch, so SDS alone pays only for gamma < 2/3 (1 + 1/3 + gamma < 2). A
    backward pass for a share beta of the weights still runs through all activations, about (1 + beta) / 2 of a whole
    one, which makes ESAM(beta .6, gamma .5) 1.7 of plain training by count.

    Source: Du et al., "Efficient Sharpness-aware Minimization for Improved Training of Neural Networks" (arXiv
    2110.03141), Eq. 5 and 6, Algorithm 1.
    """

    example: ClassVar[str] = "esam:0.05,beta=0.5"

    rho: float | Schedule = 0.05
    beta: float = 0.6
    gamma: float = 0.5
    scaling: Literal["selected", "full", "paper"] = "selected"
    m: int | None = None

    def __post_init__(self) -> None:
        check_strength(self.name, "rho", self.rho)
        check_m("esam", self.m)
        if not 0 < self.beta <= 1:
            raise UserError(f"esam: expected beta in (0, 1], got {self.beta}; 1 perturbs every tensor")
        if not 0 < self.gamma <= 1:
            raise UserError(f"esam: expected gamma in (0, 1], got {self.gamma}; 1 keeps every sample")
        if self.scaling == "paper" and self.beta == 1:
            raise UserError("esam: expected beta < 1 with scaling=paper, which divides by 1 - beta; use selected")

    def perturbation(self, progress: Progress) -> Ascent:
        return Ascent(strength_at(self.rho, progress))

    @property
    def visitable(self) -> bool:
        return self.beta == 1  # else other tensors move at every step

    @property
    def passes(self) -> tuple[float, float]:
        return (1 + self.gamma + (self.gamma < 1), 1 + self.gamma)

    def perturbed_step(self, engine: Engine, batch: AnyBatch, progress: Progress, perturbation: Ascent) -> Output:
        chosen = self.chosen(engine, progress.step)
        out = climbed_apart(
            engine, batch, self.m, lambda part, weight: self._gradient(engine, part, perturbation, chosen, weight)
        )
        engine.commit()
        return out

    def _gradient(
        self, engine: Engine, batch: AnyBatch, perturbation: Ascent, chosen: list[bool], weight: float | Tensor
    ) -> Output:
        """``weight`` times the update gradient."""
        whole = self.scaling != "selected"
        out = engine.gradient(batch, sync=False, wrt=None if whole or all(chosen) else chosen)
        share = 1 - self.beta if self.scaling == "paper" else self.beta
        ascent = replace(perturbation, rho=perturbation.rho / share)
        # Scaled before or after the choice: by the norm of the whole gradient, or of the chosen tensors.
        gradient = engine.take()
        step = only(ascent.step(engine.weights, gradient, engine.stream()) if whole else gradient, chosen)
        gradient.clear()
        if not whole and any(g is not None for g in step):  # else the loss reaches no tensor that was chosen: e = 0
            step = ascent.step(engine.weights, step, engine.stream())
        with engine.moved(step):
            rows = None
            if self.gamma < 1:
                rows = most_risen(engine.forward(batch).losses - out.losses, self.gamma)
            engine.gradient(batch, norm_stats=False, rows=rows, weight=weight)
        return out

    def chosen(self, engine: Engine, step: int) -> list[bool]:
        """Which parameters this step perturbs: named by seed and step, so every rank knows it; never none."""
        count, attempt = len(engine.parameters), 0
        while True:
            coins = engine.stream("swp", step, attempt).uniform((count,)) < self.beta
            if coins.any():
                return [bool(coin) for coin in coins.tolist()]
            attempt += 1
