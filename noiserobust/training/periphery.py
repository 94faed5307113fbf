"""The converters around a network's layers while it is trained, and how their ranges learn."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from noiserobust.analog.converters import Converters, Converting
from noiserobust.analog.ranges import InputRanges, TrainedRanges
from noiserobust.analog.where import Where
from noiserobust.errors import UserError
from noiserobust.noise.sharded import mesh_of
from noiserobust.rng import Stream
from noiserobust.training.ddp import Processes


class Periphery:
    """Converters around the analog layers of ``model``, in every pass of every step.

    Their s are those of the weights at which a step begins, in all of its passes: the chip is built for these, noise
    and ascent come later. Output noise has the name of the step and of the pass in it. Ranges that are calibrated look
    at the passes that normalisation statistics learn from.

    Ranges that are learnt belong to the converters, and no rule perturbs them. They get the gradient of the loss that
    the step descends on, every pass with its weight in that loss: SAM's is the one at w + e, that of m-ARWP and G-RST
    is both. What a rule does to the weights' gradient alone, as GSAM and LookSAM turn it, is no loss and not theirs.
    They go with an optimizer of their own, of the kind, settings and rate of the weights', but without weight decay. An
    average of weights over steps has the average of the ranges.
    """

    def __init__(
        self,
        model: nn.Module,
        converters: Converters | str,
        learning: InputRanges | str | None,
        where: Where,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        how = InputRanges() if learning is None else InputRanges.parse(learning)
        self.converting = Converting(model, Converters.parse(converters), **where.patterns, training=how)
        self.model = model
        if mesh_of(model) is not None and self.converting.layers:
            raise UserError("expected no converters where weights are sharded over processes (FSDP); use DDP")
        self.ranges = [
            crossbar.ranges
            for layer in self.converting.layers
            for crossbar in layer.crossbars
            if isinstance(crossbar.ranges, TrainedRanges)
        ]
        self._learnt = [ranges for ranges in self.ranges if ranges.how is not None]
        self._optimizer = _alike(optimizer, [ranges.inputs for ranges in self._learnt]) if self._learnt else None
        self._step = self._passes = self._updates = 0
        self._weight: float | Tensor = 0.0
        self._kept: list[tuple[float, list[Tensor], list[Tensor], Tensor]] = []
        self._forget()

    @property
    def learnt(self) -> list[Tensor]:
        """The ranges that are learnt."""
        return [ranges.inputs for ranges in self._learnt]

    def begin(self, step: int | None) -> None:
        """A step begins, by default the next one: the weights are the clean ones."""
        self._step, self._passes = self._updates if step is None else step, 0
        self._forget()
        for layer in self.converting.layers:
            layer.rescale()

    @contextmanager
    def passing(
        self, stream: Stream, rank: int, calibrates: bool = False, weight: float | Tensor = 0.0, times: Any = None
    ) -> Iterator[None]:
        """Inside is a pass of a step, whose gradient is taken with this ``weight``, or is still to be taken so many
        ``times``."""
        if not self.converting.layers:
            yield
            return
        if self._handed_out:
            self._drop()
        named = stream.child("converters", self._step, self._passes)
        self._passes, self._weight = self._passes + 1, self._weight + weight
        before = [] if times is None else self._gathered()[0]
        for ranges in self._learnt[: len(before)]:
            ranges.inputs.grad = None
        with self.applied(named.child(rank) if rank else named, calibrates and self.model.training):
            yield
        for ranges, gradient, held in zip(self._learnt, self._gathered()[0], before, strict=False):
            ranges.inputs.grad = held + times * gradient

    def evaluated(self, stream: Stream) -> AbstractContextManager[None]:
        """Inside, the weights as they are now compute with converters, and nothing is learnt from it."""
        for layer in self.converting.layers:
            layer.rescale()
        return self.applied(stream.child("converters"))

    @contextmanager
    def applied(self, stream: Stream, calibrates: bool = False) -> Iterator[None]:
        """Inside, the model computes with converters, their output noise from ``stream``."""
        for ranges in self.ranges:
            ranges.observes = calibrates
        try:
            with self.converting.applied(stream):
                yield
        finally:
            for ranges in self.ranges:
                ranges.observes = False

    def hand_out(self, share: float | None = None) -> None:
        """The passes so far have this ``share`` in the loss of the step; by default none, if a pass follows."""
        if share is not None and self._learnt:
            self._kept.append((share, *self._gathered()))
            self._drop()
        self._handed_out = True

    @torch.no_grad()
    def update(self, stepped: bool, scale: float, rate: float, ranks: Processes) -> None:
        """The optimizer's step of the ranges, at its learning ``rate``, of gradients times the loss ``scale``; where
        it skipped the weights' step (``stepped``) ranges stay, too. They are the same on all ranks afterwards."""
        self._updates += 1
        if not self.ranges:
            return
        gradients, counts, weight = self._gathered()
        for share, taken, seen, weighed in self._kept:
            for mine, theirs in zip([*gradients, weight], [*taken, weighed], strict=True):
                mine += share * theirs
            for mine, theirs in zip(counts, seen, strict=True):
                mine += (share != 0) * theirs
        outputs = [ranges.outputs for ranges in self.ranges if ranges.outputs is not None]
        held = [*(ranges.inputs.data for ranges in self.ranges), *outputs, *gradients, *counts, weight]
        ranks.average(held, held)  # in their own memory
        totals = [total for _, total in counts]
        used, *called = (torch.stack([weight, *totals]) > 0).tolist() if totals else [False]  # the step's one wait
        for ranges, gradient, (inside, total), one in zip(self._learnt, gradients, counts, called, strict=True):
            learns = stepped and used and one
            ranges.inputs.grad = ranges.gradient(gradient / (weight * scale), inside / total) if learns else None
        if self._optimizer is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
            for ranges in self._learnt:
                ranges.inputs.clamp_(min=torch.finfo(ranges.inputs.dtype).tiny)
        self._forget()

    def _gathered(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Of the passes since gradients were last handed out: gradients, inputs within and in all, and weight."""
        gradients = [torch.zeros_like(r.inputs) if r.inputs.grad is None else r.inputs.grad for r in self._learnt]
        device = self.ranges[0].inputs.device if self.ranges else None

        def placed(number: float | Tensor) -> Tensor:
            if isinstance(number, Tensor):
                return number.detach().to(device, torch.float32, copy=True)
            return torch.full((), float(number), device=device)  # of a kernel, which nobody waits for

        counts = [torch.stack([placed(r.inside), placed(r.total)]) for r in self._learnt]
        return gradients, counts, placed(self._weight)

    def _forget(self) -> None:
        """Hold no gradients."""
        self._kept = []
        self._drop()

    def _drop(self) -> None:
        """Hold none of the passes since gradients were last handed out."""
        self._weight, self._handed_out = 0.0, False
        for ranges in self._learnt:
            ranges.inputs.grad, ranges.inside, ranges.total = None, 0.0, 0

    @property
    def described(self) -> dict[str, Any]:
        """The ranges by layer as plain numbers, as a checkpoint keeps them."""
        return {layer.name: layer.described for layer in self.converting.layers if layer.converters.has_ranges}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; nothing without converters."""
        if not self.converting.layers:
            return {}
        optimizer = {} if self._optimizer is None else self._optimizer.state_dict()
        ranges = [ranges.state_dict() for ranges in self.ranges]
        return {"ranges": ranges, "ranges_optimizer": optimizer, "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self._updates = int(state.get("updates", 0))
        if self.ranges:
            for ranges, held in zip(self.ranges, state["ranges"], strict=True):
                ranges.load_state_dict(held)
        if self._optimizer is not None:
            self._optimizer.load_state_dict(state["ranges_optimizer"])


def _alike(optimizer: Any, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """An optimizer of ``parameters`` of the kind and settings of ``optimizer``, without weight decay."""
    raw = getattr(optimizer, "optimizer", optimizer)  # that of accelerate or Lightning wraps one
    known = inspect.signature(type(raw)).parameters
    settings = {name: value for name, value in raw.param_groups[0].items() if name in known and name != "params"}
    if "weight_decay" in settings:
        settings["weight_decay"] = 0.0
    try:
        return type(raw)(parameters, **settings)
    except (TypeError, ValueError, RuntimeError):  # one of its own kind, which takes other arguments
        return torch.optim.SGD(parameters, lr=float(settings.get("lr", 0.0)))
