"""What SAF and MESA share: a loss term that keeps outputs near a teacher's, the network of the past or its average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.tasks import Task
from noiserobust.training.engine import Penalty
from noiserobust.training.rules.base import Method
from noiserobust.training.schedules import Progress, Schedule, check_strength, strength_at


@dataclass(frozen=True)
class SelfDistillation(Method):
    """Rules with a teacher: they add ``lam tau^2 KL(softmax(past / tau) || softmax(logits / tau))`` to every sample's
    loss, ``past`` being the teacher's logits.

    - ``lam``: weight of that term, a number or a schedule.
    - ``tau``: temperature. ``start``: epochs without the term (E_start).
    - ``scaling``: ``released`` as above, from the authors' code; ``paper`` as printed, without tau^2, 25 times weaker
      at tau 5.
    """

    every_step: ClassVar[bool] = True

    lam: float | Schedule = 0.3
    tau: float = 5.0
    start: int = 5
    scaling: Literal["released", "paper"] = "released"

    def __post_init__(self) -> None:
        check_strength(self.name, "lam", self.lam)
        if not 0 < self.tau < float("inf"):
            raise UserError(f"{self.name}: expected a finite temperature tau > 0, got {self.tau}; 5 is usual")
        if self.start < 0:
            raise UserError(f"{self.name}: expected start >= 0 epochs, got {self.start}")

    @property
    def visitable(self) -> bool:
        return True  # nothing moves the weights

    def strength(self, progress: Progress) -> float:
        """The term's weight in this step."""
        return strength_at(self.lam, progress) if progress.epoch >= self.start else 0.0

    def require_epochs(self, progress: Progress) -> None:
        """Refuse a run in which the term would never be active: it would be plain training under another name."""
        if progress.epochs <= self.start:
            raise UserError(
                f"{self.name}: expected more than start={self.start} epochs, got {progress.epochs}: its term would "
                "never be active; lower start, or give epoch and epochs to Progress(step, steps, epoch, epochs)"
            )


def penalty(task: Task, past: Sequence[Tensor], tau: float, factors: Sequence[Tensor]) -> Penalty:
    """``factor KL(p(past / tau) || p(predictions / tau))`` per sample, in float32 or better; the task says what the
    probabilities are. ``past`` and ``factors`` are those of each micro-batch.

    A sample with factor 0 has none, whatever its ``past``.
    """

    def term(predictions: Tensor, part: Batch, number: int) -> Tensor:
        dtype = torch.promote_types(predictions.dtype, torch.float32)
        return factors[number].to(dtype) * task.divergence(past[number], predictions, part, tau)

    return term
