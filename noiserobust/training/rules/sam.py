"""Sharpness-aware minimisation: climb to w + e, step with the gradient taken there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from noiserobust.analog.vectors import Vector, clones, precise, scale_to
from noiserobust.errors import UserError
from noiserobust.minima import Ascent
from noiserobust.training.engine import Engine, Output
from noiserobust.training.micro_batches import AnyBatch, as_list, only_rows, previous
from noiserobust.training.objective import joined
from noiserobust.training.rules.base import Method
from noiserobust.training.schedules import Progress, Schedule, check_strength, strength_at


@dataclass(frozen=True)
class Climbing(Method):
    """Rules that climb by a step e made of the gradient g at w, and update with the gradient g_p at w + e.

    - ``rho``: the radius, a number or a schedule.
    - ``perturb``: ``all`` trainable parameters, or only the ``analog`` weights.
    - ``sync``: under DDP, whether ranks average g before they climb; by default each climbs its own (m-sharpness).

    Normalisation statistics learn from the clean pass.
    """

    rho: float | Schedule = 0.05
    perturb: Literal["all", "analog"] = "all"
    sync: bool = False

    def __post_init__(self) -> None:
        check_strength(self.name, "rho", self.rho)

    def perturbation(self, progress: Progress) -> Ascent:
        return Ascent(strength_at(self.rho, progress), self.perturb)

    @property
    def passes(self) -> tuple[float, float]:
        return (2.0, 2.0)

    def perturbed_step(self, engine: Engine, batch: AnyBatch, progress: Progress, perturbation: Ascent) -> Output:
        return self.mixed_step(engine, batch, perturbation, 0.0)

    def mixed_step(
        self, engine: Engine, batch: AnyBatch, perturbation: Ascent, clean: float, unit: bool = False
    ) -> Output:
        """Step with ``clean * g + (1 - clean) * (what the rule steps with)``; ``unit`` takes g / ||g|| for g (times the
        loss scale, which the engine takes out again)."""
        out, memory = self.mixed_gradient(engine, batch, perturbation, clean, unit)
        # A step that was skipped, or that failed, is not remembered.
        if engine.commit() and memory is not None:
            engine.memory[self.name] = memory
        return out

    def mixed_gradient(
        self,
        engine: Engine,
        batch: AnyBatch,
        perturbation: Ascent,
        clean: float,
        unit: bool = False,
        weight: float | Tensor = 1.0,
    ) -> tuple[Output, Vector | None]:
        """``weight`` times the gradient of :meth:`mixed_step`; what later steps remember."""
        out = engine.gradient(self.climbed(engine, batch), sync=self.sync)
        gradient = engine.take(share=clean * float(weight))
        if clean:
            # Put back before the second pass: ranks then average both parts at once.
            part = precise(clones(gradient))
            engine.put(scale_to(part, engine.loss_scale) if unit else part, weight=clean * weight)
        direction, memory = self.direction(engine, gradient)
        with self.climb(engine, direction, perturbation):
            engine.gradient(batch, norm_stats=False, weight=(1 - clean) * weight)
        return out, memory

    def climbed(self, engine: Engine, batch: AnyBatch) -> AnyBatch:
        """The samples whose gradient is climbed, here those of the step."""
        return batch

    def direction(self, engine: Engine, gradient: Vector) -> tuple[Vector, Vector | None]:
        """What is climbed along, here the gradient itself, and what later steps remember of it."""
        return gradient, None

    def climb(self, engine: Engine, gradient: Vector, perturbation: Ascent) -> AbstractContextManager[None]:
        """Inside, the weights are at w + e; uses ``gradient`` up."""
        return engine.perturbed(perturbation, gradient=gradient)


def check_m(rule: str, m: int | None) -> None:
    """Refuse a number of samples that none of could climb."""
    if m is not None and m < 1:
        raise UserError(f"{rule}: expected m >= 1 samples that climb together, got {m}")


def climbed_apart(
    engine: Engine, batch: AnyBatch, m: int | None, gradient: Callable[[AnyBatch, float | Tensor], Output]
) -> Output:
    """The update gradient where every ``m`` samples climb by themselves, as those of one card do (all without m).

    ``gradient(part, weight)`` adds that of a part, weighed by its share of the batch.
    """
    if m is None:
        return gradient(batch, 1.0)
    if engine.ranks.count > 1:
        raise UserError(f"expected m on one process, got {engine.ranks.count}; ranks climb their own samples anyway")
    micro, outputs = as_list(batch), list[Output]()
    samples = torch.arange(sum(len(part) for part in micro), device=engine.device)
    units = engine.objective.units
    for rows in samples.split(m):
        part = only_rows(micro, rows)
        before = engine.take(share=1.0) if outputs else None  # else the next part would climb it, too
        outputs.append(gradient(part, units(part) / units(micro)))
        if before is not None:
            engine.put(before)
    return joined(outputs)


@dataclass(frozen=True)
class SAM(Climbing, name="sam"):
    r"""Sharpness-aware minimisation: climb to the worst weights nearby, step with the gradient there.

    The step is the gradient at :math:`w + \rho\, g / (\lVert g \rVert_2 + 10^{-12})`, one norm over all tensors.

    - ``rho``, ``perturb``, ``sync``: see :class:`Climbing`.
    - ``alpha``: weight of the clean gradient in the step, ``alpha g + (1 - alpha) g_p``.
    - ``batches``: g and g_p are of the ``same`` batch, or g of a ``different`` one, that of the step before (the first
      step takes one batch for both), which undoes SAM: "Efficient Generalization Improvement Guided by Random Weight
      Perturbation" (arXiv 2211.11489), appendix C.
    - ``m``: every m samples climb their own gradient and are normalised by their own statistics (m-sharpness, section
      4.1 of Foret et al.), as those of one card are where several share a batch; by default all of a process climb
      together.

    Cost: two forward and two backward passes.
    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization" (arXiv 2010.01412),
    Eq. 2 and 3; "Incorruptible Neural Networks" (arXiv 2602.07320), Eq. 1; ``alpha``: arXiv 2211.11489, section 4.7.
    """

    example: ClassVar[str] = "sam:0.05"

    alpha: float = 0.0
    batches: Literal["same", "different"] = "same"
    m: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_m("sam", self.m)
        if self.m is not None and self.batches == "different":
            raise UserError("sam: expected m with batches=same, got different")
        if not 0 <= self.alpha <= 1:
            raise UserError(f"sam: expected alpha in [0, 1], got {self.alpha}")

    @property
    def visitable(self) -> bool:
        return self.batches == "same"  # else the samples climbed are not those that a measure sees

    def perturbed_step(self, engine: Engine, batch: AnyBatch, progress: Progress, perturbation: Ascent) -> Output:
        return self.mixed_step(engine, batch, perturbation, self.alpha)

    def mixed_step(
        self, engine: Engine, batch: AnyBatch, perturbation: Ascent, clean: float, unit: bool = False
    ) -> Output:
        out = climbed_apart(
            *(engine, batch, self.m),
            lambda part, weight: self.mixed_gradient(engine, part, perturbation, clean, unit, weight)[0],
        )
        engine.commit()
        return out

    def climbed(self, engine: Engine, batch: AnyBatch) -> AnyBatch:
        return batch if self.batches == "same" else previous(engine.own_memory, self.name, batch)
