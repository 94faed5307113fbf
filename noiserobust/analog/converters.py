"""Converters at inputs and outputs of the arrays: DAC, output noise and ADC, on any model as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from noiserobust.analog.layer_table import LayerTable
from noiserobust.analog.noisy import report_stream
from noiserobust.analog.places import AnalogWeight
from noiserobust.analog.weights import analog_weights, users
from noiserobust.errors import UserError
from noiserobust.models.compute import call
from noiserobust.models.modes import evaluating
from noiserobust.models.wrappers import unwrap
from noiserobust.noise import read_stream, reference_scale
from noiserobust.noise.base import check_strength
from noiserobust.noise.levels import check_bits, quantized
from noiserobust.noise.sharded import whole
from noiserobust.rng import Stream
from noiserobust.spec import Described

CONVOLUTIONS = {
    kind.forward: dimensions
    for dimensions, kinds in enumerate(
        [(nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d), (nn.Conv3d, nn.ConvTranspose3d)], 1
    )
    for kind in kinds
}
LINEAR = {"torch.nn.modules.linear.Linear.forward", "transformers.pytorch_utils.Conv1D.forward"}
"""What computes W x + b of vectors x in the last dimension; by name, so that none need be imported."""
DIRECT = "not called as a layer: its weight is used directly"
CHUNK = 64
"""Rows of an output whose noise has a name of its own, so that it does not depend on the batch size."""


@dataclass(frozen=True)
class Converters(Described, family="converters", name="io"):
    r"""What lies between an analog layer :math:`y = W x + b` and the digital rest: ``io:dac=8,adc=8,noise=0.06``.

    .. math::
        \hat x = Q_{dac}(x;\ a), \qquad
        \hat y = c\, Q_{adc}(W \hat x + \sigma \zeta;\ bound \cdot a\, s) + b, \qquad
        \sigma^2 = (noise\; a\, s)^2 + shot^2\, a\, s\, |W \hat x|, \qquad \zeta \sim N(0, 1)

    Q with b bits rounds to :math:`2^b - 1` equally spaced levels from minus to plus its range, 0 among them, halves to
    the even level, and saturates there. Drift compensation, the factor c of an output, and the bias are digital: they
    come after the ADC. (What differs in c between the crossbars that one output is summed up from is folded into W.)

    - ``dac``, ``adc``: bits; ``none`` is an ideal converter, which has no range either
    - ``noise``: standard deviation of the output noise, before the ADC, in units of a s: largest input times largest
      weight (aihwkit's ``out_noise``). Every output of every input vector gets its own.
    - ``shot``: noise that grows with the signal, as the shot noise of a current does, whose variance is proportional
      to it: its standard deviation is ``shot`` a s where the output is a s.
    - a: range of the inputs. Without ``percentile`` it is max|x| of each input vector of a Linear, and of each sample
      of a convolution.
    - s: max|W| of the ``reference`` group (filter or layer) of the weights as they were when the converters were made.
    - ``bound``: range of the ADC in units of a s (aihwkit's ``out_bound``)
    - ``percentile``: a and the range of the ADC are fixed per layer instead: the mean over calibration batches of that
      percentile of their |x| and of their |W x| in the digital network. :func:`noiserobust.evaluate` takes ``images``
      training images for it, in batches of 128. ``ranges=column`` gives every output's ADC a range of its own.

    A layer is one crossbar here: partial sums of tiles with an ADC each, and IR drop, are left to whole-chip backends.
    Computed in float32 or better; gradients pass straight through.

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
    reference: Literal["filter", "layer"] = "filter"
    shot: float = 0.0
    ranges: Literal["layer", "column"] = "layer"

    def __post_init__(self) -> None:
        for bits in (self.dac, self.adc):
            if bits is not None:
                check_bits("io", bits)
        check_strength("io", "noise", self.noise, "it is a fraction of max|x| max|w|, such as 0.06")
        check_strength("io", "shot", self.shot, "it is a fraction of max|x| max|w| where the output is as large")
        if self.ranges not in ("layer", "column"):
            raise UserError(f"io: expected ranges layer or column, got {self.ranges!r}")
        if self.ranges == "column" and self.percentile is None:
            raise UserError("io: expected a percentile beside ranges=column, got none; 99.9 is usual")
        if not 0 < self.bound < math.inf:
            raise UserError(f"io: expected a finite bound > 0, got {self.bound}; it is in units of max|x| max|w|")
        if self.percentile is not None and not 0 < self.percentile <= 100:
            raise UserError(f"io: expected a percentile in (0, 100], got {self.percentile}; 99.9 is usual")
        if self.images < 1:
            raise UserError(f"io: expected images >= 1 for the percentile, got {self.images}")
        if self.reference not in ("filter", "layer"):
            raise UserError(f"io: expected reference filter or layer, got {self.reference!r}")

    @property
    def is_identity(self) -> bool:
        return self.dac is None and self.adc is None and not self.is_noisy

    @property
    def is_noisy(self) -> bool:
        """Whether outputs are noisy."""
        return self.noise > 0 or self.shot > 0

    @property
    def calibration(self) -> int:
        """Training images that the ranges are learnt from."""
        return 0 if self.percentile is None else self.images

    @classmethod
    def parse(cls, text: Any, imports: bool = True) -> Any:
        """The converters that ``text`` describes: ``io:...``, or ``none``."""
        return cls() if isinstance(text, str) and text.strip() == "none" else super().parse(text, imports)

    def nested(self) -> str:
        return "none" if self == Converters() else super().nested()

    def __str__(self) -> str:
        return "none" if self == Converters() else super().__str__()


class Converting:
    """The analog layers of a model, ready to be run with converters at their inputs and outputs.

    ``uncovered`` says, weight by weight, which analog weights stay without converters, and why: those of recurrent
    layers and attention projections are used inside one call, whose inner inputs and outputs cannot be reached. What
    turns out never to be called as a layer is added once the model has been run. ``calibration`` are batches of
    inputs, needed where the converters have a ``percentile``.

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
        calibration: Sequence[Any] = (),
    ) -> None:
        self.converters = converters
        self.layers: list[LayerConverters] = []
        self.uncovered: dict[str, str] = {}
        self.is_identity, self.noisy = converters.is_identity, False
        self.gains: dict[str, Tensor | None] = {}
        """Factors per output that follow the ADC, by the weight's name; a reading of chips fills them in."""
        self._of_modules: list[tuple[str, int]] = []
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
            self._of_modules.append((weight.name, id(module)))
            own = of_weight[weight.name]
            if own.is_identity:
                continue
            forward, kind = type(module).forward, type(module).__name__
            if id(module) in inside:
                self.uncovered[name] = "inside nn.MultiheadAttention, which uses its weight by itself"
            elif weight.attribute != "weight" or not (is_linear(forward) or forward in CONVOLUTIONS):
                self.uncovered[name] = f"{kind} computes by itself: no layer to put converters at"
            else:
                scale = whole(reference_scale(weight.as_rows(weight.value()), own.reference)).flatten()
                self.layers.append(LayerConverters(name, module, own, CONVOLUTIONS.get(forward, 0), scale, weight.name))
        if not self.layers:
            raise UserError(
                f"expected a Linear or convolution to put converters at, got none in {type(unwrap(model)).__name__}"
            )
        fixed = [layer for layer in self.layers if layer.converters.percentile is not None]
        if fixed:
            self._calibrate(model, calibration, fixed)

    @contextmanager
    def applied(self, stream: Stream) -> Iterator[None]:
        """Inside, the model computes with converters, output noise from ``stream``; outside, hooks are gone."""
        with ExitStack() as stack:
            for layer in self.layers:
                stack.enter_context(layer.hooked(stream.child(layer.name), self.gains))
            yield
        if any(layer.calls for layer in self.layers):
            self.uncovered |= {layer.name: DIRECT for layer in self.layers if not layer.calls}

    @torch.no_grad()
    def compensates(self, model: nn.Module, ask: Callable[[], object]) -> None:
        """Let the layers that ``ask``, a forward pass of ``model``, calls be compensated after their ADC; a weight that
        is also used elsewhere is compensated where it lies."""
        called: set[int] = set()
        with ExitStack() as stack:
            stack.enter_context(evaluating(model))
            for layer in self.layers:
                hook = layer.module.register_forward_hook(lambda module, args, output: called.add(id(module)))
                stack.callback(hook.remove)
            ask()
        elsewhere = {name for name, module in self._of_modules if module not in called}
        self.gains = dict.fromkeys(layer.weight for layer in self.layers if layer.weight not in elsewhere)

    def check_called(self) -> None:
        """Refuse a model that has been run without calling any layer that has converters."""
        if not self.is_identity and not any(layer.calls for layer in self.layers):
            raise UserError(
                "expected a model that calls its Linear or convolution layers, but no converter was ever used; give "
                "it before torch.compile"
            )

    @torch.no_grad()
    def _calibrate(self, model: nn.Module, batches: Sequence[Tensor], layers: Sequence[LayerConverters]) -> None:
        if not len(batches):
            raise UserError("io: expected calibration=... (batches of inputs) with a percentile, got none")
        seen: dict[str, list[tuple[Tensor, Tensor]]] = {layer.name: [] for layer in layers}
        with ExitStack() as stack:
            stack.enter_context(evaluating(model))
            for layer in layers:
                stack.enter_context(layer.watched(layer.converters.percentile or 0.0, seen[layer.name]))
            for batch in batches:
                call(model, batch)
        for layer in layers:
            if seen[layer.name]:
                layer.fix(seen[layer.name])
        uncalled = [layer for layer in layers if layer.ranges is None]
        self.uncovered |= {layer.name: DIRECT for layer in uncalled}
        self.layers = [layer for layer in self.layers if layer not in uncalled]


class LayerConverters:
    """The converters of one layer."""

    def __init__(
        self, name: str, module: nn.Module, converters: Converters, spatial: int, scale: Tensor, weight: str
    ) -> None:
        self.name, self.module, self.converters, self.spatial, self.weight = name, module, converters, spatial, weight
        self.scale = self._along_outputs(scale)
        self.ranges: tuple[Tensor, ...] | None = None
        """Calibrated ranges of inputs and outputs; ``None``: they follow the inputs."""
        self.calls = 0

    @contextmanager
    def hooked(self, stream: Stream, gains: Mapping[str, Tensor | None]) -> Iterator[None]:
        """Inside, calls of the layer go through the converters; output noise from ``stream``, row by row. ``gains`` are
        looked up at each call."""
        seen, reach = 0, torch.zeros(())

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal reach
            name, given = (None, args[0]) if args else next(iter(kwargs.items()))
            x = _exact(given)
            reach = self._reach(x)
            if self.converters.dac is not None:
                x = _straight(quantized(x.detach(), reach, self.converters.dac), x)
            x = x.to(given.dtype)
            return ((x, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: x})

        def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            nonlocal seen
            self.calls += 1
            bias, unit = self._bias(), reach * self.scale
            y = _exact(output) - bias
            value = y.detach()
            if self.converters.is_noisy:
                # A single input vector without a batch dimension is a batch of one.
                rows = value if value.dim() > self.spatial + 1 else value.unsqueeze(0)
                field = endless_rows(stream, seen, rows.shape, rows.device).view(value.shape)
                seen += len(rows)
                value = value + self._noise_std(value, unit) * field
            if self.converters.adc is not None:
                bound = self.converters.bound * unit if self.ranges is None else self.ranges[1]
                value = quantized(value, bound, self.converters.adc)
            if (gain := gains.get(self.weight)) is not None:
                value = value * self._along_outputs(gain)
            return (_straight(value, y) + bias).to(output.dtype)

        with (
            self.module.register_forward_pre_hook(before, with_kwargs=True),
            self.module.register_forward_hook(after),
        ):
            yield

    @contextmanager
    def watched(self, percentile: float, ranges: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
        """Inside, ``ranges`` collects the percentiles of |x| and |W x| of every call."""

        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            x = _exact(args[0] if args else next(iter(kwargs.values())))
            y = (_exact(output) - self._bias()).abs()
            outputs = y.movedim(-1 - self.spatial, 0).flatten(1) if self.converters.ranges == "column" else y.flatten()
            ranges.append((_percentile(x.abs().flatten(), percentile), _percentile(outputs, percentile)))

        with self.module.register_forward_hook(record, with_kwargs=True):
            yield

    def fix(self, seen: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Fix the ranges at the mean of what was seen in each batch."""
        inputs, outputs = (torch.stack(values).mean(0) for values in zip(*seen, strict=True))
        self.ranges = inputs, self._along_outputs(outputs) if outputs.dim() else outputs

    def _noise_std(self, y: Tensor, unit: Tensor) -> Tensor:
        constant, shot = self.converters.noise * unit, self.converters.shot
        return (constant**2 + shot**2 * unit * y.abs()).sqrt() if shot else constant

    def _reach(self, x: Tensor) -> Tensor:
        """The DAC's range, in a shape that broadcasts against inputs and outputs."""
        if self.ranges is not None:
            return self.ranges[0]
        return x.detach().abs().amax(tuple(range(-1 - self.spatial, 0)), keepdim=True)

    def _bias(self) -> Tensor | float:
        bias = self.module.bias
        return self._along_outputs(_exact(whole(bias))) if isinstance(bias, Tensor) else 0.0

    def _along_outputs(self, values: Tensor) -> Tensor:
        """One value per output (or one for all), in a shape that broadcasts against the output."""
        return values.reshape(-1, *[1] * self.spatial)


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
    calibration: Sequence[Any] = (),
) -> Iterator[Converting]:
    """``model`` with converters at its analog layers; they are gone afterwards, also after an exception.

    With :func:`~noiserobust.perturbed` entered after it, of the same seed, replicate and draw, it is what
    :func:`~noiserobust.evaluate` computes for that draw (arguments: :class:`Converting`), but for drift compensation:
    ``perturbed`` has it in the weights, before the ADC.
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


def output_stream(stream: Stream, t: float | None, read: int) -> Stream:
    """The name of the output noise of one read of one draw."""
    return read_stream(stream.child("converters"), t, read)


def is_linear(forward: Any) -> bool:
    """Whether ``forward`` is that of a Linear, or of the same with another name."""
    return f"{forward.__module__}.{forward.__qualname__}" in LINEAR


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _straight(value: Tensor, like: Tensor) -> Tensor:
    """Exactly ``value``, with the gradient of ``like``."""
    return value + (like - like.detach()) if like.requires_grad else value


def _percentile(values: Tensor, percentile: float) -> Tensor:
    """The smallest of ``values`` that is not exceeded by ``percentile`` % of them, in the last dimension."""
    count = values.shape[-1]
    return values.kthvalue(min(max(math.ceil(percentile / 100 * count), 1), count)).values


def endless_rows(stream: Stream, first: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Rows ``first``, ``first + 1``, ... of an endless standard normal field, as many as ``shape`` has."""
    last = first + shape[0]
    pieces = []
    for chunk in range(first // CHUNK, -(-last // CHUNK)):
        inside = (max(first - chunk * CHUNK, 0), min(last - chunk * CHUNK, CHUNK))
        pieces.append(stream.child(chunk).normal((CHUNK, *shape[1:]), rows=inside, device=device))
    return torch.cat(pieces)
