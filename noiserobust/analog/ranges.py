"""Ranges of converters: given, or found in training, learnt by gradient or calibrated on first batches, then fixed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from noiserobust.errors import UserError
from noiserobust.noise.base import check_strength
from noiserobust.noise.levels import positive_levels, quantized
from noiserobust.spec import Described


@dataclass(frozen=True)
class InputRanges(Described, family="input ranges", name="learnt"):
    r"""How the range a of a layer's inputs is learnt in training, as aihwkit and aihwkit-lightning learn theirs.

    In each of the first ``batches`` batches a becomes the mean, over the batches so far, of ``std`` standard deviations
    of the layer's inputs x (with a ``percentile`` of the converters, of that percentile of \|x\| over their first
    ``images`` samples). At each step the optimizer gets, d being the loss's gradient of the clipped inputs,

    .. math::
        g = a \Big(\sum_{x \ge a} \min(d, 0) - \sum_{x \le -a} \max(d, 0)\Big) + decay\; a\; [\text{share}(|x| < a) >
        inside]

    so a range grows where clipping costs loss and shrinks slowly while next to nothing is clipped. Where the ADC
    saturates, its bound, a multiple of a, adds its own derivative. (Defaults are aihwkit's.)

    >>> str(InputRanges()), str(InputRanges(decay=0.01))
    ('learnt', 'learnt:decay=0.01')
    """

    example: ClassVar[str] = "learnt:decay=0.01"
    leading: ClassVar[Any] = "by key"

    std: float = 3.0
    batches: int = 100
    decay: float = 0.001
    inside: float = 0.95

    def __post_init__(self) -> None:
        check_strength(self.name, "decay", self.decay, "it is a share of the range; 0.001 is usual")
        if not 0 < self.std < math.inf or self.batches < 1:
            raise UserError(f"learnt: expected std > 0 and batches >= 1, got {self.std} and {self.batches}")
        if not 0 <= self.inside <= 1:
            raise UserError(f"learnt: expected inside as a share in [0, 1], got {self.inside}; 0.95 is usual")


@dataclass(eq=False)
class Ranges:
    """The ranges of one crossbar's converters: ``inputs`` (a) and, of the ADC, ``outputs``, one or one for each."""

    inputs: Tensor
    outputs: Tensor | None = None
    """``None``: it follows a."""

    def reach(self, x: Tensor) -> Tensor:
        """a for the inputs ``x`` of a call."""
        return self.inputs

    def count(self, clipped: Tensor) -> None:
        """Note which inputs of a call are ``clipped``."""

    def observe(self, y: Tensor) -> None:
        """Note what the ADC is given in the call whose inputs :meth:`reach` saw, (outputs, samples, ...)."""

    @property
    def described(self) -> dict[str, Any]:
        """The ranges as plain numbers, for a checkpoint."""
        return {"inputs": self.inputs.tolist(), "outputs": None if self.outputs is None else self.outputs.tolist()}


class TrainedRanges(Ranges):
    """Those of a crossbar in training: calibrated on the first batches of passes that ``observe``, and then fixed, or
    learnt as ``how`` says. With a ``percentile`` the first batches are those of ``images`` samples."""

    inputs: nn.Parameter

    def __init__(
        self,
        how: InputRanges | None,
        percentile: float | None,
        images: int,
        outputs: Tensor | None,
        device: torch.device,
    ) -> None:
        super().__init__(nn.Parameter(torch.ones((), device=device), requires_grad=how is not None), outputs)
        self.how, self.percentile, self.images = how, percentile, images
        self.observes = False
        self.batches = self.samples = 0
        """That it has been calibrated on."""
        self.inside: Tensor | float = 0.0
        self.total = 0
        """Inputs within the range, and all, since the last step."""

    @property
    def calibrated(self) -> bool:
        """Whether the first batches are over."""
        if self.percentile is None:
            return self.how is None or self.batches >= self.how.batches
        return self.samples >= self.images

    @torch.no_grad()
    def reach(self, x: Tensor) -> Tensor:
        if self.observes and not self.calibrated:
            x = x.detach()
            if self.percentile is not None:
                seen = percentile_of(x.abs().flatten(), self.percentile)
            else:
                assert self.how is not None
                seen = self.how.std * x.std()
            # Zeros (a batch of nothing) and overflows teach nothing.
            mean = (self.inputs * self.batches + seen) / (self.batches + 1)
            self.inputs.copy_(mean.where((seen > 0) & seen.isfinite(), self.inputs))
        return self.inputs

    @torch.no_grad()
    def observe(self, y: Tensor) -> None:
        if not self.observes or self.calibrated:
            return
        if self.percentile is not None and self.outputs is not None:
            seen = percentile_of(y.detach().abs().flatten(self.outputs.dim()), self.percentile)
            mean = (self.outputs * self.batches + seen) / (self.batches + 1)
            self.outputs.copy_(mean.where(seen.isfinite(), self.outputs))
        self.batches, self.samples = self.batches + 1, self.samples + (y.shape[1] if y.dim() > 1 else 1)

    def held(self) -> dict[str, Any] | None:
        """What a call from now on begins with, where it may calibrate."""
        return None if not self.observes or self.calibrated else self._copied()

    def _copied(self) -> dict[str, Any]:
        state = self.state_dict()
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}

    @contextmanager
    def again(self, held: Mapping[str, Any] | None) -> Iterator[None]:
        """Inside, calls are repeated that began with what was ``held``; afterwards all is as if they had not been."""
        observes, now = self.observes, self._copied()
        self.observes = held is not None
        try:
            self.load_state_dict(held or now)
            yield
        finally:
            self.observes = observes
            self.load_state_dict(now)

    def count(self, clipped: Tensor) -> None:
        """Of the inputs of a call, which are ``clipped``."""
        self.inside, self.total = self.inside + (clipped.numel() - clipped.sum()), self.total + clipped.numel()

    def gradient(self, clipped: Tensor, inside: Tensor) -> Tensor:
        """g of a step: the gradient of what is ``clipped``, and the pull where the share ``inside`` allows it."""
        assert self.how is not None
        return clipped + self.how.decay * self.inputs.detach() * (inside > self.how.inside)

    def state_dict(self) -> dict[str, Any]:
        """All that goes on."""
        return {name: getattr(self, name) for name in ("batches", "samples", "outputs")} | {"inputs": self.inputs.data}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.batches, self.samples = int(state["batches"]), int(state["samples"])
        self.inputs.copy_(state["inputs"])
        if self.outputs is not None:
            self.outputs.copy_(state["outputs"])


