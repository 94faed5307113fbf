"""Memory-efficient sharpness-aware training for free (MESA): outputs are kept near those of the weights' average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from noiserobust.errors import UserError
from noiserobust.minima import Unperturbed
from noiserobust.models.wrappers import unwrap
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
    - ``update``: ``after`` the step, as released, or ``before`` the forward pass, as in Algorithm 1. Either way a
      step's teacher has averaged the weights up to that step's own: training is the same.

    The average starts at the initial weights and is kept up from the first step on; the network with it runs in eval
    mode, its buffers being averaged too, and only after ``start`` epochs.

    Cost: two forward passes and one backward after ``start`` epochs, plain training's before; a copy of the network.
    Source: Du et al., "Sharpness-Aware Training for Free" (arXiv 2205.14083), Eq. 10 and 13, Algorithm 1.
    """

    example: ClassVar[str] = "mesa:0.8"

    lam: float | Schedule = 0.8
    beta: float = 0.9995
    update: Literal["after", "before"] = "after"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < 1:
            raise UserError(f"mesa: expected beta in [0, 1), got {self.beta}; 0.9995 is usual")
        if self.update not in ("after", "before"):
            raise UserError(f"mesa: expected update after or before, got {self.update!r}")

    def prepare(self, engine: Engine) -> str:
        self.average(engine)
        return ""

    def average(self, engine: Engine) -> dict[str, Tensor]:
        """v and the averaged buffers by name; at first those of the network."""
        if self.name not in engine.memory:
            engine.memory[self.name] = {name: _precise(value).clone() for name, value in _tensors(engine).items()}
        return engine.memory[self.name]

    def whole_step(self, engine: Engine, batch: AnyBatch, progress: Progress) -> Output:
        self.require_epochs(progress)
        average, lam = self.average(engine), self.strength(progress)
        if self.update == "before":
            # In copies, so that a step that fails leaves no trace.
            parameters = dict(unwrap(engine.model).named_parameters())
            average = average | {name: average[name].clone() for name in parameters}
            self._follow(average, parameters)
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
        # Buffers follow after the step in either case: before the next one they are the same.
        if self.update == "after":
            self._follow(average, _tensors(engine))
        else:
            self._follow(average, dict(unwrap(engine.model).named_buffers()))
            engine.memory[self.name] = average
        return replace(out, perturbation=Unperturbed(), strength=lam)

    @torch.no_grad()
    def _follow(self, average: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
        """Move ``average`` a step towards ``values``."""
        for name, value in values.items():
            if value.is_floating_point():
                average[name].lerp_(_precise(value.detach()), 1 - self.beta)
            else:
                average[name].copy_(value)  # counters are taken as they are

    def cost(self, progress: Progress) -> tuple[float, float]:
        return (2.0, 1.0) if self.strength(progress) else (1.0, 1.0)


def _tensors(engine: Engine) -> dict[str, Tensor]:
    model = unwrap(engine.model)
    return {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}


def _precise(value: Tensor) -> Tensor:
    """In float32 or better: in bfloat16 a step of 1 - beta of the way would be rounded away."""
    return value.to(torch.promote_types(value.dtype, torch.float32)) if value.is_floating_point() else value


def _filled(like: Tensor, value: float) -> Tensor:
    """``value`` for each sample, in float32 or better."""
    return torch.full(like.shape[:1], value, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
