"""Several noise draws in one pass: for small networks, which keep a GPU busy only together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from noiserobust.analog.noisy import NoisyWeights, ReadOnce
from noiserobust.data import Batch
from noiserobust.models.compute import Precision, autocast, device_of
from noiserobust.models.modes import evaluating
from noiserobust.noise import Compensation, NoiseModel
from noiserobust.rng import Stream
from noiserobust.tasks.metrics import Metric

Draws = int | Literal["auto", "trial"]
"""Draws in one pass: so many (1: one after the other), what a trial finds, or a trial where it may pay: for up to
:data:`SMALL` noisy weights on accelerators. On the CPU a trial costs more than it has been seen to bring."""
SMALL = 1 << 20
MOST = 64
"""Draws at once, at most."""
MEMORY = {"cpu": 1 << 25}
OTHER_MEMORY = 1 << 31
"""Bytes that the draws' weights and activations may take, by device; on the CPU what its caches hold."""
WORTH = 0.9
"""Draws are taken together if one then takes less than this part of the time it takes alone."""


class Together:
    """``noisy``'s network with the weights of several draws, stacked: one vectorised pass over the images for all."""

    def __init__(
        self,
        noisy: NoisyWeights,
        batches: Sequence[Batch],
        precision: Precision,
        classes: int = 0,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        self.noisy, self.batches, self.precision = noisy, batches, precision
        self.classes, self.metrics = classes, metrics or {}
        self.device = device_of(noisy.model)
        names = {id(parameter): name for name, parameter in noisy.model.named_parameters()}
        self.names = {weight.name: names[id(weight.parameter)] for weight in noisy.weights}

    @staticmethod
    def is_tried(asked: Draws, device: torch.device, weights: int) -> bool:
        """Whether several draws at once are thought of, for so many noisy ``weights``."""
        return asked != 1 and (asked != "auto" or (device.type != "cpu" and weights <= SMALL))

    @torch.no_grad()
    def most(self) -> int:
        """How many draws' weights and activations :data:`MEMORY` holds, 1 to :data:`MOST`."""
        batch, sizes = self.batches[0], [0]
        hooks = [
            module.register_forward_hook(lambda module, args, output: sizes.append(_bytes(output)))
            for module in self.noisy.model.modules()
        ]
        few = min(2, len(batch))
        try:
            with evaluating(self.noisy.model):
                self.noisy.model(batch.inputs[:few])
        finally:
            for hook in hooks:
                hook.remove()
        # A layer's input and output, a shortcut beside them, and the working memory of a convolution.
        activations = 4 * max(sizes) * len(batch) / few
        weights = sum(weight.parameter.numel() * weight.parameter.element_size() for weight in self.noisy.weights)
        memory = MEMORY.get(self.device.type, OTHER_MEMORY)
        return int(min(max(memory // (weights + activations), 1), MOST))

    def score(
        self, noise: NoiseModel, streams: Sequence[Stream], t: float, read: int, compensation: Compensation
    ) -> list[dict[str, float]]:
        """The scores of the chips that ``streams`` name, each at ``t`` (s; NaN: its own)."""
        weights = self._stacked(noise, streams, t, read, compensation)
        labels = torch.cat([batch.labels for batch in self.batches])
        logits = torch.cat([self._logits(weights, batch) for batch in self.batches], 1)
        correct = (logits.argmax(2) == labels).sum(1)
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.repeat(len(streams)), reduction="none")
        loss = loss.view(len(streams), -1).sum(1)
        count = len(labels)
        return [
            {"accuracy": 100 * right / count, "loss": total / count}
            | {name: float(metric(own, labels)) for name, metric in self.metrics.items()}
            for right, total, own in zip(correct.tolist(), loss.tolist(), logits, strict=True)
        ]

    def chosen(
        self,
        asked: Draws,
        draws: int,
        noise: NoiseModel,
        stream: Stream,
        alone: Callable[[], AbstractContextManager[nn.Module]],
    ) -> tuple[int, str]:
        """How many of ``draws`` to take at once, and one line that says why.

        A number that was ``asked`` for is taken where that is possible at all; else a trial on the first batch
        decides, against a network that has the weights of one draw inside ``alone()``.
        """
        try:
            count = min(asked if isinstance(asked, int) else self.most(), draws)
            if count < 2:
                return 1, ""
            one, shared = self._trial(count, noise, stream, alone)
        except Exception as error:  # not every network can be vectorised
            reason = (str(error) or type(error).__name__).splitlines()[0]
            return 1, f"draws one at a time (not at once: {reason})"
        times = f"{1e3 * one:.3g} ms a draw and batch alone, {1e3 * shared:.3g} ms as one of {count}"
        if isinstance(asked, int) or shared < WORTH * one:
            return count, f"{count} draws at once ({times})"
        return 1, f"draws one at a time ({times})"

    def _trial(
        self, count: int, noise: NoiseModel, stream: Stream, alone: Callable[[], AbstractContextManager[nn.Module]]
    ) -> tuple[float, float]:
        """Seconds that one draw takes on the first batch, alone and as one of ``count``."""
        batch = self.batches[0]

        @torch.no_grad()
        def one() -> None:
            with alone() as network, evaluating(network), autocast(self.device, self.precision):
                network(batch.inputs)

        def all_at_once() -> None:
            streams = [stream.child(index) for index in range(count)]
            self._logits(self._stacked(noise, streams, float("nan"), 0, "none"), batch)

        return self._seconds(one), self._seconds(all_at_once) / count

    def _seconds(self, work: Callable[[], None]) -> float:
        """The faster of two, after one that warms up."""
        taken = []
        for _ in range(3):
            started = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            taken.append(time.perf_counter() - started)
        return min(taken[1:])

    @torch.no_grad()
    def _stacked(
        self, noise: NoiseModel, streams: Sequence[Stream], t: float, read: int, compensation: Compensation
    ) -> dict[str, Tensor]:
        """Every noisy parameter of all draws, (draws, *its shape), by its name in the network."""
        chips = [ReadOnce(self.noisy, noise, stream) for stream in streams]
        stacked = {}
        for weight in self.noisy.weights:
            parameter = weight.parameter.detach()
            drawn = parameter.new_empty(len(streams), *parameter.shape)
            for own, chip in zip(drawn, chips, strict=True):
                own.copy_(weight.from_rows(chip.weight(weight.name, None if t != t else t, read, compensation)))
            stacked[self.names[weight.name]] = drawn
        return stacked

    @torch.no_grad()
    def _logits(self, weights: dict[str, Tensor], batch: Batch) -> Tensor:
        """float32, (draws, B, C)."""
        model, inputs = self.noisy.model, batch.inputs
        if inputs.is_floating_point():
            inputs = inputs.to(next(iter(weights.values())).dtype)
        with evaluating(model), autocast(self.device, self.precision):
            logits = vmap(lambda own: functional_call(model, own, (inputs,)))(weights)
        if logits.dim() != 3 or logits.shape[2] < self.classes:
            raise ValueError(f"logits of shape {tuple(logits.shape[1:])}")
        return logits.float()


def _bytes(output: Any) -> int:
    return output.numel() * output.element_size() if isinstance(output, Tensor) else 0
