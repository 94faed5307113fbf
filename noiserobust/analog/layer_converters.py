"""The converters of one layer: its inputs rounded, the sums of its crossbars made noisy, rounded and added up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from noiserobust.analog.factors import gain_of
from noiserobust.analog.input_vectors import CONVOLUTIONS, input_vectors
from noiserobust.analog.places import AnalogWeight
from noiserobust.analog.ranges import (
    InputRanges,
    Ranges,
    TrainedRanges,
    at_adc,
    at_dac,
    exact,
    percentile_of,
    stored_ranges,
    straight,
)
from noiserobust.errors import UserError
from noiserobust.noise import reference_scale
from noiserobust.noise.reference import even_split
from noiserobust.noise.sharded import is_sharded, whole
from noiserobust.rng import Stream

if TYPE_CHECKING:
    from noiserobust.analog.converters import Converters

_HOOKED: WeakKeyDictionary[nn.Module, LayerConverters] = WeakKeyDictionary()
"""The converters that layers compute with at present."""
CHUNK = 64
"""Rows of an output whose noise has a name of its own, so that it does not depend on the batch size."""
AT_ONCE = 1 << 24
"""Numbers that all input vectors of some samples may have, which lie in memory at the same time."""


@dataclass
class Crossbar:
    """Some of a layer's inputs, with all its outputs: what is summed up before an ADC."""

    inputs: slice
    """Of the weight's inputs, flattened."""
    scale: Tensor
    """(outputs,) or (1,): the weight s that is stored as the largest conductance."""
    number: int
    ranges: Ranges | None = None
    """``None``: they follow the inputs."""


