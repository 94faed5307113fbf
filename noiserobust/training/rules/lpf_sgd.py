"""Low-pass-filter SGD: the loss is smoothed by noise, another draw for every part of the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from noiserobust.errors import UserError
from noiserobust.minima import Filters
from noiserobust.training.engine import Engine, Output
from noiserobust.training.micro_batches import AnyBatch, as_list, only_rows
from noiserobust.training.objective import joined
from noiserobust.training.rules.base import Method
from noiserobust.training.schedules import Progress, Schedule, check_strength, strength_at


@dataclass(frozen=True)
class LPFSGD(Method, name="lpf-sgd"):
    r"""Training on a loss that a Gaussian filter smooths: the batch is cut in parts, each under a draw of its own.

    The step is the mean of the gradients at :math:`w + e_i` over the batch's parts i = 1 ... draws, with
    :math:`e_k \sim N(0, (\gamma_t \lVert w_k \rVert_2)^2)` for every filter k, and the filter widens over training:
    :math:`\gamma_t = \gamma\, (1 + a\, (1 - \cos(\pi t / T)) / 2)`.

    - ``gamma``: size of the noise at first, a number or a schedule. It perturbs every parameter.
    - ``draws``: how many parts and draws (M). ``growth``: a; 0 keeps the size.

    Normalisation statistics learn from every part, which is normalised on its own.

    Cost: one forward and one backward pass of the batch, in ``draws`` parts.
    Source: Bisla et al., "Low-Pass Filtering SGD for Recovering Flat Optima in the Deep Learning Optimization
    Landscape" (arXiv 2201.08025), Algorithm 1 (M, gamma, alpha).
    """

    example: ClassVar[str] = "lpf-sgd:0.001,draws=8"

    gamma: float | Schedule = 0.0005
    draws: int = 8
    growth: float = 15.0

    def __post_init__(self) -> None:
        check_strength(self.name, "gamma", self.gamma)
        if self.draws < 1:
            raise UserError(f"lpf-sgd: expected draws >= 1, got {self.draws}; 8 is usual")
        if not 0 <= self.growth < math.inf:
            raise UserError(f"lpf-sgd: expected a finite growth >= 0, got {self.growth}; 15 is usual")

    def perturbation(self, progress: Progress) -> Filters:
        share = (1 - math.cos(math.pi * progress.step / progress.steps)) / 2
        return Filters(strength_at(self.gamma, progress) * (1 + self.growth * share), draws=self.draws)

    def perturbed_step(self, engine: Engine, batch: AnyBatch, progress: Progress, perturbation: Filters) -> Output:
        micro = as_list(batch)
        samples = torch.arange(sum(len(part) for part in micro), device=engine.device)
        parts = [rows for rows in samples.tensor_split(self.draws) if len(rows)]
        units, outputs = engine.objective.units, []
        for draw, rows in enumerate(parts):
            weight = units(only_rows(micro, rows)) / units(micro)
            with engine.perturbed(perturbation, "filters", progress.step, draw):
                outputs.append(engine.gradient(batch, rows=rows, weight=weight, sync=draw == len(parts) - 1))
        engine.commit()
        return joined(outputs)
