"""Surrogate-gap-guided sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from noiserobust.analog.vectors import add, along, clones, precise, scale, scale_to
from noiserobust.errors import UserError
from noiserobust.minima import Ascent
from noiserobust.training.engine import Engine, Output
from noiserobust.training.micro_batches import AnyBatch
from noiserobust.training.rules.sam import Climbing, check_m, climbed_apart


@dataclass(frozen=True)
class GSAM(Climbing, name="gsam"):
    r"""SAM that also narrows the gap between the perturbed and the clean loss.

    It descends the perturbed loss and ascends the part of the clean gradient that is orthogonal to it: the step is
    :math:`g_p - \alpha (g - \mathrm{proj}_{g_p} g)`, with SAM's g and g_p; ranks combine their own gradients and
    average the result once.

    - ``rho``, ``perturb``, ``sync``: see :class:`Climbing`.
    - ``alpha``: weight of the orthogonal part.
    - ``follow_lr``: rho falls with the learning rate, from ``rho`` at the rate's peak (:attr:`Engine.lr_share`) to
      ``rho_min`` at rate 0. Two passes are taken even where that makes it 0.
    - ``m``: every m samples climb their own gradient and combine it with their own :math:`g_p`, as in :class:`SAM`.

    Cost: two forward and two backward passes.
    Source: Zhuang et al., "Surrogate Gap Minimization Improves Sharpness-Aware Training" (arXiv 2203.08065),
    Algorithm 1.
    """

    example: ClassVar[str] = "gsam:0.05,alpha=0.4"

    alpha: float = 0.4
    follow_lr: bool = False
    rho_min: float = 0.0
    m: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_m("gsam", self.m)
        if not 0 <= self.alpha < float("inf"):
            raise UserError(f"gsam: expected a finite alpha >= 0, got {self.alpha}; 0.4 is usual")
        if not 0 <= self.rho_min < float("inf"):
            raise UserError(f"gsam: expected a finite rho_min >= 0, got {self.rho_min}")
        if self.rho_min and not self.follow_lr:
            raise UserError("gsam: expected follow_lr=true with rho_min, got false: without it rho has no lower end")

    def mixed_step(
        self, engine: Engine, batch: AnyBatch, perturbation: Ascent, clean: float, unit: bool = False
    ) -> Output:
        if self.follow_lr:
            rho = self.rho_min + (perturbation.rho - self.rho_min) * engine.lr_share
            perturbation = replace(perturbation, rho=rho)
        out = climbed_apart(
            *(engine, batch, self.m),
            lambda part, weight: self._gradient(engine, part, perturbation, clean, unit, weight),
        )
        engine.commit()
        return out.at(perturbation)

    def _gradient(
        self, engine: Engine, batch: AnyBatch, perturbation: Ascent, clean: float, unit: bool, weight: float | Tensor
    ) -> Output:
        """``weight`` times the update gradient."""
        out = engine.gradient(batch, sync=self.sync)
        gradient = precise(engine.take(share=clean * float(weight)))
        with engine.perturbed(perturbation, gradient=clones(gradient)):
            engine.gradient(batch, norm_stats=False, sync=self.sync)
        perturbed = precise(engine.take(share=(1 - clean) * float(weight)))
        # g_p - alpha (g - c g_p) = (1 + alpha c) g_p - alpha g
        share = along(gradient, perturbed)
        scale(perturbed, (1 + self.alpha * share) * (1 - clean))
        combined = add(perturbed, gradient, -self.alpha * (1 - clean))
        if clean:
            combined = add(combined, scale_to(gradient, engine.loss_scale) if unit else gradient, clean)
        # With sync both were averages already, and so is what was made of them.
        engine.put(combined if self.sync else engine.average(combined), weight=weight)
        return out
