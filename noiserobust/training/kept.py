"""The weights that a training keeps: clipped, averaged over steps, batch norm refreshed for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from noiserobust.analog.openings import opened
from noiserobust.data.batches import Batch
from noiserobust.errors import UserError
from noiserobust.models.modes import recalibrated
from noiserobust.models.wrappers import unwrap
from noiserobust.training.averages import Average, follow, precise_values
from noiserobust.training.clipping import Clip, clip_weights
from noiserobust.training.schedules import Progress

if TYPE_CHECKING:
    from noiserobust.training.engine import Engine

MEMORY = "averaged weights"
"""Where an engine's memory holds the average; no rule has such a name."""


class KeptWeights:
    """What is done to an engine's weights after every step, and for what is kept of them: clipping and averages.

    Inside ``with engine.kept(batches): ...`` the model has the weights that are kept: their average, clipped where that
    is done at the end; so have the ranges of converters that are learnt. Batch norm has statistics of the average, of
    ``batches`` where they are given, else averaged as the weights are. Afterwards the trained weights are back, bit for
    bit. Without an average or such clipping they are the weights as they stand. The engine's memory holds the average.
    """

    def __init__(self, engine: Engine, clip: Clip | str | float | None, average: Average | str | None) -> None:
        self.engine, self._inside = engine, False
        self.clip: Clip | None = None if clip is None else Clip.parse(clip)
        self.average: Average | None = None if average is None else Average.parse(average)
        if engine.sharded and average is not None:
            raise UserError("expected no average of weights sharded over processes (FSDP), got one; use DDP")

    def require_outside(self) -> None:
        """Refuse a step inside ``engine.kept()``: what it does to the weights would be undone."""
        if self._inside:
            raise UserError("expected no training inside engine.kept(), got a step; leave it first")

    @property
    def count(self) -> int:
        """How many steps' weights their average has so far."""
        return int(self._held.get("count", 0))

    def after_step(self, at: Progress | None) -> None:
        """Clip, and add the weights to the average."""
        if self.clip is not None and self.clip.when == "step":
            clip_weights(self.engine.weights, self.clip)
        if self.average is None or not self.average.counts(at):
            return
        values, held = precise_values(self._live), self._held
        if held:
            follow(held["values"], values, self.average.follow, held["count"])
        else:
            held = {"count": 0, "values": {name: value.clone() for name, value in values.items()}}
        self.engine.memory[MEMORY] = held | {"count": held["count"] + 1}

    @contextmanager
    def __call__(self, batches: Sequence[Batch] = ()) -> Iterator[None]:
        if not self.count and (self.clip is None or self.clip.when == "step"):
            yield
            return
        model, live = unwrap(self.engine.model), self._live
        with opened(list(model.parameters())), torch.no_grad():
            before = {name: value.detach().clone() for name, value in live.items()}
            self._inside = True
            try:
                for name, value in self._held.get("values", {}).items():
                    live[name].copy_(value)
                if self.clip is not None:  # the average of clipped weights may be beyond the limit
                    clip_weights(self.engine.weights, self.clip)
                refreshes = self.count and batches and has_norms(model)
                precision = self.engine.precision or "fp32"
                with ExitStack() as stack:
                    if refreshes:  # with the converters that training passes have
                        with self.engine.periphery.evaluated(self.engine.stream("refresh")):
                            stack.enter_context(recalibrated(model, batches, precision))
                    stack.enter_context(torch.enable_grad())
                    yield
            finally:
                self._inside = False
                for name, value in before.items():
                    live[name].copy_(value)

    @property
    def _live(self) -> dict[str, Tensor]:
        """All that is averaged, by name: parameters and buffers, and the ranges of converters that are learnt."""
        model = unwrap(self.engine.model)
        learnt = {f"range {number}": ranges for number, ranges in enumerate(self.engine.periphery.learnt)}
        return {**dict(model.named_parameters()), **dict(model.named_buffers()), **learnt}

    @property
    def _held(self) -> dict[str, Any]:
        return self.engine.memory.get(MEMORY, {})


def has_norms(model: nn.Module) -> bool:
    """Whether ``model`` has normalisation with statistics of the data."""
    return any(isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats for m in model.modules())
