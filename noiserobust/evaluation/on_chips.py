"""A trained network on simulated chips: programmed draw by draw, read under every condition, scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial, wraps
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from noiserobust.analog.backends import Backend
from noiserobust.analog.converters import Converters, Converting, output_stream
from noiserobust.analog.folding import Folding, NotFolded
from noiserobust.analog.noisy import NoisyWeights, Programmed
from noiserobust.data import Batch, Labelled, Splits, nests
from noiserobust.errors import UserError
from noiserobust.evaluation.evaluated_models import EvaluatedModel, named_data, part_of
from noiserobust.evaluation.frozen import require_effect
from noiserobust.evaluation.precision.subsets import Answered
from noiserobust.evaluation.settings import Chips, Where
from noiserobust.evaluation.trained_ranges import learnt, require_ranges
from noiserobust.models.compute import Precision, autocast, call, device_of
from noiserobust.models.kinds import require_weights
from noiserobust.models.modes import evaluating, recalibrated
from noiserobust.models.wrappers import unwrap
from noiserobust.noise import Compensation, NoiseModel, check_compensation
from noiserobust.noise.base import read_stream
from noiserobust.noise.sharded import mesh_of
from noiserobust.rng import Stream, seeded
from noiserobust.spec import Duration
from noiserobust.tasks import Scorer
from noiserobust.tasks.batches import pick, prepare
from noiserobust.tasks.metrics import meters
from noiserobust.tasks.scoring import answers, score

CALIBRATION_BATCH = 128


@dataclass(frozen=True)
class Conditions:
    """:class:`~noiserobust.evaluation.settings.Chips`, checked, its texts read and its images loaded."""

    readings: list[dict[str, Any]]
    """Every way in which a chip is read, as columns of its rows; no time is NaN."""
    converters: dict[str, Converters]
    backend: Backend
    recalibration: int
    ranges: Any
    """``trained``, ``new``, or ranges by layer."""
    calibration: dict[str, Labelled | None]
    """Training images by the text of the converters that learn their ranges from them; as "" those of batch norm."""
    sampled: Callable[[int], Labelled | None]
    """So many training images."""

    @classmethod
    def of(cls, chips: Chips, data: Any) -> Conditions:
        """Those of ``chips``; ``data`` are what is evaluated on, with a training part where they have a name."""
        for name, least in (("reads", 1), ("recalibration", 0)):
            if getattr(chips, name) < least:
                raise UserError(f"expected {name} >= {least}, got {getattr(chips, name)}")
        kinds = _listed(chips.compensation)
        for kind in kinds:
            check_compensation(kind)
        given = _listed(chips.times)
        if not given or not kinds:
            raise UserError(f'expected times and compensations, got {given} and {kinds}; "1h" is a time')
        times = [float("nan") if t is None else float(Duration(t)) for t in given]
        converters = {str(one): one for one in map(Converters.parse, _listed(chips.converters))}
        if not converters:
            raise UserError('expected converters, got none; "none" are ideal ones')
        backend = Backend.parse(chips.backend)
        if str(backend) != "direct" and set(converters) != {"none"}:
            raise UserError(
                f"expected converters none with backend {backend}, which has its own, got {', '.join(converters)}"
            )
        readings = [
            {"t": t, "read": read, "compensation": kind, "converters": text}
            for t, read, kind, text in product(
                dict.fromkeys(times), range(chips.reads), dict.fromkeys(kinds), converters
            )
        ]
        counts = {"": chips.recalibration}
        if chips.calibration is not None or isinstance(data, Splits):
            # Without training images a network that has ranges of its training needs none; another one is refused.
            counts |= {text: one.calibration for text, one in converters.items()}
        calibration = {text: _calibration(chips.calibration, data, count) for text, count in counts.items()}
        sampled = cache(partial(_calibration, chips.calibration, data))
        if not isinstance(chips.ranges, Mapping) and chips.ranges not in ("trained", "new"):
            raise UserError(f"expected ranges trained or new (or by layer, as Engine.ranges), got {chips.ranges!r}")
        return cls(readings, converters, backend, chips.recalibration, chips.ranges, calibration, sampled)

    def images(self, where: Where) -> list[Labelled]:
        """The training images, each set once: the same may serve several purposes."""
        texts = [own.converters for _, own in where.table.rows if own.converters is not None]
        counts = sorted({Converters.parse(text).calibration for text in texts})
        used = [*self.calibration.values(), *map(self.sampled, counts)]
        return list(dict.fromkeys(images for images in used if images is not None))


def _unfolded_if_need_be(compute: Callable[..., Any]) -> Callable[..., Any]:
    """``compute`` once more, and from then on, without folded norms where the network turns out to pass by one."""

    @wraps(compute)
    def computed(self: ModelOnChips, *args: Any, **options: Any) -> Any:
        try:
            return compute(self, *args, **options)
        except NotFolded:
            self.folding = None
            return compute(self, *args, **options)

    return computed


class ModelOnChips:
    """One trained network on one simulated chip after the other: each draw of the noise is a chip.

    ``read_once``: each chip is read once, so that none of it need be kept.
    """

    def __init__(
        self,
        model: EvaluatedModel,
        conditions: Conditions,
        metrics: Mapping[str, Any] | None = None,
        read_once: bool = False,
    ) -> None:
        self.model, self.conditions = model, conditions
        self.metrics, self.read_once = metrics or {}, read_once
        network, compute = model.network, model.compute
        few = [model.batches[0][:2], model.batches[-1][-2:]] if model.batches else []
        images, *others = [model.task.inputs(network, batch) for batch in few] or [None]
        patterns = model.where.patterns
        self.noisy = NoisyWeights(network, **patterns)
        # A scoring function has inputs of its own.
        scorer = model.task if isinstance(model.task, Scorer) else None
        run = partial(call, network, images) if scorer is None else partial(scorer.score, network)
        self.opened = conditions.backend.open(network, self.noisy, run, compute.precision)
        self.calibration: Sequence[Batch] = self._prepared(conditions.calibration[""])
        found, own = self._trained_ranges()
        named = {text: replace(one, learnt=True) if text == own else one for text, one in conditions.converters.items()}
        readings = [one | {"converters": str(named[one["converters"]])} for one in conditions.readings]
        self.readings = [one for index, one in enumerate(readings) if one not in readings[:index]]
        """Those of the conditions; converters whose ranges are those of training are ``learnt``, asked for once."""
        with autocast(device_of(network), compute.precision):
            self.converting = {
                str(one): Converting(network, one, **patterns, calibration=self._inputs, ranges=found)
                for one in named.values()
            }
        # Between a layer and its norm there must be nothing, and the norm's statistics must be known.
        sharded = mesh_of(network) is not None
        plain = self.opened.plain and not self.calibration
        foldable = plain and compute.fold and not sharded and images is not None
        self.folding = Folding(self.noisy, images, *others) if foldable else None
        moments = {(str(one["t"]), one["read"]) for one in self.readings}
        self.reads_again = not read_once and len(self.readings) > len(moments)
        """Whether some readings of a chip differ in what is done with its outputs alone."""
        self.compiled: Any = None
        if compute.compile:
            if not plain or not all(one.is_identity for one in self.converting.values()):
                raise UserError(
                    "expected backend direct without converters or recalibration with compile; leave it out"
                )
            self.settle_folding()
            self.compiled = torch.compile(unwrap(network), dynamic=False)
            require_weights(self.compiled)  # the compiler may be told to copy them
        self.programmed: Programmed | None = None
        self.answers_to_weights = not self.opened.plain
        """Whether noise is known to reach the network, or is somebody else's business."""

    def _trained_ranges(self) -> tuple[Mapping[str, Any] | None, str]:
        """The ranges that training found, and the text of the converters that it found them with, if they are fixed."""
        source, asked = self.model.source, self.conditions.ranges
        about: Mapping[str, Any] = {} if isinstance(source, nn.Module) else source.about
        if not isinstance(asked, str):
            return asked, ""
        if asked == "new":
            return None, ""
        if wanted := learnt(self.conditions.converters, asked):
            require_ranges(source, wanted)
        text = about.get("settings", {}).get("converters", "none")
        known = text in self.conditions.converters and about.get("ranges")
        return about.get("ranges"), text if known and self.conditions.converters[text].has_ranges else ""

    @property
    def ranges(self) -> str:
        """One line: where fixed ranges of converters come from; empty where there are none."""
        lines = []
        for text, one in self.converting.items():
            fixed = [layer for layer in one.layers if layer.converters.has_ranges]
            trained = sum(layer.converters.learnt for layer in fixed)
            parts = [(trained, "found in training"), (len(fixed) - trained, "calibrated now")]
            told = " and ".join(f"of {count} layers {how}" for count, how in parts if count)
            lines += [f"{text}: {told}"] if fixed else []
        return "; ".join(lines)

    @property
    def uncovered(self) -> dict[str, str]:
        """Analog weights without converters, and why."""
        return {name: reason for one in self.converting.values() for name, reason in one.uncovered.items()}

    def always_same(self, noise: NoiseModel, converters: str) -> bool:
        """Whether every draw is the same, at any time: without noise, unless the outputs are noisy."""
        noiseless = self.noisy.is_identity(noise) and not self.converting[converters].noisy
        return noiseless and self.opened.exact

    def layer_outputs(self, converters: str) -> str:
        """Whether settings of single layers make outputs noisy where these ``converters`` do not."""
        converting = self.converting[converters]
        return "noisy" if converting.noisy and not converting.converters.is_noisy else "quiet"

    def answer(self, answer: str, converters: str) -> str:
        """The network's own ``answer``, with a digest of the ranges that these ``converters`` were given: rows that
        were stored for others are as much another network's."""
        given = {one.name: one.described for one in self.converting[converters].layers if one.taken}
        return f"{answer} ranges={_digest(given)}".strip() if given else answer

    def strength(self, noise: NoiseModel) -> float:
        """The largest strength that the noise has in a layer."""
        return max(weight.noise(noise).strength for weight in self.noisy.weights)

    def next_chip(self) -> None:
        """Forget the chip: the next reading is of another draw."""
        self.programmed = None

    @contextmanager
    def reading(
        self,
        noise: NoiseModel,
        stream: Stream,
        t: float,
        read: int,
        compensation: Compensation,
        converters: str,
        watch: bool = False,
    ) -> Iterator[nn.Module]:
        """Inside, what computes with the chip that ``stream`` names, at time ``t`` (s; NaN: the noise model's own).

        ``watch``: raise :class:`NotFolded` where norms are folded that should not be.
        """
        time = None if t != t else t
        if not (self.noisy.is_identity(noise) or self.answers_to_weights):
            self.require_effect()
        if self.programmed is None and not self.noisy.is_identity(noise):
            self.programmed = self.opened.program(self.noisy, noise, stream, self.read_once)
            self.programmed.keeps_reads = self.reads_again
        converting = self.converting[converters]
        with ExitStack() as stack:
            if self.programmed is None:
                stack.enter_context(self.noisy.held())
            network = stack.enter_context(self.opened.reading(self.programmed, stream, time, read, compensation))
            if self.folding and self.programmed is not None and converting.is_identity:
                stack.enter_context(self.folding.folded(watch and self.compiled is None))
            stack.enter_context(converting.applied(output_stream(stream, time, read)))
            # Networks that draw when they compute (dropout that stays on, samplers) draw the same for the same chip.
            stack.enter_context(seeded(read_stream(stream.child("network"), time, read), device_of(self.model.network)))
            if self.calibration:
                stack.enter_context(recalibrated(network, self.calibration, self.model.compute.precision))
            yield network if self.compiled is None else self.compiled
        converting.check_called()

    def settle_folding(self) -> None:
        """See by a pass over all images whether norms may be folded, for readings that nobody watches."""
        if self.folding is None or not self.folding.pairs:
            return
        model, network = self.model, self.model.network
        try:
            with (
                torch.no_grad(),
                evaluating(network),
                autocast(device_of(network), model.compute.precision),
                seeded(Stream(0, "folding"), device_of(network)),
                self.noisy.replaced(lambda weight: weight.value()),
                self.folding.folded(watch=True),
            ):
                for batch in model.batches:
                    model.task.call(network, batch)
        except NotFolded:
            self.folding = None

    def require_effect(self) -> None:
        """Refuse a network that noise would not reach; once, before the first noise that moves weights."""
        model = self.model
        if model.batches:  # a scoring function has its own
            ask = partial(model.task.call, model.network)
            require_effect(self.noisy, ask, model.batches[0], model.compute.precision)
        self.answers_to_weights = True

    @_unfolded_if_need_be
    def score(self, noise: NoiseModel, stream: Stream, **reading: Any) -> dict[str, float]:
        """The metrics of the chip on all images; ``reading`` is that of :meth:`reading`."""
        with self.reading(noise, stream, watch=True, **reading) as network:
            model = self.model
            return score(network, model.batches, model.compute.precision, model.task, meters(self.metrics, model.task))

    @cached_property
    def margins(self) -> np.ndarray:
        """The clean margins of all images, by one pass of the network itself."""
        return self._answers(self.model.network, self.model.batches)[1].double().cpu().numpy()

    @cached_property
    def quick_margins(self) -> np.ndarray:
        """The same in bf16, with norms folded."""
        return self._quick_margins()

    @_unfolded_if_need_be
    def _quick_margins(self) -> np.ndarray:
        with ExitStack() as stack:
            if self.folding:
                stack.enter_context(self.noisy.replaced(lambda weight: weight.value()))
                stack.enter_context(self.folding.folded(watch=True))
            found = self._answers(self.model.network, self.model.batches, "bf16")[1]
        return found.double().cpu().numpy()

    @_unfolded_if_need_be
    def correct(self, noise: NoiseModel, stream: Stream, positions: np.ndarray, **reading: Any) -> Answered:
        """Whether the chip is right, on the images at ``positions``; ``reading`` is that of :meth:`reading`."""
        with self.reading(noise, stream, watch=True, **reading) as network:
            right, margin = self._answers(network, pick(self.model.batches, positions))
        return Answered(right.cpu().numpy(), undefined=_undefined(right, margin))

    @_unfolded_if_need_be
    def correct_by_bf16(
        self,
        noise: NoiseModel,
        stream: Stream,
        positions: np.ndarray,
        difference_weights: Callable[[np.ndarray], np.ndarray],
        **reading: Any,
    ) -> Answered:
        """Whether the chip is right by bf16, and what is to be added to that: ``difference_weights(margins)`` says how
        much the difference of each image counts; those with 0 are not computed in the model's own precision."""
        with self.reading(noise, stream, watch=True, **reading) as network:
            size = 2 * len(self.model.batches[0])  # an open network, noise and all, for as few passes as can be
            right, margin = self._answers(network, pick(self.model.batches, positions, size), "bf16")
            quick, added = right.cpu().numpy(), difference_weights(margin.double().cpu().numpy())
            (again,) = added.nonzero()
            if len(again):
                own = self._answers(network, pick(self.model.batches, positions[again]))[0].cpu().numpy()
                added[again] *= own.astype(float) - quick[again]
        return Answered(quick, added, _undefined(right, margin))

    def _answers(
        self, network: nn.Module, batches: Sequence[Batch], precision: Precision | None = None
    ) -> tuple[Tensor, Tensor]:
        return answers(network, batches, precision or self.model.compute.precision, self.model.task)

    def _inputs(self, images: int) -> list[Any]:
        """Batches of the inputs of so many training images."""
        return [batch.inputs for batch in self._prepared(self.conditions.sampled(images))]

    def _prepared(self, data: Labelled | None) -> Sequence[Batch]:
        """Training images, normalised as the test images are."""
        if data is None:
            return []
        normalized = data.with_normalization(self.model.dataset.mean, self.model.dataset.std)
        first = self.model.batches[:1]
        channels_last = all(nests.first(b.inputs).is_contiguous(memory_format=torch.channels_last) for b in first)
        return prepare(normalized, device_of(self.model.network), CALIBRATION_BATCH, channels_last)


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _undefined(right: Tensor, margin: Tensor) -> int:
    """How many answers are NaN or infinite: those are wrong, and have no finite margin."""
    return int((~right & ~margin.isfinite()).sum())


def _listed(values: Any) -> list[Any]:
    single = isinstance(values, (str, Mapping)) or not hasattr(values, "__iter__")
    return [values] if single else list(values)


def _calibration(calibration: Any, data: Any, images: int) -> Labelled | None:
    """The training images to calibrate from: a sample stratified by class, the same for every chip."""
    if not images:
        return None
    if calibration is None and not isinstance(data, Splits):
        raise UserError("expected calibration=... (training images) to calibrate from, since data have no name")
    source = data if calibration is None else named_data(calibration, [])
    return part_of(source, "train").sample(images, Stream(0, "calibration"))
