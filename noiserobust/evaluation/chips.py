"""One network's current chip: programmed when first looked at, and kept over its times, reads and handlings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from noiserobust.analog.backends import Backend
from noiserobust.analog.converters import Converters, Converting, output_stream
from noiserobust.analog.folding import Folding
from noiserobust.analog.noisy import NoisyWeights, Programmed, ReadOnce
from noiserobust.data import Batch, Labelled
from noiserobust.errors import UserError
from noiserobust.evaluation.subjects import Setup, Subject
from noiserobust.evaluation.together import Together
from noiserobust.models.compute import autocast, device_of
from noiserobust.models.modes import recalibrated
from noiserobust.models.wrappers import unwrap
from noiserobust.noise import Compensation, NoiseModel
from noiserobust.rng import Stream
from noiserobust.tasks.batches import prepare
from noiserobust.tasks.classification import score
from noiserobust.tasks.metrics import Metric

CALIBRATION_BATCH = 128


class Chips:
    """The chips of one subject, one after the other.

    ``calibration``: training images by the text of the converters that learn their ranges from them, and as "" those of
    batch norm. ``once``: each chip is looked at once, so that none of it need be kept.
    """

    def __init__(
        self,
        subject: Subject,
        setup: Setup,
        calibration: Mapping[str, Labelled | None],
        metrics: Mapping[str, Metric],
        converters: Mapping[str, Converters],
        backend: Backend,
        once: bool = False,
    ) -> None:
        self.once = once
        self.subject, self.setup, self.metrics = subject, setup, metrics
        self.converters, self.backend = converters, backend
        patterns = {"include": setup.include, "exclude": setup.exclude}
        self.noisy = NoisyWeights(subject.network, **patterns)
        self.opened = backend.open(subject.network, self.noisy, subject.batches[0].inputs[:2], setup.precision)
        self.calibration: Sequence[Batch] = self._prepared(calibration[""])
        with autocast(device_of(subject.network), setup.precision):
            self.converting = {
                text: Converting(
                    subject.network,
                    edge,
                    **patterns,
                    calibration=[batch.inputs for batch in self._prepared(calibration[text])],
                )
                for text, edge in converters.items()
            }
        self.compiled: Any = None
        self.folding: Folding | None = None
        # Between a layer and its norm there must be nothing, and the norm's statistics must be known.
        self.plain = str(backend) == "direct" and not self.calibration
        if self.plain and setup.fold:
            self.folding = Folding(self.noisy, subject.batches[0].inputs[:2])
        self.plain = self.plain and all(edge.is_identity for edge in converters.values())
        if setup.compile:
            if not self.plain:
                raise UserError(
                    "expected backend direct without converters or recalibration with compile; leave it out"
                )
            self.compiled = torch.compile(unwrap(subject.network), dynamic=False)
        self.together: Together | None = None
        self.pace = ""
        self.scrap()

    @property
    def speed(self) -> str:
        """One line: what was done so that a draw is fast, and what was not, and why."""
        parts = [
            self.folding.report if self.folding else "",
            "compiled" if self.compiled is not None else "",
            self.pace,
        ]
        return "; ".join(filter(None, parts))

    def take_together(self, noise: NoiseModel, draws: int) -> int:
        """How many of ``draws`` :meth:`score_together` gets from now on: as many as were asked for, or as a short trial
        finds to be faster; 1 is one after the other."""
        asked = self.setup.together
        possible = self.once and self.plain and self.compiled is None
        possible = possible and not any(weight.tied for weight in self.noisy.weights)
        subject = self.subject
        if draws < 2 or not Together.is_tried(asked, device_of(subject.network), subject.coverage.noisy):
            return 1
        if not possible:
            self.pace = "draws one at a time"
            return 1
        together = Together(self.noisy, subject.batches, self.setup.precision, subject.classes, self.metrics)
        edge = next(iter(self.converters))
        stream = Stream(0, "trial")

        def alone() -> AbstractContextManager[nn.Module]:
            return self.seen(noise, stream, float("nan"), 0, "none", edge)

        count, self.pace = together.chosen(asked, draws, noise, stream, alone)
        self.scrap()
        if count > 1:
            self.together = together
        return count

    @property
    def uncovered(self) -> dict[str, str]:
        """Analog weights without converters, and why."""
        return {name: reason for one in self.converting.values() for name, reason in one.uncovered.items()}

    def scrap(self) -> None:
        """Forget the chip: the next look is at another draw."""
        self.programmed: Programmed | None = None

    def always_same(self, noise: NoiseModel, converters: str) -> bool:
        """Whether every draw is the same, at any time: without noise, unless the outputs are noisy."""
        return noise.is_identity and self.backend.exact and not self.converters[converters].noise

    @contextmanager
    def seen(
        self, noise: NoiseModel, stream: Stream, t: float, read: int, compensation: Compensation, converters: str
    ) -> Iterator[nn.Module]:
        """Inside, what computes with the chip that ``stream`` names, at time ``t`` (s; NaN: the noise model's own)."""
        time = None if t != t else t
        if self.programmed is None and not noise.is_identity:
            self.programmed = ReadOnce(self.noisy, noise, stream) if self.once else self.noisy.program(noise, stream)
        with ExitStack() as stack:
            reading = self.opened.reading(self.programmed, stream, time, read, compensation)
            network = stack.enter_context(reading)
            if self.folding and self.programmed is not None and self.converters[converters].is_identity:
                stack.enter_context(self.folding.folded())
            stack.enter_context(self.converting[converters].applied(output_stream(stream, time, read)))
            if self.calibration:
                stack.enter_context(recalibrated(network, self.calibration, self.setup.precision))
            yield network if self.compiled is None else self.compiled
        self.converting[converters].check_called()

    def score(self, noise: NoiseModel, stream: Stream, **look: Any) -> dict[str, float]:
        """The metrics of the chip on all images; ``look`` is that of :meth:`seen`."""
        with self.seen(noise, stream, **look) as network:
            return score(network, self.subject.batches, self.setup.precision, self.subject.classes, self.metrics)

    def score_together(self, noise: NoiseModel, streams: Sequence[Stream], **look: Any) -> list[dict[str, float]]:
        """:meth:`score` of several chips, where :meth:`take_together` chose to."""
        look.pop("converters")
        assert self.together is not None
        return self.together.score(noise, streams, **look) if streams else []

    def _prepared(self, data: Labelled | None) -> Sequence[Batch]:
        """Training images as the network wants to see them."""
        if data is None:
            return []
        seen = data.with_normalization(self.subject.dataset.mean, self.subject.dataset.std)
        last = self.subject.batches[0].inputs.is_contiguous(memory_format=torch.channels_last)
        return prepare(seen, device_of(self.subject.network), CALIBRATION_BATCH, last)
