"""Averages of a network's weights over its training steps: exponential moving (EMA), or equal over a part (SWA)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from noiserobust.errors import UserError
from noiserobust.models.wrappers import unwrap
from noiserobust.spec import Described
from noiserobust.training.schedules import Progress, check_warmup, warmup_steps

Follow = Callable[[Any, Any, Any], None]
"""Of torch.optim.swa_utils: moves averages towards values, given how many were averaged before."""


@dataclass(frozen=True)
class Average(Described, family="average"):
    """Which steps' weights are averaged, and how."""

    @abstractmethod
    def counts(self, progress: Progress | None) -> bool:
        """Whether the weights after this step (None: of a loop that does not say) belong to the average."""

    @property
    @abstractmethod
    def follow(self) -> Follow:
        """What moves the average."""


@dataclass(frozen=True)
class EMA(Average, name="ema"):
    r"""Exponential moving average: after every step :math:`v \leftarrow \beta v + (1 - \beta) w`.

    - ``decay``: beta. The average reaches back about 1 / (1 - beta) steps, which should be fewer than a run has.

    v begins at the weights after the first step, as torch.optim.swa_utils has it.
    """

    example: ClassVar[str] = "ema:0.999"

    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UserError(f"ema: expected a decay in [0, 1), got {self.decay}; 0.999 is usual")

    def counts(self, progress: Progress | None) -> bool:
        return True

    @property
    def follow(self) -> Follow:
        return get_ema_multi_avg_fn(self.decay)


@dataclass(frozen=True)
class SWA(Average, name="swa"):
    """Stochastic weight averaging: the mean of the weights at the ends of the last epochs.

    - ``start``: steps (whole number) or share of all steps before the first that counts.
    - ``every``: steps from one that counts to the next; by default one at the end of every epoch.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (arXiv 1803.05407),
    Algorithm 1.
    """

    example: ClassVar[str] = "swa:0.75"

    start: int | float = 0.75
    every: int | None = None

    def __post_init__(self) -> None:
        check_warmup("swa: expected start", self.start)
        if self.every is not None and self.every < 1:
            raise UserError(f"swa: expected every >= 1 steps, got {self.every}")

    def counts(self, progress: Progress | None) -> bool:
        if progress is None:
            raise UserError(
                "swa: expected to know the step, got a commit outside of one; use Method.step(..., Progress)"
            )
        every = self.every or max(1, progress.steps // progress.epochs)
        done = progress.step + 1
        return done > warmup_steps(self.start, progress.steps) and done % every == 0

    @property
    def follow(self) -> Follow:
        return get_swa_multi_avg_fn()


def values_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, detached; in float32 or better, since in bfloat16 a step of a thousandth of the
    way would be rounded away."""
    model = unwrap(model)
    return precise_values(dict((*model.named_parameters(), *model.named_buffers())))


def precise_values(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``values``, detached, in that precision."""
    return {name: _precise(value.detach()) for name, value in values.items()}


@torch.no_grad()
def follow(average: Mapping[str, Tensor], values: Mapping[str, Tensor], step: Follow, count: int) -> None:
    """Move ``average``, of ``count`` values so far, in place towards ``values``; counters are taken as they are."""
    moving = [name for name, value in values.items() if value.is_floating_point()]
    step([average[name] for name in moving], [values[name] for name in moving], count)
    for name in values.keys() - moving:
        average[name].copy_(values[name])


def _precise(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32)) if value.is_floating_point() else value
