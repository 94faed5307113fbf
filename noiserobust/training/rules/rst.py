"""Randomised sharpness-aware training: a coin decides at every step whether the costly rule is used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from noiserobust.errors import UserError
from noiserobust.minima import Perturbation
from noiserobust.training.engine import Engine, Output
from noiserobust.training.micro_batches import AnyBatch
from noiserobust.training.probability import Probability, check_probability
from noiserobust.training.rules.asam import ASAM
from noiserobust.training.rules.averaged import Averaging
from noiserobust.training.rules.base import Method, plain_step
from noiserobust.training.rules.gsam import GSAM
from noiserobust.training.rules.sam import SAM, Climbing
from noiserobust.training.rules.samson import SAMSON
from noiserobust.training.rules.ssam import SSAM
from noiserobust.training.schedules import Progress


@dataclass(frozen=True)
class RST(Method, name="rst"):
    """With probability p(t) the step of another rule, otherwise a plain one, which costs less.

    - ``inner``: any method that need not see every step: sam, asam, gsam, looksam, esam, ssam, rwp, ...
    - ``p``: a number, or a schedule: piecewise, linear, cos1, cos2, sin1, sin2.

    The coin of a step is named by the seed and the step alone: ranks cannot disagree, and nothing needs saving.

    Cost: p times the inner rule's passes and 1 - p times plain training's, 1 + p for a rule of two passes.
    Source: Zhao et al., "Randomized Sharpness-Aware Training for Boosting Computational Efficiency in Deep Learning"
    (arXiv 2203.09962), Eq. 1 to 4.
    """

    example: ClassVar[str] = "rst:sam(0.1),p=0.5"

    inner: Method = field(default_factory=SAM)
    p: float | Probability = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.p, Probability):
            check_probability(self.name, "p", self.p)
        if isinstance(self.inner, RST):
            raise UserError(f"{self.name}: expected one coin, got {self.inner.name} inside: it would toss the same one")
        if self.inner.every_step:
            raise UserError(f"{self.name}: expected an inner rule that may miss steps, got {self.inner.name}; use sam")

    def prepare(self, engine: Engine) -> str:
        return self.inner.prepare(engine)

    def perturbation(self, progress: Progress) -> Perturbation:
        """That of the steps on heads."""
        return self.inner.perturbation(progress)

    @property
    def visitable(self) -> bool:
        return self.inner.visitable

    def whole_step(self, engine: Engine, batch: AnyBatch, progress: Progress) -> Output:
        if self.coin(engine, progress):
            return self.inner_step(engine, batch, progress)
        return plain_step(engine, batch).at(self.perturbation(progress))

    def inner_step(self, engine: Engine, batch: AnyBatch, progress: Progress) -> Output:
        """The step on heads."""
        return self.inner.step(engine, batch, progress)

    def coin(self, engine: Engine, progress: Progress) -> bool:
        """Whether this step is the inner rule's: uniform on [0, 1) below p, so never at p = 0 and always at p = 1."""
        # On the CPU whatever the engine's device: all kinds of ranks toss the same coin.
        return float(engine.stream("coin", progress.step).uniform((1,))) < self.probability(progress)

    def probability(self, progress: Progress) -> float:
        """p at this step."""
        return self.p(progress) if isinstance(self.p, Probability) else self.p

    def strength(self, progress: Progress) -> float:
        return self.inner.strength(progress)

    def cost(self, progress: Progress) -> tuple[float, float]:
        forward, backward = self.inner.cost(progress)
        p = self.probability(progress)
        return (1 + p * (forward - 1), 1 + p * (backward - 1))


@dataclass(frozen=True)
class GRST(RST, name="g-rst"):
    """RST whose inner rule is gradient-norm regularisation: on heads the step is (1 - a) g + a g_p.

    - ``inner``: the rule that makes g_p: sam, asam, samson, f-sam, vasso, ssam or gsam (its whole step stands for g_p).
    - ``p``: as in :class:`RST`. ``a``: weight of g_p; p a is the regularisation in units of SAM's, 0.8 to 1 is best.
    - ``normalised``: g / ||g|| for g (each rank its own), as the released code does by default.

    Cost: 1 + p forward and backward passes.
    Source: Zhao et al., "Randomized Sharpness-Aware Training for Boosting Computational Efficiency in Deep Learning"
    (arXiv 2203.09962), Eq. 6, 8, 9.
    """

    example: ClassVar[str] = "g-rst:sam(0.1),p=0.5"

    inner: Climbing = field(default_factory=SAM)
    a: float = 2.0
    normalised: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.inner, (SAM, ASAM, GSAM, SSAM, SAMSON, Averaging)):
            known = "sam, asam, samson, f-sam, vasso, gsam or ssam"
            raise UserError(f"g-rst: expected {known} as inner rule, got {self.inner.name}")
        if isinstance(self.inner, SAM) and self.inner.alpha:
            raise UserError("g-rst: expected an inner sam without alpha, got both: a says how g and g_p are mixed")
        if not 0 <= self.a < float("inf"):
            raise UserError(f"g-rst: expected a finite a >= 0, got {self.a}; 2 goes with p = 0.5")

    def inner_step(self, engine: Engine, batch: AnyBatch, progress: Progress) -> Output:
        perturbation = self.inner.perturbation(progress)
        if perturbation.is_identity:
            return plain_step(engine, batch).at(perturbation)
        return self.inner.mixed_step(engine, batch, perturbation, 1 - self.a, self.normalised).at(perturbation)
