"""A training rule decides which gradients are taken; the engine knows how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from noiserobust.errors import UserError
from noiserobust.minima import Perturbation, Unperturbed
from noiserobust.spec import Described
from noiserobust.training.engine import Engine, Output
from noiserobust.training.micro_batches import AnyBatch, Batches, held
from noiserobust.training.schedules import Progress


@dataclass(frozen=True)
class Method(Described, family="method"):
    """A training rule: where a step takes its gradients, and how it combines them.

    It states the :meth:`perturbation` of a step and, in :meth:`perturbed_step`, what is done with it; or, when it is
    another kind of rule, all of :meth:`whole_step`. A rule is its settings and never changes; what a run must remember
    from step to step lies in ``engine.memory``.
    """

    every_step: ClassVar[bool] = False
    """Whether the rule must see every step of a run, so that RST cannot leave any out."""
    shards: ClassVar[bool] = False
    """Whether a step is right where weights are sharded over processes (FSDP)."""

    def prepare(self, engine: Engine) -> str:
        """Lay out what the run will remember, before it starts (the first step does it, too).

        Returns what a person should know of it in one line, such as how much memory it takes; empty for nothing.
        """
        return ""

    def perturbation(self, progress: Progress) -> Perturbation:
        """What moves the weights in this step, at its present strength."""
        return Unperturbed()

    @property
    def visitable(self) -> bool:
        """Whether :meth:`perturbation` alone says where the update gradient is taken, so that measures can go there."""
        return type(self).step is Method.step and type(self).whole_step is Method.whole_step

    def step(self, engine: Engine, batch: Batches, progress: Progress) -> Output:
        """Take the gradients of this rule and commit once; returns the clean pass's output (or the only one's).

        ``batch`` is one batch, or any iterable of the micro-batches that it consists of.
        """
        if engine.sharded and not self.shards:
            raise UserError(
                f"expected plain or rwp for weights sharded over processes (FSDP), got {type(self).name}; use "
                "DistributedDataParallel"
            )
        parts = held(batch)
        engine.find_heads(parts)
        progress = progress._replace(seed=engine.seed)
        with engine.stepping(progress):
            return self.whole_step(engine, parts, progress)

    def whole_step(self, engine: Engine, batch: AnyBatch, progress: Progress) -> Output:
        """:meth:`step` for one batch or a list of micro-batches."""
        perturbation = self.perturbation(progress)
        if perturbation.is_identity_on(engine.weights):
            return plain_step(engine, batch).at(perturbation)
        return self.perturbed_step(engine, batch, progress, perturbation).at(perturbation)

    def perturbed_step(self, engine: Engine, batch: AnyBatch, progress: Progress, perturbation: Any) -> Output:
        """The step with a ``perturbation`` (this rule's kind of one) that is not 0."""
        raise UserError(
            f"expected {type(self).__name__} to define perturbed_step beside its perturbation, or step alone; "
            "docs/extending.md has a rule"
        )

    def strength(self, progress: Progress) -> float:
        """The size of this step's perturbation; 0 costs a plain step."""
        return self.perturbation(progress).strength

    @property
    def passes(self) -> tuple[float, float]:
        """Forward and backward passes of a perturbed step, in units of one over the whole batch."""
        return (1.0, 1.0)

    def cost(self, progress: Progress) -> tuple[float, float]:
        """Expected forward and backward passes of this step, in units of one over the whole batch."""
        return (1.0, 1.0) if self.perturbation(progress).is_identity else self.passes


@dataclass(frozen=True)
class Plain(Method, name="plain"):
    """Training without perturbation: the gradient at w. One forward and one backward pass."""

    example: ClassVar[str] = "plain"
    shards: ClassVar[bool] = True


def plain_step(engine: Engine, batch: AnyBatch) -> Output:
    """One step with the gradient at w."""
    out = engine.gradient(batch)
    engine.commit()
    return out
