"""Multiply-accumulates of one forward pass, weight by weight: what it costs to keep a layer digital."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from noiserobust.analog.weights import AnalogWeight
from noiserobust.data import nests
from noiserobust.errors import UserError
from noiserobust.models.compute import call
from noiserobust.models.modes import evaluating
from noiserobust.models.wrappers import unwrap


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates per input, of the weights asked for and of everything else that multiplies matrices."""

    by_weight: dict[str, float]
    """By the weight's canonical name; NaN for one that no counted operation read: it is not used in this pass, or only
    after being changed (weight standardisation), so that its share cannot be told."""
    other: float
    """Products of activations with each other (attention), and weights that were not asked for."""

    @property
    def total(self) -> float:
        """All that was counted."""
        return self.other + sum(count for count in self.by_weight.values() if not math.isnan(count))


@torch.no_grad()
def count_macs(model: nn.Module, inputs: Any, weights: Sequence[AnalogWeight]) -> Macs:
    """Count one forward pass of ``inputs`` (B, ..., or several) in eval mode, per input, by torch's FLOP counter.

    An operation belongs to the weight whose memory it reads, so functional calls and the parts of an attention's
    in-projection are counted, too. A recurrent layer multiplies each of its weights once per step (closed form: its
    kernels are closed to the counter). Normalisation, activations and element-wise products are not counted.
    """
    count = nests.size(inputs)
    if not count:
        raise UserError("expected at least one input to count multiply-accumulates with, got none")
    recurrent = {id(p) for m in model.modules() if isinstance(m, nn.RNNBase) for p in m.parameters(recurse=False)}
    counter = _Counter([weight for weight in weights if id(weight.parameter) not in recurrent])
    names = {id(weight.parameter): weight.name for weight in weights}
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(open_attention())
        for module in unwrap(model).modules():
            if isinstance(module, nn.RNNBase):
                stack.callback(module.register_forward_pre_hook(counter.pause).remove)
                stack.callback(module.register_forward_hook(lambda m, i, o: counter.recurrent(m, i[0], names)).remove)
        stack.enter_context(counter)
        call(model, inputs)
    counts = {weight.name: counter.counts.get(weight.name, math.nan) / count for weight in weights}
    return Macs(counts, counter.counts.get("", 0.0) / count)


class _Counter(TorchDispatchMode):
    """Adds up what the operations multiply, by the name of the weight that they read ("" where it is none)."""

    def __init__(self, weights: Sequence[AnalogWeight]) -> None:
        super().__init__()
        self.counts: dict[str, float] = {}
        self.paused = 0
        # By memory and not by identity: a transposed weight, or a third of an in-projection, is a view of it.
        self.places = [(p.data_ptr(), p.data_ptr() + p.nbytes, w.name) for w in weights for p in (w.parameter,)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None and not self.paused:
            owners = [self.owner(value) for value in args if isinstance(value, Tensor)]
            self.add(next(filter(None, owners), ""), formula(*args, **(kwargs or {}), out_val=out) / 2)
        return out

    def owner(self, tensor: Tensor) -> str:
        place = tensor.data_ptr()
        return next((name for first, end, name in self.places if first <= place < end), "")

    def add(self, name: str, macs: float) -> None:
        self.counts[name] = self.counts.get(name, 0.0) + macs

    def pause(self, *_: object) -> None:
        self.paused += 1

    def recurrent(self, module: nn.RNNBase, inputs: Tensor | PackedSequence, names: dict[int, str]) -> None:
        self.paused -= 1
        data = inputs.data if isinstance(inputs, PackedSequence) else inputs
        for attribute, parameter in module.named_parameters(recurse=False):
            if attribute.startswith("weight_"):
                self.add(names.get(id(parameter), ""), data.numel() / module.input_size * parameter.numel())


@contextmanager
def open_attention() -> Iterator[None]:
    """Attention computed by operations that can be counted, not by fused kernels (some are unknown to the counter)."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
