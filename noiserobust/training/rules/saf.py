"""Sharpness-aware training for free (SAF): outputs are kept near those of some epochs ago."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from noiserobust.data import nests
from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.minima import Unperturbed
from noiserobust.tasks import Task
from noiserobust.training.engine import Engine, Output
from noiserobust.training.micro_batches import AnyBatch, as_list
from noiserobust.training.rules.distillation import SelfDistillation, penalty
from noiserobust.training.schedules import Progress

NEVER = -(2**30)
"""The epoch of what was never recorded: no run is that many epochs old."""


@dataclass(frozen=True)
class SAF(SelfDistillation, name="saf"):
    r"""Distillation from the network's own logits of some epochs ago, in place of SAM's second gradient.

    The loss is the cross-entropy + :math:`\lambda \tau^2 \mathrm{KL}(\hat y^{(e - \tilde E)} / \tau,\; f(x) / \tau)`,
    the past logits being those of the same sample ``back`` epochs ago.

    - ``lam``, ``tau``, ``start``: see :class:`SelfDistillation`; 10 epochs for a ResNet on ImageNet, 150 for a ViT.
    - ``scaling``: ``paper`` has lambda twice, as printed (Eq. 9 and Algorithm 1), and no tau^2.
    - ``back``: E~, how many epochs ago the logits were recorded.

    Logits are recorded in every epoch, as the training pass gave them; what is read at a step was recorded exactly
    ``back`` epochs before for that very sample (a sample that was not seen then has no term). The memory,
    back x samples x classes, is the same on every rank. Needs ``Engine(samples=..., classes=...)``, batches that
    carry their samples' indices and labels that are class numbers: mixup and cutmix mix samples, and a mixture has no
    past.

    Cost: one forward and one backward pass.
    Source: Du et al., "Sharpness-Aware Training for Free" (arXiv 2205.14083), Eq. 9 and Algorithm 1.
    """

    example: ClassVar[str] = "saf:0.3"

    back: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.back < 1:
            raise UserError(f"saf: expected back >= 1 epochs, got {self.back}; 3 is usual")

    def prepare(self, engine: Engine) -> str:
        memory = self.remembered(engine)
        size = sum(tensor.nbytes for tensor in memory.values()) / 2**20
        epochs, samples, classes = memory["logits"].shape
        return f"saf: remembers {epochs} epochs x {samples:,} samples x {classes:,} classes: {size:.1f} MiB"

    def remembered(self, engine: Engine) -> dict[str, Tensor]:
        """The memory, made when it is first asked for."""
        if self.name not in engine.memory:
            if engine.samples is None or engine.classes is None:
                raise UserError(
                    "saf: expected the size of the training data, got none; use Engine(..., samples=N, classes=C)"
                )
            shape = (self.back, engine.samples, engine.classes)
            dtype = torch.promote_types(engine.parameters[0].dtype, torch.float32)
            # When a slot was written, so that nothing is ever read but what was recorded exactly `back` epochs ago.
            epochs = torch.full(shape[:2], NEVER, dtype=torch.int32, device=engine.device)
            logits = torch.zeros(shape, dtype=dtype, device=engine.device)
            engine.memory[self.name] = {"logits": logits, "epochs": epochs}
        return engine.memory[self.name]

    def whole_step(self, engine: Engine, batch: AnyBatch, progress: Progress) -> Output:
        parts = as_list(batch)
        memory, indices = self.remembered(engine), _indices(parts, engine.task)
        self.require_epochs(progress)
        slot, lam = progress.epoch % self.back, self.strength(progress)
        term = None
        if lam:
            seen = memory["epochs"][slot, indices] == progress.epoch - self.back
            factor = lam**2 if self.scaling == "paper" else lam * self.tau**2
            past, sizes = memory["logits"][slot, indices], [len(part) for part in parts]
            term = penalty(engine.task, past.split(sizes), self.tau, (factor * seen.to(past.dtype)).split(sizes))
        out = engine.gradient(batch, penalty=term)
        engine.commit()
        # Read before write: one slot serves for both. Every rank records what all ranks saw.
        if out.logits is None or out.logits.shape[1:] != memory["logits"].shape[2:]:
            raise UserError(
                f"saf: expected logits (B, {memory['logits'].shape[2]}), one row a sample; {_instead(engine.task)}"
            )
        logits = engine.ranks.gather_rows(out.logits.to(memory["logits"].dtype))
        written = engine.ranks.gather_rows(indices)
        # An overflow is no past to compare with.
        finite = logits.isfinite().all(1)
        memory["logits"][slot, written] = torch.where(finite[:, None], logits, 0.0)
        memory["epochs"][slot, written] = torch.where(finite, progress.epoch, NEVER).to(torch.int32)
        return replace(out, perturbation=Unperturbed(), strength=lam)


def _instead(task: Task) -> str:
    """The rule that does without what saf remembers, for a task."""
    distils = type(task).divergence is not Task.divergence
    return "use mesa" if distils else f"the task {task} has no classes to remember: use sam or rwp"


def _indices(parts: list[Batch], task: Task) -> Tensor:
    """The samples' indices; refuses what are no single samples of known classes."""
    indices = []
    for part in parts:
        if not isinstance(part.labels, Tensor) or part.labels.dim() != 1 or part.labels.is_floating_point():
            got = [f"{tuple(labels.shape)} {labels.dtype}" for labels in nests.tensors(part.labels)]
            raise UserError(
                f"saf: expected one class number per sample, got labels {', '.join(got)}: several units a sample, "
                f"mixup and cutmix leave no past to compare with; {_instead(task)}"
            )
        if part.indices is None:
            raise UserError("saf: expected a batch with its samples' indices, got none; use Batch(x, y, indices)")
        indices.append(part.indices)
    return torch.cat(indices)
