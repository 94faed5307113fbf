"""Adaptive random weight perturbation: less noise where gradients have been large."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Literal

from noiserobust.analog.filters import filter_noise
from noiserobust.analog.vectors import Vector, add, clones, multiply, precise, scale
from noiserobust.errors import UserError
from noiserobust.minima import Filters
from noiserobust.training.engine import Engine, Output
from noiserobust.training.micro_batches import AnyBatch, previous
from noiserobust.training.rules.base import Method
from noiserobust.training.schedules import Progress, Schedule, check_strength, strength_at


@dataclass(frozen=True)
class ARWP(Method, name="arwp"):
    r"""Training with filter-wise noise that is smaller where squared gradients have summed up.

    The step is the gradient at w + e with :math:`e_k \sim N(0, (\gamma \lVert w_k \rVert_2)^2 / (1 + \eta F_k))` for
    every filter k. After every step :math:`F \leftarrow \beta F + g_p^2`, element by element, g_p being that gradient;
    F_k is the sum over the filter. In a parameter of a single dimension, which is one filter, every element has its own
    F. The first step has F = 0.

    - ``gamma``: size of the noise, a number or a schedule. It perturbs every parameter.
    - ``eta``: how much the history counts. ``beta``: its decay; it is a sum, so 1 - beta is no factor on g_p.

    F is of gradients averaged over ranks, and of no step that loss scaling skipped. There is one pass only, so
    normalisation statistics learn from it.

    Cost: one forward and one backward pass, and a copy of the network.
    Source: Li et al., "Revisiting Random Weight Perturbation for Efficiently Improving Generalization" (arXiv
    2404.00357), and the authors' code, which sums F as above.
    """

    example: ClassVar[str] = "arwp:0.01,eta=1.0,beta=0.9"

    gamma: float | Schedule = 0.01
    eta: float = 1.0
    beta: float = 0.9

    def __post_init__(self) -> None:
        check_strength(self.name, "gamma", self.gamma)
        if not 0 <= self.eta < float("inf"):
            raise UserError(f"{self.name}: expected a finite eta >= 0, got {self.eta}; 0 is noise without a history")
        if not 0 <= self.beta <= 1:
            raise UserError(f"{self.name}: expected beta in [0, 1], got {self.beta}")

    def perturbation(self, progress: Progress) -> Filters:
        return Filters(strength_at(self.gamma, progress), draws=1)

    @property
    def visitable(self) -> bool:
        return False  # the history is the run's

    def perturbed_step(self, engine: Engine, batch: AnyBatch, progress: Progress, perturbation: Filters) -> Output:
        with self.moved(engine, progress, perturbation):
            out = engine.gradient(batch)
        noisy = engine.take()
        history = self.following(engine, noisy)
        engine.put(noisy)
        self.commit(engine, history)
        return out

    def moved(self, engine: Engine, progress: Progress, perturbation: Filters) -> AbstractContextManager[None]:
        """Inside, the weights are at w + e."""
        stream = engine.stream("filters", progress.step)
        history = engine.recalled(engine.memory.get(self.name, []))
        return engine.moved(filter_noise(engine.weights, perturbation.gamma, stream, history, self.eta))

    def following(self, engine: Engine, gradient: Vector) -> Vector:
        """F after a step with ``gradient``."""
        history = scale(clones(engine.recalled(engine.memory.get(self.name, []))), self.beta)
        unscaled = scale(precise(clones(gradient)), 1 / engine.loss_scale)
        return add(multiply(unscaled, unscaled), history)

    def commit(self, engine: Engine, history: Vector) -> None:
        """Step; what the step was made with is remembered if it was made."""
        kept = engine.remembered(history)
        if engine.commit():
            engine.memory[self.name] = kept


@dataclass(frozen=True)
class MixedARWP(ARWP, name="arwp-mixed"):
    r"""ARWP mixed with the clean gradient: m-ARWP.

    The step is :math:`\alpha\, \nabla L_1(w) + (1 - \alpha) g_p`.

    - ``gamma``, ``eta``, ``beta``: see :class:`ARWP`; g_p is taken as it is, without its weight.
    - ``alpha``: weight of the *clean* gradient (the paper's lambda weighs the noisy one).
    - ``batches``: the batch of the noisy gradient is a ``different`` one, that of the step before (the first step takes
      one batch for both), or the ``same``.

    Normalisation statistics learn from the clean pass.

    Cost: two forward and two backward passes, and a copy of the network.
    Source: Li et al., "Revisiting Random Weight Perturbation for Efficiently Improving Generalization" (arXiv
    2404.00357), and the authors' code.
    """

    example: ClassVar[str] = "arwp-mixed:0.01,eta=1.0"

    alpha: float = 0.5
    batches: Literal["different", "same"] = "different"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise UserError(f"arwp-mixed: expected alpha in [0, 1], got {self.alpha}; it weighs the clean gradient")

    @property
    def passes(self) -> tuple[float, float]:
        return (2.0, 2.0)

    def perturbed_step(self, engine: Engine, batch: AnyBatch, progress: Progress, perturbation: Filters) -> Output:
        other = previous(engine.own_memory, self.name, batch) if self.batches == "different" else batch
        out = engine.gradient(batch, weight=self.alpha)
        clean = engine.take(share=1.0)
        with self.moved(engine, progress, perturbation):
            engine.gradient(other, norm_stats=False)
        noisy = engine.take(share=1 - self.alpha)
        history = self.following(engine, noisy)
        engine.put(clean)
        engine.put(noisy, weight=1 - self.alpha)
        self.commit(engine, history)
        return out
