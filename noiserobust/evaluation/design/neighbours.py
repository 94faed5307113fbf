"""Sets of noisy layers that differ in one layer from one set, measured together: what lies before it computes once.

Per draw the network is put under the noise of the one set, and a pass over some batches keeps what its modules gave.
Then layer after layer changes sides, and every module in front of it, or beside it, gives what it gave
(:mod:`noiserobust.models.reuse`). :func:`noiserobust.evaluate` of each set gives the same numbers, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from noiserobust.analog.noisy import NoisyWeights, report_stream
from noiserobust.data import Batch, nests
from noiserobust.evaluation.evaluated_models import EvaluatedModel, EvaluatedModels
from noiserobust.evaluation.frozen import moved_far
from noiserobust.evaluation.monte_carlo import columns_of, draw_numbers
from noiserobust.evaluation.on_chips import Conditions, ModelOnChips
from noiserobust.evaluation.settings import Chips, Where
from noiserobust.models.compute import autocast, device_of
from noiserobust.models.modes import evaluating
from noiserobust.models.reuse import Reuse
from noiserobust.noise import NoiseModel
from noiserobust.noise.sharded import mesh_of
from noiserobust.rng import Stream, kept_generators
from noiserobust.storage.ledger import Ledger
from noiserobust.tasks import Scorer

FEW = 2
"""Samples of each of two batches on which a network shows that outputs may be given again."""


@dataclass(frozen=True)
class Setting:
    """Which weights are noisy, under which noise, and what happens around the chips."""

    where: Where
    noise: NoiseModel
    chips: Chips


@dataclass(frozen=True)
class Neighbour:
    """A set of noisy layers, and the layer that sets it apart: noisy here and clean in the base, or the reverse."""

    setting: Setting
    only: Where
    """Which weights are analog where that layer alone is."""
    becomes_noisy: bool


@dataclass
class _Side:
    """One set of noisy layers of one network."""

    label: str
    on_chips: ModelOnChips
    noise: NoiseModel
    columns: Mapping[str, Any]
    layer: NoisyWeights | None = None
    """What sets it apart from the base; None: nothing does, it is the base."""
    becomes_noisy: bool = False
    changed: Collection[nn.Module] = ()


def measured_together(
    networks: EvaluatedModels,
    base: tuple[str, Setting],
    neighbours: Mapping[str, Neighbour],
    draws: int | range,
    seed: int,
    ledger: Ledger,
    update: Callable[[int], object],
) -> dict[str, pd.DataFrame]:
    """The rows of every set of ``neighbours``, by its label, and those of the ``base`` unless that is the digital
    network; nothing at all where outputs may not be given again."""
    numbers, conditions = draw_numbers(draws), Conditions.of(base[1].chips, networks.data)
    columns: dict[str, Any] = {"seed": seed, "recalibration": conditions.recalibration}
    rows: dict[str, list[int]] = {}
    count = 0
    with closing(ledger):
        for copy in networks:
            sides = _sides(copy, base, neighbours, columns, networks.data)
            passes = None if sides is None else Passes.of(copy, sides)
            if sides is None or passes is None:
                return {}
            for draw in numbers:
                for side, unit, values in passes.of_draw(draw, seed, ledger):
                    ledger.add(unit, values)
                    rows.setdefault(side.label, []).extend(range(count, count + len(values)))
                    count += len(values)
                update(len(sides))
    table = ledger.table()
    return {label: table.iloc[places].reset_index(drop=True) for label, places in rows.items()}


def _sides(
    copy: EvaluatedModel,
    base: tuple[str, Setting],
    neighbours: Mapping[str, Neighbour],
    columns: Mapping[str, Any],
    data: Any,
) -> list[_Side] | None:
    """The base and its neighbours of one network; None where more than weights, or nothing, differs between them."""
    if isinstance(copy.task, Scorer) or mesh_of(copy.network) is not None or not Reuse.possible(copy.network):
        return None

    def side(label: str, setting: Setting, one: EvaluatedModel = copy, **about: Any) -> _Side:
        conditions = Conditions.of(setting.chips, data)
        on_chips = ModelOnChips(one.under(setting.where), conditions, None, len(conditions.readings) == 1)
        on_chips.settle_folding()
        return _Side(label, on_chips, setting.noise, columns_of(on_chips, setting.noise, columns), **about)

    sides = [side(*base)]
    # What becomes clean inside the base is unfolded there.
    unfolded = replace(copy, compute=replace(copy.compute, fold=False))
    for label, one in neighbours.items():
        sides.append(side(label, one.setting, copy if one.becomes_noisy else unfolded))
        sides[-1].becomes_noisy = one.becomes_noisy
        changed = sides[-1].on_chips.noisy if one.becomes_noisy else NoisyWeights(copy.network, **one.only.patterns)
        sides[-1].layer = changed
    return sides if all(map(_is_weights_only, sides)) else None


def _is_weights_only(side: _Side) -> bool:
    """Whether a chip is its weights and nothing else, and another one in every draw (the base may be digital)."""
    on_chips = side.on_chips
    ideal = all(one.is_identity for one in on_chips.converting.values()) and on_chips.opened.plain
    same = any(on_chips.always_same(side.noise, text) for text in on_chips.converting)
    return ideal and not on_chips.calibration and not (same and side.layer is not None)


@dataclass
class Passes:
    """Passes of one network under a base and its neighbours."""

    base: _Side
    sides: Sequence[_Side]
    reuse: Reuse
    batches: int
    """How many batches are kept at a time."""

    @classmethod
    def of(cls, copy: EvaluatedModel, sides: Sequence[_Side]) -> Passes | None:
        """Those of ``copy``; None where outputs given again are not what a plain pass gives, or take too much memory.

        Every layer's weights are moved by several times their size, and two batches of a few samples asked plainly and
        with outputs given again: the answers must be the same, bit for bit.
        """
        base, network = sides[0], copy.network
        if not base.on_chips.noisy.is_identity(base.noise):
            base.on_chips.require_effect()
        for side in sides:
            side.on_chips.answers_to_weights = True  # where all layers' noise was seen to arrive
        reuse = Reuse(network)
        samples = [copy.batches[0][:FEW], copy.batches[-1][-FEW:]]
        with torch.no_grad(), kept_generators(device_of(network)), evaluating(network), _autocast(copy):
            try:
                sizes = _sizes(reuse, samples, sides[1:], partial(copy.task.call, network))
            except (RuntimeError, ValueError, TypeError, IndexError):  # takes no such few
                return None
        if sizes is None:
            return None
        room = copy.compute.reuse * 2**20 / max(map(len, copy.batches))
        depths = [depth for depth, size in enumerate(sizes, 1) if size <= room]
        if not depths:
            return None
        reuse = Reuse(network, max(depths))
        for side in sides[1:]:
            layer, foldings = side.layer, (base.on_chips.folding, side.on_chips.folding)
            assert layer is not None
            owners = [weight.owner for weight in layer.weights]
            norms = [pair.norm for folding in foldings if folding for pair in folding.of(owners)]
            side.changed = reuse.holding([*_parts(layer), *norms])
        kept = int(room / max(1.0, sizes[max(depths) - 1]))
        return cls(base, sides, reuse, max(1, min(kept, len(copy.batches))))

    def of_draw(self, draw: int, seed: int, ledger: Ledger) -> Iterator[tuple[_Side, dict[str, Any], dict[str, float]]]:
        """Side, unit and values of one draw; what ``ledger`` knows is not computed."""
        copy = self.base.on_chips.model
        stream = report_stream(seed, copy.replicate, draw)
        for side in self.sides:
            side.on_chips.next_chip()
        sides = self.sides if self._base_is_noisy else self.sides[1:]
        for index, reading in enumerate(sides[-1].on_chips.readings):
            units: dict[str, dict[str, Any]] = {}
            for side in sides:
                now = side.on_chips.readings[index]
                outputs = side.on_chips.layer_outputs(now["converters"])
                answer = side.on_chips.answer(side.columns["answer"], now["converters"])
                units[side.label] = {**side.columns, "draw": draw, **now, "layer_outputs": outputs, "answer": answer}
            found: dict[str, Any] = {label: ledger.find(unit) for label, unit in units.items()}
            if wanted := [side for side in sides if found[side.label] is None]:
                found |= self._values(wanted, stream, reading)
            yield from ((side, units[side.label], found[side.label]) for side in sides)

    @property
    def _base_is_noisy(self) -> bool:
        return not self.base.on_chips.noisy.is_identity(self.base.noise)

    def _values(self, wanted: Sequence[_Side], stream: Stream, reading: Mapping[str, Any]) -> dict[str, Any]:
        """The metrics of the ``wanted`` sides on one chip."""
        copy = self.base.on_chips.model
        network, task, batches = copy.network, copy.task, copy.batches
        clean = {
            weight.name: weight.value().clone()
            for side in wanted
            if side.layer is not None and not side.becomes_noisy
            for weight in side.layer.weights
        }
        meters = {side.label: task.meter() for side in wanted}

        def count(side: _Side, batch: Batch) -> None:
            predictions = task.predictions(task.call(network, batch))
            if side.label in meters:
                meters[side.label].update(predictions, batch)

        with torch.no_grad(), evaluating(network), _autocast(copy), ExitStack() as stack:
            if self._base_is_noisy:
                stack.enter_context(self.base.on_chips.reading(self.base.noise, stream, **reading))
            stack.enter_context(self.reuse.open())
            for start in range(0, len(batches), self.batches):
                chunk = dict(enumerate(batches[start : start + self.batches]))
                for index, batch in chunk.items():
                    with self.reuse.noted(index):
                        count(self.base, batch)
                for side in wanted:
                    if side is self.base:
                        continue
                    with self._on_side(side, clean, stream, reading):
                        for index, batch in chunk.items():
                            with self.reuse.again(index, side.changed):
                                count(side, batch)
                self.reuse.forget()
        return {label: meter.compute() for label, meter in meters.items()}

    @contextmanager
    def _on_side(
        self, side: _Side, clean: Mapping[str, Tensor], stream: Stream, reading: Mapping[str, Any]
    ) -> Iterator[None]:
        """Inside the base, the layer that sets ``side`` apart is as it is there."""
        assert side.layer is not None
        if side.becomes_noisy:
            with side.on_chips.reading(side.noise, stream, **reading):
                yield
            return
        folding, owners = self.base.on_chips.folding, [weight.owner for weight in side.layer.weights]
        with side.layer.replaced(lambda weight: clean[weight.name]), ExitStack() as stack:
            for pair in folding.of(owners) if folding else ():
                stack.enter_context(pair.unfolded())
            yield


def _sizes(
    reuse: Reuse, samples: Sequence[Batch], sides: Sequence[_Side], ask: Callable[[Batch], Any]
) -> list[float] | None:
    """Bytes of a sample's outputs down to each depth; None where outputs given again are others than a plain pass's."""

    def answers(side: _Side | None, around: Callable[[int], AbstractContextManager[None]]) -> list[list[Tensor]]:
        with ExitStack() as stack:
            if side is not None and side.layer is not None:
                stack.enter_context(side.layer.replaced(partial(moved_far, stream=Stream(0, "reuse"))))
            found = []
            for index, batch in enumerate(samples):
                with around(index):
                    found.append([tensor.clone() for tensor in nests.tensors(ask(batch))])
        return found

    plain = [answers(side, lambda index: nullcontext()) for side in (None, *sides)]
    with reuse.open():
        again = [answers(None, reuse.noted)]
        for side in sides:
            assert side.layer is not None
            changed = reuse.holding(_parts(side.layer))
            again.append(answers(side, partial(reuse.again, changed=changed)))
        sizes = [size / len(samples[0]) for size in reuse.bytes_by_depth(0)]
    return sizes if _are_same(plain, again) else None


def _are_same(ones: Any, others: Any) -> bool:
    """Whether nested lists of tensors are the same, bit for bit (NaN being NaN)."""
    if isinstance(ones, Tensor):
        return ones.shape == others.shape and torch.allclose(ones, others, rtol=0, atol=0, equal_nan=True)
    return len(ones) == len(others) and all(map(_are_same, ones, others))


def _parts(layer: NoisyWeights) -> list[Any]:
    """The modules and parameters that its weights lie in."""
    return [part for weight in layer.weights for part in (weight.owner, *weight.latents)]


def _autocast(copy: EvaluatedModel) -> AbstractContextManager[None]:
    return autocast(device_of(copy.network), copy.compute.precision)
