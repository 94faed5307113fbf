"""One network's current chip: programmed when first looked at, and kept over its times, reads and handlings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from noiserobust.backend import Backend
from noiserobust.converters import Converters, Converting, output_stream
from noiserobust.data import Batch, Labelled
from noiserobust.evaluation.subjects import Setup, Subject
from noiserobust.inference import Metric, autocast, device_of, prepare, recalibrated, score
from noiserobust.noise import Compensation, NoiseModel
from noiserobust.noisy import NoisyWeights, Programmed
from noiserobust.rng import Stream

CALIBRATION_BATCH = 128


class Chips:
    """The chips of one subject, one after the other.

    ``calibration``: training images by the text of the converters that learn their ranges from them, and as "" those of
    batch norm.
    """

    def __init__(
        self,
        subject: Subject,
        setup: Setup,
        calibration: Mapping[str, Labelled | None],
        metrics: Mapping[str, Metric],
        converters: Mapping[str, Converters],
        backend: Backend,
    ) -> None:
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
        self.scrap()

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
            self.programmed = self.noisy.program(noise, stream)
        with ExitStack() as stack:
            reading = self.opened.reading(self.programmed, stream, time, read, compensation)
            network = stack.enter_context(reading)
            stack.enter_context(self.converting[converters].applied(output_stream(stream, time, read)))
            if self.calibration:
                stack.enter_context(recalibrated(network, self.calibration, self.setup.precision))
            yield network
        self.converting[converters].check_called()

    def score(self, noise: NoiseModel, stream: Stream, **look: Any) -> dict[str, float]:
        """The metrics of the chip on all images; ``look`` is that of :meth:`seen`."""
        with self.seen(noise, stream, **look) as network:
            return score(network, self.subject.batches, self.setup.precision, self.subject.classes, self.metrics)

    def _prepared(self, data: Labelled | None) -> Sequence[Batch]:
        """Training images as the network wants to see them."""
        if data is None:
            return []
        seen = data.with_normalization(self.subject.dataset.mean, self.subject.dataset.std)
        last = self.subject.batches[0].inputs.is_contiguous(memory_format=torch.channels_last)
        return prepare(seen, device_of(self.subject.network), CALIBRATION_BATCH, last)