def stored_ranges(stored: Any, name: str, crossbars: int, shape: Sequence[int], device: torch.device) -> list[Ranges]:
    """The ranges of the layer ``name`` among those that a checkpoint holds, those of the ADC of this ``shape``;
    :class:`UserError` where there are none."""
    known = stored.get(name) if isinstance(stored, Mapping) else None
    if known is None:
        raise UserError(
            f"io: expected ranges of {name} that training found (with learnt=true, or the same converters), got none; "
            "train with these converters, or calibrate by percentile=99.9"
        )
    found = []
    try:
        for one in known:
            inputs, outputs = (None if one[key] is None else _number(one[key], device) for key in ("inputs", "outputs"))
            if inputs is None or inputs.dim() or (outputs is not None and outputs.shape != tuple(shape)):
                raise ValueError
            found.append(Ranges(inputs, outputs))
        values = [part for one in found for part in (one.inputs, one.outputs) if part is not None]
        fits = len(found) == crossbars and all(bool((part.isfinite() & (part >= 0)).all()) for part in values)
    except (TypeError, ValueError, KeyError, RuntimeError, OverflowError):
        fits = False
    if not fits:
        raise UserError(
            f"io: expected finite ranges >= 0 of {name}, one for each of its {crossbars} crossbars, got "
            f"{str(known)[:80]}; train or calibrate with these converters"
        )
    return found


def _number(given: Any, device: torch.device) -> Tensor:
    """A number, or a list of them, in float32."""
    if any(isinstance(one, (bool, str)) for one in (given if isinstance(given, list) else [given])):
        raise TypeError
    return torch.tensor(given, dtype=torch.float32, device=device)


class _AtDAC(torch.autograd.Function):
    """Inputs at the levels of a DAC of a given range: no gradient where they saturate, and that of the range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, reach: Tensor, bits: int, ranges: Ranges) -> Tensor:
        ctx.ranges = ranges
        ctx.save_for_backward(x, reach.clone())  # it may move before the backward pass
        return quantized(x, reach, bits)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        (x, reach), of_reach = ctx.saved_tensors, None
        size = x.abs()
        if ctx.needs_input_grad[1]:
            clipped = size >= reach
            ctx.ranges.count(clipped)
            # min(d, 0) above the range, and -max(d, 0) below it.
            pulls = (d * x.sign()).clamp_(max=0).masked_fill_(~clipped, 0)
            of_reach = pulls.sum_to_size(reach.shape) * reach
        return d.masked_fill(size > reach, 0) if ctx.needs_input_grad[0] else None, of_reach, None, None


class _AtADC(torch.autograd.Function):
    """``value`` at the levels of an ADC, with the gradient of y: none where it saturates, which is the bound's."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, value: Tensor, bound: Tensor, bits: int) -> Tensor:
        n = positive_levels(bits)
        limit = bound * ((n + 0.5) / n)  # half a step beyond the bound is still rounded to it
        ctx.save_for_backward(value >= limit, value <= -limit)
        ctx.size = bound.shape
        return quantized(value, bound, bits)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        above, below = ctx.saved_tensors
        of_bound = (d * above - d * below).sum_to_size(ctx.size) if ctx.needs_input_grad[2] else None
        return d.masked_fill(above | below, 0), None, of_bound, None


class _Straight(torch.autograd.Function):
    """A value with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, like: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        return None, d


def at_dac(x: Tensor, reach: Tensor, bits: int, ranges: Ranges | None) -> Tensor:
    """``x`` at the levels of a DAC of the range ``reach``: the gradient passes straight through the rounding, and, of
    a range that does not follow the inputs, not where these saturate."""
    if ranges is None or not torch.is_grad_enabled():
        return straight(quantized(x.detach(), reach.detach(), bits), x)
    return _AtDAC.apply(x, reach, bits, ranges)


def at_adc(value: Tensor, y: Tensor, bound: Tensor, bits: int) -> Tensor:
    """``value``, which is y with noise, at the levels of an ADC: the gradient of y passes straight through the
    rounding, and not where it saturates."""
    if not torch.is_grad_enabled():
        return quantized(value, bound, bits)
    return _AtADC.apply(y, value, bound, bits)


def straight(value: Tensor, like: Tensor) -> Tensor:
    """Exactly ``value``, with the gradient of ``like``."""
    return _Straight.apply(value, like) if torch.is_grad_enabled() and like.requires_grad else value


def exact(tensor: Tensor) -> Tensor:
    """``tensor`` in float32 or better."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def percentile_of(values: Tensor, percentile: float) -> Tensor:
    """The smallest of ``values`` that is not exceeded by ``percentile`` % of them, in the last dimension."""
    count = values.shape[-1]
    return values.kthvalue(min(max(math.ceil(percentile / 100 * count), 1), count)).values
