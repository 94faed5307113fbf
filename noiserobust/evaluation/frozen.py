"""Networks that compute with frozen copies of their weights are noticed: no noise would reach them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from noiserobust.analog.backup import Backup
from noiserobust.analog.heads import EMBEDDINGS, Head
from noiserobust.analog.noisy import NoisyWeights
from noiserobust.analog.openings import opened
from noiserobust.analog.places import AnalogWeight, Stored
from noiserobust.data import Batch, nests
from noiserobust.errors import UserError
from noiserobust.models.compute import Precision, autocast, device_of
from noiserobust.models.modes import evaluating
from noiserobust.noise.sharded import field_like, mesh_of
from noiserobust.rng import Stream, kept_generators

FEW = 4
"""Samples that are asked first; all of a batch are asked before a network is refused."""
DRAWS = 3
LAYER_DRAWS = 8
"""Draws under which a layer must give the same to be refused; a live one differs in the second."""


@torch.no_grad()
def require_effect(noisy: NoisyWeights, ask: Callable[[Batch], Any], batch: Batch, precision: Precision) -> None:
    """Refuse a network whose answers are the same, bit for bit, whatever its analog weights are, and a layer whose
    outputs are.

    ``ask`` gives its raw outputs for samples of ``batch``. Every weight is moved by several times the largest of its
    tensor, so that neither a small noise nor a low precision nor whole numbers as outputs hide the effect. Weights that
    are not used at all (an auxiliary head, in a network that else answers to its weights) are none of this' business.
    A layer that is called is asked once more with its weights moved otherwise (:class:`_Asked`).
    """

    def answers(samples: Batch) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in nests.tensors(ask(samples))]

    clean: list[Tensor] = []
    device = device_of(noisy.model)
    with evaluating(noisy.model), kept_generators(device), autocast(device, precision):
        for samples in (batch[:FEW], batch):
            with suppress(RuntimeError, ValueError, TypeError):  # takes no such few: the evaluation itself says why
                clean = answers(samples)
                for draw in range(DRAWS):
                    moved = noisy.replaced(partial(moved_far, stream=Stream(0, "effect", draw)))
                    with moved, _Asked(noisy) as asked, _left_alone(noisy):
                        differ = _differ(clean, answers(samples))
                    asked.require_effect()
                    if differ:
                        break
                else:
                    continue
                for head in (weight for weight in noisy.weights if isinstance(weight, Head) and weight.tables):
                    _require_product(head, noisy, clean, partial(answers, samples))
                return
        if not clean or not any(bool(values.any()) for values in nests.tensors(batch.inputs)):
            return  # nothing was asked
        with _called(noisy) as called, _all_moved(noisy.model.parameters()):
            if (_differ(clean, answers(batch)) and not called) or (called and not any(called)):
                return
    raise UserError(
        "expected answers that change with the weights, got the same ones under any noise: the network computes with "
        "frozen copies (inductor freezing, a frozen or optimised export, a cache of merged weights); hand over the "
        "network before it was frozen, or set torch._inductor.config.freezing = False and compile anew"
    )


@contextmanager
def _left_alone(noisy: NoisyWeights) -> Iterator[None]:
    """Refuse a pass that writes into weights that lie in their parameters: it would change the noise in them."""
    stored = [weight for weight in noisy.weights if type(weight) is Stored and mesh_of(noisy.model) is None]
    before = [_marks(weight) for weight in stored]
    yield
    changed = [weight.name for weight, was in zip(stored, before, strict=True) if _differ(was, _marks(weight))]
    if changed:
        raise UserError(
            f"expected weights that a forward pass leaves as they are, got {', '.join(changed[:3])} changed by it (a "
            "hook or another layer that limits, rescales or rounds them in place), and noise with them; hand over the "
            "network without that, or exclude them"
        )


def _marks(weight: AnalogWeight) -> list[Tensor]:
    """Numbers that other values in its memory would hardly have."""
    value = weight.value()
    return [value.sum().nan_to_num(), value.abs().amax().nan_to_num()]


def _require_product(head: Head, noisy: NoisyWeights, clean: list[Tensor], ask: Callable[[], list[Tensor]]) -> None:
    """Refuse an embedding that is included and only looked up."""
    for draw in range(DRAWS):
        moved = moved_far(head, Stream(0, "effect", draw))
        with noisy.replaced(lambda weight, moved=moved: moved if weight is head else weight.value()):  # type: ignore[misc]
            if _differ(clean, ask()):
                return
    raise UserError(
        f"expected a product with {head.name} beside its look-up, which is digital, got none; include "
        f"'{head.name}@1' for an array that is looked up, or leave it out"
    )


class _Asked:
    """Watches the layers of one pass: whether outputs of each change with its weights, its inputs being the same.

    Whatever is called as a module of its own is judged, but for embeddings, where a look-up is not the product, and
    modules of compiled and sharded networks. A layer is frozen if it gave the same under several draws though it was
    asked something.
    """

    def __init__(self, noisy: NoisyWeights) -> None:
        self._weights: dict[nn.Module, list[AnalogWeight]] = {}
        compiled = any(
            hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) for m in noisy.model.modules()
        )
        for weight in () if compiled or mesh_of(noisy.model) is not None else noisy.weights:
            if not isinstance(weight.owner, EMBEDDINGS):
                self._weights.setdefault(weight.owner, []).append(weight)
        self._live: set[nn.Module] = set()
        self._frozen: set[nn.Module] = set()
        self._busy = False
        self._hooks = ExitStack()

    def __enter__(self) -> _Asked:
        for layer in self._weights:
            self._hooks.callback(layer.register_forward_hook(self._note, with_kwargs=True).remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def _note(self, layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = [*nests.tensors((args, kwargs))]
        weights = self._weights[layer]
        swapped = any(type(w) is Stored and layer._parameters.get(w.attribute) is not w.latents[0] for w in weights)
        if self._busy or swapped or layer in self._live or not any(bool(values.any()) for values in given):
            return
        self._busy = True
        try:
            gains = set(layer.parameters()) - {latent for weight in self._weights[layer] for latent in weight.latents}
            with _all_moved(gains):  # a gain of 0 would hide the effect
                first = self._again(layer, args, kwargs, 0)
                others = (self._again(layer, args, kwargs, draw) for draw in range(1, LAYER_DRAWS))
                same = bool(first) and not any(_differ(first, other) for other in others)
        except Exception:  # a layer that cannot be called anew
            same = False
        finally:
            self._busy = False
        (self._frozen if same else self._live).add(layer)

    def _again(self, layer: nn.Module, args: Any, kwargs: Any, draw: int) -> list[Tensor]:
        """Its outputs for the same inputs, with other weights in every draw: first what costs no random numbers."""
        with ExitStack() as stack:
            for weight in self._weights[layer] if draw else ():
                moved = -weight.value() if draw == 1 else moved_far(weight, Stream(0, "effect", "layer", draw))
                stack.enter_context(weight.opened(moved))
            return [values.clone() for values in nests.tensors(layer(*args, **kwargs))]

    def require_effect(self) -> None:
        """Refuse layers that are frozen."""
        names = [self._weights[layer][0].name for layer in self._weights if layer in self._frozen - self._live]
        if names:
            raise UserError(
                f"expected outputs that change with the weights, got the same ones of {', '.join(names[:3])} under any "
                "noise: the layer computes with a frozen copy (a cache of merged or dequantised weights); hand over "
                "the network before it is made, or exclude the layer, which then counts as digital"
            )


def moved_far(weight: AnalogWeight, stream: Stream) -> Tensor:
    """Its value plus normals of several times its largest: what it does shows, whatever the precision."""
    clean = weight.value()
    rows = weight.as_rows(clean)
    field = field_like(stream.weight(weight.name).normal, rows)
    return clean + weight.from_rows(field * (3 * rows.abs().max() + 1)).to(clean.dtype)


def _differ(ones: list[Tensor], others: list[Tensor]) -> bool:
    return len(ones) != len(others) or any(
        one.shape != other.shape or not torch.equal(one, other) for one, other in zip(ones, others, strict=True)
    )


@contextmanager
def _called(noisy: NoisyWeights) -> Iterator[list[bool]]:
    """Of each call inside of a weight's layer: whether it is asked anything, by inputs that are not all 0."""
    called: list[bool] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        given = [*nests.tensors(args)]
        called.append(not given or any(bool(values.any()) for values in given))

    with ExitStack() as stack:
        for weight in noisy.weights:
            hook = weight.owner.register_forward_pre_hook(note)
            stack.callback(hook.remove)
        yield called


@contextmanager
def _all_moved(every: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, all parameters are others."""
    parameters = [parameter for parameter in every if parameter.is_floating_point()]
    with opened(parameters) as opening:
        Backup(parameters).save(opening)
        for index, parameter in enumerate(parameters):
            field = field_like(Stream(0, "effect", index).normal, parameter.detach())
            parameter.add_((field + 1).to(parameter.dtype))
        yield
