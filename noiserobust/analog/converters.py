"""Converters at inputs and outputs of the arrays: DAC, output noise and ADC, on any model as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from noiserobust.analog.input_vectors import CONVOLUTIONS, is_linear
from noiserobust.analog.layer_converters import LayerConverters
from noiserobust.analog.layer_table import LayerTable
from noiserobust.analog.noisy import report_stream
from noiserobust.analog.places import AnalogWeight
from noiserobust.analog.ranges import InputRanges
from noiserobust.analog.weights import analog_weights, users
from noiserobust.errors import UserError
from noiserobust.models.compute import call
from noiserobust.models.modes import evaluating
from noiserobust.models.wrappers import unwrap
from noiserobust.noise import read_stream
from noiserobust.noise.base import check_strength
from noiserobust.noise.levels import check_bits
from noiserobust.noise.reference import Reference, check_reference
from noiserobust.rng import Stream
from noiserobust.spec import Described

DIRECT = "not called as a layer: its weight is used directly"


@dataclass(frozen=True)
class Converters(Described, family="converters", name="io"):
    r"""What lies between an analog layer :math:`y = W x + b` and the digital rest: ``io:dac=8,adc=8,noise=0.06``.

    .. math::
        \hat x = Q_{dac}(x;\ a), \qquad
        \hat y = c\, Q_{adc}(W \hat x + \sigma \zeta;\ bound \cdot a\, s) + b, \qquad
        \sigma^2 = (noise\; a\, s)^2 + shot^2\, a\, s\, |W \hat x|, \qquad \zeta \sim N(0, 1)

    Q with b bits rounds to :math:`2^b - 1` equally spaced levels from minus to plus its range, 0 among them, halves to
    the even level, and saturates there. Drift compensation, the factor c of an output, and the bias are digital: they
    come after the ADC.

    - ``dac``, ``adc``: bits; ``none`` is an ideal converter, which has no range either
    - ``noise``: standard deviation of the output noise, before the ADC, in units of a s: largest input times largest
      weight (aihwkit's ``out_noise``). Every output of every input vector gets its own.
    - ``shot``: noise that grows with the signal, as the shot noise of a current does, whose variance is proportional
      to it: its standard deviation is ``shot`` a s where the output is a s.
    - ``inputs``: whose max|x| the range a of the inputs is, without ``percentile``: of a Linear always that of each
      input vector, of a convolution that of each ``sample`` or of each ``patch``, as hardware has it whose DACs are set
      anew for every vector that they are given (in a grouped convolution, the patch of each group). ``tile``: of that
      part of each vector which a crossbar is given.
    - s: max|W| of the ``reference`` group of the weights as they were when the converters were made.
    - ``reference``: ``filter`` or ``layer``; the layer is one crossbar then. ``tile`` and ``tile-column`` cut it into
      crossbars of at most ``rows`` x ``columns``, as noise of that reference does. Each has its own output noise, ADC
      and c, and what they give is added up: :math:`\hat y = \sum_k c_k Q_{adc}(W_k \hat x_k + \sigma_k \zeta_k) + b`.
    - ``bound``: range of the ADC in units of a s (aihwkit's ``out_bound``)
    - ``percentile``: a and the range of the ADC are fixed per crossbar instead: the mean over calibration batches of
      that percentile of their |x| and of their |W x| in the digital network. :func:`noiserobust.evaluate` takes
      ``images`` training images for it, in batches of 128. ``ranges=column`` gives every output's ADC its own range. In
      training the first ``images`` samples calibrate, and the checkpoint keeps the ranges.
    - ``learnt``: a is fixed and learnt in training (:class:`~noiserobust.analog.ranges.InputRanges`; with a
      ``percentile`` it starts there). Evaluation has the ranges that training found.

    Where the noise's own crossbars are cut otherwise, c is the mean over the inputs of one of these, and what differs
    from it is folded into W. IR drop is left to whole-chip backends. Computed in float32 or better. Gradients pass
    straight through what is rounded, and not through what saturates.

    >>> str(Converters(8, 8, noise=0.06)), str(Converters())
    ('io:dac=8,adc=8,noise=0.06', 'none')
    """

    example: ClassVar[str] = "io:dac=8,adc=8,noise=0.06"
    leading: ClassVar[Literal["by key"]] = "by key"

    dac: int | None = None
    adc: int | None = None
    noise: float = 0.0
    bound: float = 12.0
    percentile: float | None = None
    images: int = 512
    reference: Reference = "filter"
    shot: float = 0.0
    ranges: Literal["layer", "column"] = "layer"
    inputs: Literal["sample", "patch", "tile"] = "sample"
    rows: int = 512
    columns: int = 512
    learnt: bool = False

    def __post_init__(self) -> None:
        for bits in (self.dac, self.adc):
            if bits is not None:
                check_bits("io", bits)
        check_strength("io", "noise", self.noise, "it is a fraction of max|x| max|w|, such as 0.06")
        check_strength("io", "shot", self.shot, "it is a fraction of max|x| max|w| where the output is as large")
        if self.ranges == "column" and self.percentile is None:
            raise UserError("io: expected a percentile beside ranges=column, got none; 99.9 is usual")
        if not 0 < self.bound < math.inf:
            raise UserError(f"io: expected a finite bound > 0, got {self.bound}; it is in units of max|x| max|w|")
        if self.percentile is not None and not 0 < self.percentile <= 100:
            raise UserError(f"io: expected a percentile in (0, 100], got {self.percentile}; 99.9 is usual")
        if self.images < 1:
            raise UserError(f"io: expected images >= 1 for the percentile, got {self.images}")
        check_reference("io", self.reference, self.rows, self.columns)
        if self.inputs != "sample" and self.percentile is not None:
            raise UserError(f"io: expected no inputs={self.inputs} beside a percentile, which fixes their range")
        if self.learnt and (self.inputs != "sample" or (self.dac is None and self.percentile is None)):
            raise UserError("io: expected bits of the DAC, and no inputs=..., beside learnt=true; dac=8 is usual")
        if self.inputs == "tile" and not self.reference.startswith("tile"):
            raise UserError(f"io: expected reference tile or tile-column beside inputs=tile, got {self.reference}")

    @property
    def is_identity(self) -> bool:
        return self.dac is None and self.adc is None and not self.is_noisy

    @property
    def is_noisy(self) -> bool:
        """Whether outputs are noisy."""
        return self.noise > 0 or self.shot > 0

    @property
    def calibration(self) -> int:
        """Training images that ranges are calibrated on, where training found none."""
        return 0 if self.percentile is None or self.learnt else self.images

    @property
    def has_ranges(self) -> bool:
        """Whether ranges are fixed, and so are found and kept."""
        return self.learnt or self.percentile is not None

    @classmethod
    def parse(cls, text: Any, imports: bool = True) -> Any:
        """The converters that ``text`` describes: ``io:...``, or ``none``."""
        return cls() if isinstance(text, str) and text.strip() == "none" else super().parse(text, imports)

    def nested(self) -> str:
        return "none" if self == Converters() else super().nested()

    def __str__(self) -> str:
        return "none" if self == Converters() else super().__str__()


Calibration = Sequence[Any] | Callable[[int], Sequence[Any]]
"""Batches of inputs that ranges are learnt from, or a function that gives those of so many images."""


class Converting:
    """The analog layers of a model, ready to be run with converters at their inputs and outputs.

    ``uncovered`` says, weight by weight, which analog weights stay without converters, and why: those of recurrent
    layers and attention projections are used inside one call, whose inner inputs and outputs cannot be reached. What
    turns out never to be called as a layer is added once the model has been run. ``calibration`` are batches of
    inputs, needed where the converters have a ``percentile``. ``ranges`` are those that training found, by layer, for
    converters that are ``learnt``; ``training`` says how layers find theirs while they are trained.

    Raises :class:`~noiserobust.UserError` when no layer can have converters.
    """

    def __init__(
        self,
        model: nn.Module,
        converters: Converters,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        layers: LayerTable | None = None,
        calibration: Calibration = (),
        ranges: Mapping[str, Any] | None = None,
        training: InputRanges | None = None,
    ) -> None:
        self.converters = converters
        self.layers: list[LayerConverters] = []
        self.uncovered: dict[str, str] = {}
        self.is_identity, self.noisy = converters.is_identity, False
        if converters.is_identity and not layers:
            return
        weights = analog_weights(model, include=include, exclude=exclude, layers=layers)
        of_weight = {weight.name: _own(weight, converters) for weight in weights}
        self.is_identity = all(own.is_identity for own in of_weight.values())
        self.noisy = any(own.is_noisy for own in of_weight.values())
        if self.is_identity:
            return
        inside = {id(m.out_proj) for m in unwrap(model).modules() if isinstance(m, nn.MultiheadAttention)}
        for name, module, weight in users(model, weights):
            own = of_weight[weight.name]
            if own.is_identity:
                continue
            forward, kind = type(module).forward, type(module).__name__
            if id(module) in inside:
                self.uncovered[name] = "inside nn.MultiheadAttention, which uses its weight by itself"
            elif weight.attribute != "weight" or not (is_linear(forward) or forward in CONVOLUTIONS):
                self.uncovered[name] = f"{kind} computes by itself: no layer to put converters at"
            else:
                self.layers.append(LayerConverters(name, module, own, weight))
        if not self.layers:
            raise UserError(
                f"expected a Linear or convolution to put converters at, got none in {type(unwrap(model)).__name__}"
            )
        fixed = [layer for layer in self.layers if layer.converters.has_ranges]
        calibrated = [one for one in fixed if not one.converters.learnt and training is None]
        for layer in (one for one in fixed if one not in calibrated):
            if training is None:
                layer.take(ranges)
            else:
                layer.train(training)
        if calibrated:
            self._calibrate(model, calibration, calibrated)

    @contextmanager
    def applied(self, stream: Stream) -> Iterator[None]:
        """Inside, the model computes with converters, output noise from ``stream``; outside, hooks are gone."""
        with ExitStack() as stack:
            for layer in self.layers:
                stack.enter_context(layer.hooked(stream.child(layer.name)))
            yield
        if any(layer.calls for layer in self.layers):
            self.uncovered |= {layer.name: DIRECT for layer in self.layers if not layer.calls}

    def check_called(self) -> None:
        """Refuse a model that has been run without calling any layer that has converters."""
        if not self.is_identity and not any(layer.calls for layer in self.layers):
            raise UserError(
                "expected a model that calls its Linear or convolution layers, but no converter was ever used; give "
                "it before torch.compile"
            )

    @torch.no_grad()
    def _calibrate(self, model: nn.Module, calibration: Calibration, layers: Sequence[LayerConverters]) -> None:
        for images, some in groupby(sorted(layers, key=_images), key=_images):
            together, batches = list(some), calibration(images) if callable(calibration) else calibration
            if not len(batches):
                raise UserError("io: expected calibration=... (batches of inputs) with a percentile, got none")
            seen: list[list[Any]] = [[] for _ in together]
            with ExitStack() as stack:
                stack.enter_context(evaluating(model))
                for layer, found in zip(together, seen, strict=True):
                    stack.enter_context(layer.watched(found))
                for batch in batches:
                    call(model, batch)
            for layer, found in zip(together, seen, strict=True):
                if found:
                    layer.fix(found)
                else:
                    self.uncovered[layer.name] = DIRECT
                    self.layers.remove(layer)


@contextmanager
def converted(
    model: nn.Module,
    converters: Converters | str,
    *,
    seed: int = 0,
    draw: int = 0,
    replicate: int = 0,
    read: int = 0,
    t: float | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    layers: Any = None,
    calibration: Calibration = (),
) -> Iterator[Converting]:
    """``model`` with converters at its analog layers; they are gone afterwards, also after an exception.

    With :func:`~noiserobust.perturbed` entered after it, of the same seed, replicate and draw, it is what
    :func:`~noiserobust.evaluate` computes for that draw (arguments: :class:`Converting`).
    """
    converters = Converters.parse(converters) if isinstance(converters, str) else converters
    converting = Converting(
        model, converters, include=include, exclude=exclude, layers=LayerTable.of(layers), calibration=calibration
    )
    with converting.applied(output_stream(report_stream(seed, replicate, draw), t, read)):
        yield converting


def _own(weight: AnalogWeight, asked: Converters) -> Converters:
    """The converters of a weight's own settings, or those asked for."""
    text = weight.settings.converters
    return asked if text is None else Converters.parse(text)


def _images(layer: LayerConverters) -> int:
    return layer.converters.images


def output_stream(stream: Stream, t: float | None, read: int) -> Stream:
    """The name of the output noise of one read of one draw."""
    return read_stream(stream.child("converters"), t, read)
