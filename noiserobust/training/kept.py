"""The weights that a training keeps: clipped, averaged over steps, batch norm refreshed for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from noiserobust.analog.openings import opened
from noiserobust.analog.weight_space import WeightSpace
from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.models.compute import Precision
from noiserobust.models.modes import recalibrated
from noiserobust.models.wrappers import unwrap
from noiserobust.training.averages import Average, follow, values_of
from noiserobust.training.clipping import Clip, clip_weights
from noiserobust.training.schedules import Progress

MEMORY = "averaged weights"
"""Where an engine's memory holds the average; no rule has such a name."""


class KeptWeights:
    """What is done to a network's weights after every step, and for what is kept of them: clipping and averages.

    ``memory`` is the engine's: it holds how many weights were averaged, and their average by name.
    """

    def __init__(self, clip: Clip | str | float | None, average: Average | str | None, sharded: bool) -> None:
        self.clip: Clip | None = None if clip is None else Clip.parse(clip)
        self.average: Average | None = None if average is None else Average.parse(average)
        if sharded and average is not None:
            raise UserError("expected no average of weights sharded over processes (FSDP), got one; use DDP")

    def after_step(self, model: nn.Module, space: WeightSpace, memory: dict[str, Any], at: Progress | None) -> None:
        """Clip, and add the weights to the average."""
        if self.clip is not None and self.clip.when == "step":
            clip_weights(space, self.clip)
        if self.average is None or not self.average.counts(at):
            return
        values, kept = values_of(model), memory.get(MEMORY)
        if kept is None:
            memory[MEMORY] = {"count": 1, "values": {name: value.clone() for name, value in values.items()}}
        else:
            follow(kept["values"], values, self.average.follow, kept["count"])
            kept["count"] += 1

    @staticmethod
    def count(memory: dict[str, Any]) -> int:
        """How many weights are averaged so far."""
        return int(memory[MEMORY]["count"]) if MEMORY in memory else 0

    @contextmanager
    def inside(
        self,
        model: nn.Module,
        space: WeightSpace,
        memory: dict[str, Any],
        batches: Sequence[Batch],
        precision: Precision | None,
    ) -> Iterator[None]:
        """Inside, ``model`` has the weights that are kept; see :meth:`Engine.kept`."""
        averaged = self.count(memory) > 0
        if not averaged and (self.clip is None or self.clip.when == "step"):
            yield
            return
        model = unwrap(model)
        live: dict[str, Tensor] = dict((*model.named_parameters(), *model.named_buffers()))
        with opened(list(model.parameters())), torch.no_grad():
            before = {name: value.detach().clone() for name, value in live.items()}
            try:
                if averaged:
                    for name, value in memory[MEMORY]["values"].items():
                        live[name].copy_(value)
                if self.clip is not None:  # the average of clipped weights may be beyond the limit
                    clip_weights(space, self.clip)
                refreshes = averaged and batches and has_norms(model)
                fresh = recalibrated(model, batches, precision or "fp32") if refreshes else nullcontext()
                with fresh, torch.enable_grad():
                    yield
            finally:
                for name, value in before.items():
                    live[name].copy_(value)


def has_norms(model: nn.Module) -> bool:
    """Whether ``model`` has normalisation with statistics of the data."""
    return any(isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats for m in model.modules())
