"""Multiply-accumulates of one forward pass, weight by weight: what it costs to keep a layer digital."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from noiserobust.analog.tracing import Watch, traced
from noiserobust.analog.weights import AnalogWeight
from noiserobust.data import Batch, nests
from noiserobust.errors import UserError
from noiserobust.models.check import taking
from noiserobust.models.compute import as_weights, call

Call = Callable[[nn.Module, Any], Any]
"""How a network is asked for its outputs."""


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates per input, of the weights asked for and of everything else that multiplies matrices."""

    by_weight: dict[str, float]
    """By the weight's canonical name; NaN for one that no matrix product read: it is not used in this pass, or only
    element by element, so that its share cannot be told."""
    other: float
    """Products of activations with each other (attention), and weights that were not asked for."""

    @property
    def total(self) -> float:
        """All that was counted."""
        return self.other + sum(count for count in self.by_weight.values() if not math.isnan(count))


def count_macs(model: nn.Module, inputs: Any, weights: Sequence[AnalogWeight]) -> Macs:
    """Count one forward pass of ``inputs`` (B, ...) in eval mode, per input.

    ``inputs`` is a tensor, a tuple (``model(*inputs)``) or a dict (``model(**inputs)``). A product belongs to the
    weight whose memory it reads, so functional calls and the parts of an attention's in-projection are counted, too;
    or to the largest weight that the factor was computed from (weight standardisation, parametrizations). A recurrent
    layer multiplies each of its weights once per step (closed form: its kernels are closed). Normalisation,
    activation functions and element-wise products are not counted.
    """
    watch, count = pass_of(model, inputs, [latent for weight in weights for latent in weight.latents])
    by_weight = {}
    for weight in weights:
        seen = {id(trace): trace.macs for trace in map(watch.of, weight.latents)}.values()
        macs = [number for number in seen if number is not None]
        by_weight[weight.name] = math.fsum(macs) / count if macs else math.nan
    known = math.fsum(number for number in by_weight.values() if not math.isnan(number))
    return Macs(by_weight, watch.total / count - known)


def pass_of(model: nn.Module, inputs: Any, first: Sequence[Tensor] = (), call: Call = call) -> tuple[Watch, int]:
    """One watched pass of ``inputs``, and how many they are (:func:`~noiserobust.analog.tracing.traced`)."""
    count = len(inputs) if isinstance(inputs, Batch) else nests.size(inputs)
    if not count:
        raise UserError("expected at least one input to count multiply-accumulates with, got none")
    given = inputs if isinstance(inputs, Batch) else as_weights(model, inputs)
    with taking(given.inputs if isinstance(given, Batch) else given, type(model).__name__):
        return traced(model, lambda: call(model, given), first), count
