"""Sharpness-aware minimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.training.engine import Engine, Gradients, Output
from noiserobust.training.method import Method
from noiserobust.training.schedules import Progress, Schedule, strength_at

TINY = 1e-12


@dataclass(frozen=True)
class SAM(Method, name="sam"):
    r"""Step with the gradient at :math:`w + \rho\, g / (\lVert g \rVert_2 + 10^{-12})`, one norm over all tensors.

    - ``rho``: the radius, a number or a schedule.
    - ``perturb``: ``all`` trainable parameters, or only the ``analog`` weights.
    - ``alpha``: weight of the clean gradient in the step, ``alpha g + (1 - alpha) g_p``.
    - ``sync``: under DDP, whether ranks average the ascent gradient; by default each climbs its own (m-sharpness).

    Normalisation statistics learn from the clean pass only. Source: Foret et al., "Sharpness-Aware Minimization for
    Efficiently Improving Generalization", Eq. 2 and 3; "Incorruptible Neural Networks", Eq. 1.
    """

    rho: float | Schedule = 0.05
    perturb: Literal["all", "analog"] = "all"
    alpha: float = 0.0
    sync: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.rho, Schedule) and not 0 <= self.rho < float("inf"):
            raise UserError(f"sam: expected a finite rho >= 0, got {self.rho}")
        if not 0 <= self.alpha <= 1:
            raise UserError(f"sam: expected alpha in [0, 1], got {self.alpha}")
        if self.perturb not in ("all", "analog"):
            raise UserError(f"sam: expected perturb all or analog, got {self.perturb!r}")

    def step(self, engine: Engine, batch: Batch | Sequence[Batch], progress: Progress) -> Output:
        rho = self.strength(progress)
        if rho == 0:
            return super().step(engine, batch, progress)
        out = engine.gradient(batch, sync=self.sync)
        clean = engine.take()
        if self.alpha:
            # Put back before the second pass: ranks then average both parts at once.
            engine.put([None if g is None else g.clone() for g in clean], weight=self.alpha)
        if self.perturb == "analog":
            clean = engine.only_analog(clean)
        with engine.moved(ascent(clean, rho)):
            engine.gradient(batch, norm_stats=False, weight=1 - self.alpha)
        engine.commit()
        return out

    def strength(self, progress: Progress) -> float:
        return strength_at(self.rho, progress)

    def cost(self, progress: Progress) -> tuple[float, float]:
        return (2.0, 2.0) if self.strength(progress) else (1.0, 1.0)


@torch.no_grad()
def ascent(gradients: Gradients, rho: float) -> Gradients:
    """``rho g / (||g|| + 1e-12)``, made in the gradients' own memory.

    It does not depend on the loss scale, so scaled gradients serve as they are.
    """
    present = [gradient for gradient in gradients if gradient is not None]
    if not present:
        raise UserError("sam: expected a trainable parameter to perturb, found none; use perturb=all or unfreeze some")
    # A norm of norms: squares of loss-scaled elements over all tensors could overflow where no single norm does.
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(present)))
    torch._foreach_mul_(present, rho / (norm + TINY))
    return gradients
