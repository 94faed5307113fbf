"""Noise on a model's analog weights: put there for a while, and the clean ones restored bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn

from noiserobust.analog.backup import Backup
from noiserobust.analog.dora import dora_layers, norms_kept
from noiserobust.analog.factors import has_factor, set_factor
from noiserobust.analog.holders import Holders
from noiserobust.analog.layer_table import LayerTable
from noiserobust.analog.layers import tiles_of
from noiserobust.analog.openings import OPEN, opened
from noiserobust.analog.places import AnalogWeight, Stored
from noiserobust.analog.weights import OWN_FORWARD, classified
from noiserobust.errors import UserError
from noiserobust.models.kinds import require_layers, require_weights
from noiserobust.models.wrappers import unwrap
from noiserobust.noise import (
    Chip,
    Compensation,
    NoiseModel,
    compensated,
    folded,
    read_out,
    read_stream,
    rescaled,
)
from noiserobust.noise.in_place import add_in_place, adds_in_place
from noiserobust.noise.sharded import forget_gathered, is_sharded
from noiserobust.rng import Stream
from noiserobust.spec.kinds import typed

Seen = tuple[Tensor, Tensor | None]
"""What a layer computes with, and the factor, (outputs, inputs...), that is in it to compensate it (None: nothing)."""


class NoisyWeights:
    """The analog weights of a model, ready to be perturbed again and again without new memory.

    Raises :class:`~noiserobust.UserError` when there is none: a noise that touches nothing measures nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        layers: LayerTable | None = None,
    ) -> None:
        require_layers(model)
        require_weights(model)
        self.model = model
        forget_gathered(model)
        every = list(classified(model, include, exclude, layers))
        self.weights = [weight for weight, _ in every if isinstance(weight, AnalogWeight)]
        digital = sorted({reason.partition(" ")[0] for _, reason in every if OWN_FORWARD in reason})
        if digital:
            warnings.warn(
                f"weights of {', '.join(digital)} stay digital: it cannot be told what their own forward method "
                "multiplies by; include them by name@axis where it is the weight as it is, or exclude them by name",
                stacklevel=2,
            )
        if not self.weights and tiles_of(model):
            raise UserError(
                "expected an analog model with tiles for inference (InferenceRPUConfig), got one to train on chips; "
                "noiserobust.integrations.aihwkit.from_analog makes a plain network of it"
            )
        if not self.weights:
            raise UserError(
                "expected at least one analog weight (Linear, Conv, recurrent or attention), found none in "
                f"{type(unwrap(model)).__name__}; include=[...] names further parameters, coverage(model) lists them"
            )
        self._in_place = [weight for weight in self.weights if isinstance(weight, Stored)]
        self._others = [weight for weight in self.weights if not isinstance(weight, Stored)]
        self._latents = [latent for weight in self.weights for latent in weight.latents]
        self._dora = dora_layers(model)
        self._backup = Backup([weight.parameter for weight in self._in_place])
        self._holders = Holders(model, [w.parameter for w in self._in_place], [w.owner for w in self.weights])

    @contextmanager
    def perturbed(self, noise: NoiseModel, stream: Stream, t: float | None = None, own: float = 1.0) -> Iterator[None]:
        """Inside, every analog weight is a noisy copy drawn from ``stream.child(its name)``; restored bit for bit.

        One chip per weight is programmed, read and forgotten; :class:`Programmed` keeps them. ``own`` is a factor on
        the strength of noises that single weights have of their own.
        """
        noises = {weight.name: weight.noise(noise, own) for weight in self.weights}
        if all(one.is_identity for one in noises.values()):
            with self.held():
                yield
            return

        def sample(weight: AnalogWeight) -> Seen:
            rows, named = weight.as_rows(weight.value()), stream.weight(weight.name)
            chip = noises[weight.name].program(rows, named.child("program"))
            now, factor = read_out(chip, read_stream(named, t), t)
            return weight.from_rows(folded(now, factor).to(rows.dtype)), factor

        def write(put: Callable[[AnalogWeight], Tensor]) -> None:
            lying = [(weight, weight.value()) for weight in self._in_place]
            direct = [weight.outputs.lead and adds_in_place(noises[weight.name], live) for weight, live in lying]
            together: dict[NoiseModel, list[tuple[Tensor, Stream]]] = {}
            for weight, live in compress(lying, direct):
                together.setdefault(noises[weight.name], []).append((live, stream.weight(weight.name)))
            for noise_of_some, weights in together.items():
                add_in_place(noise_of_some, weights)
            for (weight, live), done in zip(lying, direct, strict=True):
                if not done:
                    live.copy_(put(weight))

        with self._moved(sample, write):
            yield

    def is_identity(self, noise: NoiseModel) -> bool:
        """Whether ``noise`` changes no weight, and none has a noise of its own."""
        return noise.is_identity and all(weight.noise(noise).is_identity for weight in self.weights)

    @contextmanager
    def replaced(self, value: Callable[[AnalogWeight], Tensor]) -> Iterator[None]:
        """Inside, every analog weight is ``value(weight)``, of its own shape; restored bit for bit."""

        with self.compensated(lambda weight: (value(weight), None)):
            yield

    @contextmanager
    def compensated(self, value: Callable[[AnalogWeight], Seen]) -> Iterator[None]:
        """The same of values that compensation is in, each with its factor."""

        def write(put: Callable[[AnalogWeight], Tensor]) -> None:
            for weight in self._in_place:
                weight.parameter.copy_(put(weight))

        with self._moved(value, write):
            yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, nobody else moves the weights; :class:`~noiserobust.UserError` while another thread does."""
        with opened(self._latents, moves=False):
            yield

    @contextmanager
    def _moved(
        self, value: Callable[[AnalogWeight], Seen], write: Callable[[Callable[[AnalogWeight], Tensor]], None]
    ) -> Iterator[None]:
        """Inside, parameters are what ``write`` put there, and other weights ``value(weight)``."""
        with opened(self._latents) as opening:
            forget_gathered(self.model)
            self._holders.watch(opening)
            opening.callback(lambda: forget_gathered(self.model))
            opening.enter_context(norms_kept(self._dora))
            for weight in self.weights:
                if has_factor(weight.owner, weight.attribute):
                    opening.callback(set_factor(weight.owner, weight.attribute, None))

            @torch.no_grad()
            def put(weight: AnalogWeight) -> Tensor:
                computed, factor = value(weight)
                if factor is not None:
                    opening.callback(set_factor(weight.owner, weight.attribute, factor))
                return computed

            for weight in self._others:
                opening.enter_context(weight.opened(put(weight)))
            for stored in self._in_place:
                opening.enter_context(stored.written())
            with torch.no_grad():
                self._backup.save(opening)
                write(put)
            forget_gathered(self.model)
            yield


class Programmed:
    """A model's analog weights written into arrays: a chip per weight, of the draw that ``stream`` names.

    It is the draw of :meth:`NoisyWeights.perturbed`. The chips are kept, to be read at several times; with
    ``read_once`` each is programmed when it is read, and forgotten, so that none takes memory.
    """

    def __init__(self, noisy: NoisyWeights, noise: NoiseModel, stream: Stream, read_once: bool = False) -> None:
        self.noisy, self.noise, self.stream, self.read_once = noisy, noise, stream, read_once
        self._weights = {weight.name: weight for weight in noisy.weights}
        self._chips: dict[str, Chip] = {}
        self.keeps_reads = False
        """Whether what arrays give is kept until another time or read is asked for: one copy of the weights, where
        compensations or converters are compared."""
        self._reads: dict[str, Seen] = {}
        self._read_now: tuple[float | None, int] | None = None
        if not read_once:
            forget_gathered(noisy.model)
            self._chips = {name: self.chip(name) for name in self._weights}

    @torch.no_grad()
    def chip(self, name: str) -> Chip:
        """The array of the weight ``name``, programmed from the weight that is in the model now if it was not kept."""
        if name in self._chips:
            return self._chips[name]
        weight = self._weights[name]
        noise = weight.noise(self.noise)
        return noise.program(weight.as_rows(weight.value()), self.stream.weight(name).child("program"))

    def weight(self, name: str, t: float | None = None, read: int = 0, compensation: Compensation = "none") -> Tensor:
        """What the array of the weight ``name`` gives, output channel first, at time ``t`` (s) and read ``read``."""
        return compensated(self.chip(name), read_stream(self.stream.weight(name), t, read), t, compensation)

    def read_out(
        self, name: str, t: float | None = None, read: int = 0, compensation: Compensation = "none"
    ) -> tuple[Tensor, Tensor | None]:
        """The same before compensation, and its factor (:func:`noiserobust.noise.read_out`)."""
        chip, stream = self.chip(name), read_stream(self.stream.weight(name), t, read)
        if not self.keeps_reads:
            return read_out(chip, stream, t, compensation)
        if self._read_now != (t, read):
            self._reads, self._read_now = {}, (t, read)
        if name not in self._reads:
            self._reads[name] = read_out(chip, stream, t)
        now, factor = self._reads[name]
        return rescaled(chip, now.clone(), factor, compensation)  # layers may compute with it, and be written to

    @contextmanager
    def read(
        self,
        t: float | None = None,
        read: int = 0,
        compensation: Compensation = "none",
    ) -> Iterator[None]:
        """Inside, the model computes with what its arrays give; restored bit for bit."""

        def seen(weight: AnalogWeight) -> Seen:
            now, factor = self.read_out(weight.name, t, read, compensation)
            return weight.from_rows(folded(now, factor)), factor

        # The same values either way; drawn anew they can be added in place.
        plain = self.read_once and read == 0 and compensation == "none"
        with self.noisy.perturbed(self.noise, self.stream, t) if plain else self.noisy.compensated(seen):
            yield


@typed
@contextmanager
def perturbed(
    model: nn.Module,
    noise: NoiseModel | str,
    *,
    seed: int = 0,
    draw: int = 0,
    replicate: int = 0,
    t: float | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    layers: Any = None,
) -> Iterator[nn.Module]:
    """``model`` under one draw of ``noise``; its weights are restored bit for bit afterwards, also after an exception.

    It is the draw that :func:`~noiserobust.evaluate` makes of the same seed, replicate and draw. Gradients taken
    inside are taken at the noisy weights (run ``backward`` inside, too, and the optimizer's step outside: what is
    written into the weights inside is lost, and refused at the end). ``layers``: a table of settings by layer, or
    its file (:class:`~noiserobust.analog.layer_table.LayerTable`).
    """
    noise = NoiseModel.parse(noise) if isinstance(noise, str) else noise
    stream = report_stream(seed, replicate, draw)
    noisy = NoisyWeights(model, include=include, exclude=exclude, layers=LayerTable.of(layers))
    with noisy.perturbed(noise, stream, t), nullcontext() if noisy.is_identity(noise) else _unwritten(noisy):
        yield model


@contextmanager
def _unwritten(noisy: NoisyWeights) -> Iterator[None]:
    """Refuse, where nothing else failed, what somebody wrote into noisy weights: restoring them takes it back."""
    before, opening = _marks(noisy), OPEN[-1]
    yield
    if OPEN[-1:] != [opening]:
        return  # closed in another order, which is refused by itself
    now = _marks(noisy)
    written = [
        name
        for name, (place, version, total) in before.items()
        if now[name][0] == place and now[name][1] != version and not torch.equal(now[name][2], total)
    ]
    if written:
        raise UserError(
            f"expected noisy weights to be left as they are, got {', '.join(written[:3])} written to (an optimizer's "
            "step, load_state_dict): the clean ones of before are back, without that; take gradients inside, and step "
            "outside"
        )


@torch.no_grad()
def _marks(noisy: NoisyWeights) -> dict[str, tuple[int, int, Tensor]]:
    """Where weights lie that are written in place, how often each was written to, and its sum."""
    stored = {weight.name: weight.parameter.detach() for weight in noisy.weights if isinstance(weight, Stored)}
    return {
        name: (values.data_ptr(), values._version, values.sum().nan_to_num())
        for name, values in stored.items()
        if not (is_sharded(values) or values.is_inference())
    }


def report_stream(seed: int, replicate: int, draw: int) -> Stream:
    """The name of the draws that are reported; draws that select an epoch or train have another purpose."""
    return Stream(seed, "report", replicate, draw)
