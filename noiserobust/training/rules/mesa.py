"""Memory-efficient sharpness-aware training for free (MESA): outputs are kept near those of the weights' average."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from noiserobust.errors import UserError
from noiserobust.minima import Unperturbed
from noiserobust.training.averages import follow, values_of
from noiserobust.training.engine import Engine, Output
from noiserobust.training.micro_batches import AnyBatch, as_list
from noiserobust.training.rules.distillation import SelfDistillation, penalty
from noiserobust.training.schedules import Progress, Schedule


@dataclass(frozen=True)
class MESA(SelfDistillation, name="mesa"):
    r"""Distillation from a moving average of the network's own weights, in place of SAM's second gradient.

    The loss is the cross-entropy + :math:`\lambda \tau^2 \mathrm{KL}(f_v(x) / \tau,\; f_w(x) / \tau)`, v being the
    weights' moving average :math:`v \leftarrow \beta v + (1 - \beta) w`.

    - ``lam``, ``tau``, ``start``, ``scaling``: see :class:`SelfDistillation`; lam 0.3 and beta 0.9998 on ImageNet.
    - ``beta``: decay of the average, in [0, 1).

    The average starts at the initial weights and follows after every step, so that a step's teacher has averaged the
    weights up to that step's own (Algorithm 1 has it follow before the next forward pass, which is the same); the
    network with it runs in eval mode, its buffers being averaged too, and only after ``start`` epochs.

    Cost: two forward passes and one backward after ``start`` epochs, plain training's before; a copy of the network.
    Source: Du et al., "Sharpness-Aware Training for Free" (arXiv 2205.14083), Eq. 10 and 13, Algorithm 1.
    """

    example: ClassVar[str] = "mesa:0.8"

    lam: float | Schedule = 0.8
    beta: float = 0.9995

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < 1:
            raise UserError(f"mesa: expected beta in [0, 1), got {self.beta}; 0.9995 is usual")

    def prepare(self, engine: Engine) -> str:
        self.average(engine)
        return ""

    def average(self, engine: Engine) -> dict[str, Tensor]:
        """v and the averaged buffers by name; at first those of the network."""
        if self.name not in engine.memory:
            engine.memory[self.name] = {name: value.clone() for name, value in values_of(engine.model).items()}
        return engine.memory[self.name]

    def whole_step(self, engine: Engine, batch: AnyBatch, progress: Progress) -> Output:
        self.require_epochs(progress)
        average, lam = self.average(engine), self.strength(progress)
        term = None
        if lam:
            # Part by part: texts of several lengths do not lie in one tensor.
            teacher = [engine.forward(part, twin=average).logits for part in as_list(batch)]
            targets = [target for target in teacher if target is not None]
            factor = lam if self.scaling == "paper" else lam * self.tau**2
            factors = [_filled(target, factor) for target in targets]
            term = penalty(engine.task, targets, self.tau, factors)
        out = engine.gradient(batch, penalty=term)
        engine.commit()
        follow(average, values_of(engine.model), get_ema_multi_avg_fn(self.beta), 1)
        return replace(out, perturbation=Unperturbed(), strength=lam)

    def cost(self, progress: Progress) -> tuple[float, float]:
        return (2.0, 1.0) if self.strength(progress) else (1.0, 1.0)


def _filled(like: Tensor, value: float) -> Tensor:
    """``value`` for each sample, in float32 or better."""
    return torch.full(like.shape[:1], value, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