class LayerConverters:
    """The converters of one layer."""

    def __init__(self, name: str, module: nn.Module, converters: Converters, weight: AnalogWeight) -> None:
        self.name, self.module, self.converters, self.weight = name, module, converters, weight
        self.spatial = CONVOLUTIONS.get(type(module).forward, 0)
        self.crossbars = list(_crossbars(weight, converters))
        self.whole = len(self.crossbars) == 1 and (converters.inputs == "sample" or not self.spatial)
        """Whether the layer's own product, of rounded inputs, is what its one crossbar sums up."""
        self.taken = False
        """Whether its ranges were given, and not found in inputs."""
        self.calls = 0

    def rescale(self) -> None:
        """Take s from the weight as it is now."""
        for crossbar, now in zip(self.crossbars, _crossbars(self.weight, self.converters), strict=True):
            crossbar.scale = now.scale

    def train(self, how: InputRanges) -> None:
        """Find the ranges in passes from now on."""
        io = self.converters
        if io.learnt and (io.dac is None or io.ranges == "column"):
            raise UserError(f"io: expected bits of the DAC, and ranges=layer, to learn ranges in training, got {io}")
        for crossbar in self.crossbars:
            zero = crossbar.scale.new_zeros(
                self.weight.as_rows(self.weight.value()).shape[0] if io.ranges == "column" else (), dtype=torch.float32
            )
            own, outputs = (how, None) if io.learnt else (None, zero)
            crossbar.ranges = TrainedRanges(own, io.percentile, io.images, outputs, zero.device)

    def take(self, stored: Mapping[str, Any] | None) -> None:
        """Have the ranges that training found, by the names of layers."""
        scale, io = self.crossbars[0].scale, self.converters
        shape = self.weight.as_rows(self.weight.value()).shape[:1] if io.ranges == "column" else ()
        found = stored_ranges(stored, self.name, len(self.crossbars), shape, scale.device)
        for crossbar, ranges in zip(self.crossbars, found, strict=True):
            crossbar.ranges = ranges
        self.taken = True

    @property
    def described(self) -> list[dict[str, Any]]:
        """The ranges as plain numbers, crossbar by crossbar."""
        return [crossbar.ranges.described for crossbar in self.crossbars if crossbar.ranges is not None]

    @contextmanager
    def hooked(self, stream: Stream) -> Iterator[None]:
        """Inside, calls of the layer go through the converters; output noise from ``stream``, row by row."""
        self.rows, reach = 0, torch.zeros(())

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal reach
            if not self.whole:
                return None
            name, given = (None, args[0]) if args else next(iter(kwargs.items()))
            x, (crossbar,) = exact(given), self.crossbars
            reach = self._sample_range(x) if crossbar.ranges is None else crossbar.ranges.reach(x)
            x = self._rounded(x, reach, crossbar).to(given.dtype)
            return ((x, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: x})

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            self.calls += 1
            # A single input vector without a batch dimension is a batch of one.
            batch = output if output.dim() > self.spatial + 1 else output.unsqueeze(0)

            def noise(crossbar: Crossbar, rows: slice) -> Tensor | None:
                if not self.converters.is_noisy:
                    return None
                own = stream.child("crossbar", crossbar.number) if crossbar.number else stream
                shape = (rows.stop - rows.start, *batch.shape[1:])
                return endless_rows(own, self.rows + rows.start, shape, batch.device)

            bias = self._bias()
            if self.whole:
                (crossbar,), y = self.crossbars, exact(output) - bias
                field = noise(crossbar, slice(0, len(batch)))
                field = None if field is None else field.view(y.shape)
                value = self._digital(crossbar, y, reach * self._along(crossbar.scale), field, self.spatial)
            else:
                x = exact(args[0] if args else next(iter(kwargs.values())))
                sums = self._summed_up(x if batch is output else x.unsqueeze(0), batch.shape, noise)
                value = sums.view(output.shape)
            self.rows += len(batch)
            return (value + bias).to(output.dtype)

        with (
            self.module.register_forward_pre_hook(before, with_kwargs=True),
            self.module.register_forward_hook(after, with_kwargs=True),
        ):
            outer = _HOOKED.get(self.module)
            _HOOKED[self.module] = self
            try:
                yield
            finally:
                _HOOKED.pop(self.module)
                if outer is not None:
                    _HOOKED[self.module] = outer

    @contextmanager
    def again(self, rows: int, held: Sequence[dict[str, Any] | None]) -> Iterator[None]:
        """Inside, calls are repeated that began at these rows of noise, with the ranges ``held``; nothing is learnt."""
        trained = [crossbar.ranges for crossbar in self.crossbars if isinstance(crossbar.ranges, TrainedRanges)]
        before, self.rows, calls = self.rows, rows, self.calls
        try:
            with ExitStack() as stack:
                for ranges, values in zip(trained, held, strict=True):
                    stack.enter_context(ranges.again(values))
                yield
        finally:
            self.rows, self.calls = before, calls

    @contextmanager
    def watched(self, seen: list[list[tuple[Tensor, Tensor]]]) -> Iterator[None]:
        """Inside, ``seen`` collects of every call, crossbar by crossbar, the percentiles of |x| and |W x|."""
        percentile, by_column = self.converters.percentile or 0.0, self.converters.ranges == "column"

        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            x, y = exact(args[0] if args else next(iter(kwargs.values()))), exact(output) - self._bias()
            found = [(x, y.movedim(-1 - self.spatial, 0))]
            if not self.whole:
                if y.dim() == self.spatial + 1:
                    x, y = x.unsqueeze(0), y.unsqueeze(0)
                vectors = input_vectors(module, x, y.shape)
                parts = [vectors[..., crossbar.inputs] for crossbar in self.crossbars]
                sums = [self._product(part, crossbar) for part, crossbar in zip(parts, self.crossbars, strict=True)]
                found = [(part, one.movedim(-1, 0)) for part, one in zip(parts, sums, strict=True)]
            seen.append(
                [
                    (
                        percentile_of(inputs.abs().flatten(), percentile),
                        percentile_of(outputs.abs().flatten(1 if by_column else 0), percentile),
                    )
                    for inputs, outputs in found
                ]
            )

        with self.module.register_forward_hook(record, with_kwargs=True):
            yield

    def fix(self, seen: Sequence[list[tuple[Tensor, Tensor]]]) -> None:
        """Fix the ranges at the mean of what was seen in each batch."""
        for crossbar, pairs in zip(self.crossbars, zip(*seen, strict=True), strict=True):
            inputs, outputs = (torch.stack(values).mean(0) for values in zip(*pairs, strict=True))
            crossbar.ranges = Ranges(inputs, outputs)

    def _summed_up(self, x: Tensor, shape: torch.Size, noise: Callable[[Crossbar, slice], Tensor | None]) -> Tensor:
        """What the crossbars give for a batch ``x``, digitised one by one and added up, of the output's ``shape``."""
        positions = shape[2:] if self.spatial else shape[1:-1]
        numbers = positions.numel() * getattr(self.module, "groups", 1) * self.crossbars[-1].inputs.stop
        step, sums = max(AT_ONCE // max(numbers, 1), 1), []
        for start in range(0, max(len(x), 1), step):
            rows = slice(start, min(start + step, len(x)))
            some, of = x[rows], torch.Size((rows.stop - start, *shape[1:]))
            vectors, total = input_vectors(self.module, some, of), torch.zeros((), device=x.device)
            for crossbar in self.crossbars:
                part = vectors[..., crossbar.inputs]
                reach = self._range(some, vectors, part, crossbar)
                y = self._product(self._rounded(part, reach, crossbar), crossbar)
                groups = vectors.shape[2]
                unit = reach.expand(*vectors.shape[:3], y.shape[-1] // groups).reshape(y.shape) * crossbar.scale
                field = noise(crossbar, rows)
                field = None if field is None else self._outputs_last(field).reshape(y.shape)
                total = total + self._digital(crossbar, y, unit, field, 0)
            sums.append(total.movedim(-1, 1).reshape(of) if self.spatial else total.reshape(of))
        return torch.cat(sums)

    def _product(self, vectors: Tensor, crossbar: Crossbar) -> Tensor:
        """(samples, positions, outputs): the sums of a crossbar for vectors (samples, positions, groups, inputs)."""
        weight = exact(self.weight.outputs.rows(self.module.weight)).flatten(1)[:, crossbar.inputs]  # type: ignore[arg-type]
        with torch.autocast(vectors.device.type, enabled=False):
            grouped = weight.unflatten(0, (vectors.shape[2], -1))
            return torch.einsum("nlgi,goi->nlgo", vectors, grouped.to(vectors.dtype)).flatten(2)

    def _digital(self, crossbar: Crossbar, y: Tensor, unit: Tensor, field: Tensor | None, spatial: int) -> Tensor:
        """The sums ``y`` of a crossbar after its output noise, its ADC and its digital factor."""
        gain = gain_of(self.weight.owner, self.weight.attribute, crossbar.inputs)
        if gain is not None:  # it is in y, since it is in the weight
            gain = gain.to(y.dtype).reshape(-1, *[1] * spatial)
            y = y / gain
        if crossbar.ranges is not None:
            crossbar.ranges.observe(y.movedim(-1 - spatial, 0))
        value = y.detach()
        if field is not None:
            value = value + self._noise_std(value, unit.detach()) * field
        if self.converters.adc is not None:
            bound = self.converters.bound * unit
            if crossbar.ranges is not None and (fixed := crossbar.ranges.outputs) is not None:
                bound = fixed.reshape(-1, *[1] * spatial) if fixed.dim() else fixed
            value = at_adc(value, y, bound, self.converters.adc)
        else:
            value = straight(value, y)
        return value if gain is None else value * gain

    def _rounded(self, x: Tensor, reach: Tensor, crossbar: Crossbar) -> Tensor:
        return x if self.converters.dac is None else at_dac(x, reach, self.converters.dac, crossbar.ranges)

    def _noise_std(self, y: Tensor, unit: Tensor) -> Tensor:
        constant, shot = self.converters.noise * unit, self.converters.shot
        return (constant**2 + shot**2 * unit * y.abs()).sqrt() if shot else constant

    def _sample_range(self, x: Tensor) -> Tensor:
        """max|x| of each sample, in a shape that broadcasts against inputs and outputs."""
        return x.detach().abs().amax(tuple(range(-1 - self.spatial, 0)), keepdim=True)

    def _range(self, x: Tensor, vectors: Tensor, part: Tensor, crossbar: Crossbar) -> Tensor:
        """The DAC's range for a crossbar's ``part`` of the input ``vectors`` of ``x``, in a shape like theirs."""
        if crossbar.ranges is not None:
            return crossbar.ranges.reach(part)
        if self.spatial and self.converters.inputs == "sample":
            return self._sample_range(x).view(-1, 1, 1, 1)
        own = part if self.converters.inputs == "tile" else vectors
        return own.detach().abs().amax(-1, keepdim=True)

    def _bias(self) -> Tensor | float:
        bias = self.module.bias
        return self._along(exact(whole(bias))) if isinstance(bias, Tensor) else 0.0

    def _along(self, values: Tensor) -> Tensor:
        """One value per output (or one for all), in a shape that broadcasts against the output."""
        return values.reshape(-1, *[1] * self.spatial)

    def _outputs_last(self, rows: Tensor) -> Tensor:
        return rows.movedim(1, -1) if self.spatial else rows


def repeated(layer: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """What makes later calls of ``layer`` repeat those from now on, if it computes with converters."""
    converters = _HOOKED.get(layer)
    if converters is None:
        return nullcontext
    trained = (crossbar.ranges for crossbar in converters.crossbars if isinstance(crossbar.ranges, TrainedRanges))
    return partial(converters.again, converters.rows, [ranges.held() for ranges in trained])


def _crossbars(weight: AnalogWeight, converters: Converters) -> Iterator[Crossbar]:
    """Those that the inputs of a weight are cut into; one but for a tile reference."""
    rows, reference = weight.as_rows(weight.value()), converters.reference
    if not reference.startswith("tile"):
        scale = whole(reference_scale(rows, reference)).flatten()
        yield Crossbar(slice(0, rows[0].numel()), scale, 0)
        return
    if is_sharded(rows):
        raise UserError(f"io: expected reference filter or layer for weights sharded over processes, got {reference}")
    scale = reference_scale(rows, reference, converters.rows, converters.columns).flatten(1)
    for number, inputs in enumerate(even_split(scale.shape[1], converters.rows)):
        yield Crossbar(inputs, scale[:, inputs.start].clone(), number)


def endless_rows(stream: Stream, first: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Rows ``first``, ``first + 1``, ... of an endless standard normal field, as many as ``shape`` has."""
    if not shape[0]:
        return torch.zeros(tuple(shape), device=device)
    last = first + shape[0]
    pieces = []
    for chunk in range(first // CHUNK, -(-last // CHUNK)):
        inside = (max(first - chunk * CHUNK, 0), min(last - chunk * CHUNK, CHUNK))
        pieces.append(stream.child(chunk).normal((CHUNK, *shape[1:]), rows=inside, device=device))
    return torch.cat(pieces)
