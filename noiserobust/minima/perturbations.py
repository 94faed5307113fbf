"""Perturbations: the ways from w to a point w + e nearby, and what is found there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.minima.filters import filter_noise
from noiserobust.minima.surface import Over, Surface
from noiserobust.minima.vectors import Gradients, adaptive_ascent, ascent, clones, inner, norm
from noiserobust.noise import Gaussian, NoiseModel
from noiserobust.rng import Stream
from noiserobust.spec import Scalable


@dataclass(frozen=True)
class Perturbation(Scalable, family="perturbation"):
    """A way to choose e. ``m``: the data are taken in micro-batches of m samples, each with an e of its own."""

    follows_gradient: ClassVar[bool] = False
    strength_field: ClassVar[str | None] = None

    @property
    def draws(self) -> int:
        """How many random choices of e there are."""
        return 1

    @property
    def m(self) -> int | None:
        """Size of the micro-batches; None for the whole data."""
        return None

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise UserError(f"{self.name}: expected draws >= 1, got {self.draws}")
        if self.m is not None and self.m < 1:
            raise UserError(f"{self.name}: expected micro-batches of m >= 1 samples, got {self.m}")

    @contextmanager
    def moved(self, surface: Surface, gradient: Gradients, stream: Stream) -> Iterator[None]:
        """Inside, the weights are w + e; restored bit for bit. Uses ``gradient`` up where it follows it."""
        yield

    @property
    def label(self) -> str:
        """What stands in the column ``noise`` of result rows; how many draws there are is not part of it."""
        return str(self)


@dataclass(frozen=True)
class Unperturbed(Perturbation, name="none"):
    """e = 0."""

    example: ClassVar[str] = "none"

    leading: ClassVar[Literal["changed"]] = "changed"

    m: int | None = None


@dataclass(frozen=True)
class Ascent(Perturbation, name="ascent"):
    r"""SAM's single step up the gradient: :math:`e = \rho\, g / \lVert g \rVert_2`, one norm over all tensors.

    - ``rho``: the radius. ``over``: ``all`` trainable parameters, as SAM climbs, or the ``analog`` weights alone.
    - ``m``: every micro-batch of m samples climbs its own gradient (m-sharpness); without m, that of all the data.
    - ``eta``: climb as ASAM does, :math:`e = \rho\, T^2 g / \lVert T g \rVert_2` with T = |w| + eta on weights.

    Source: "Incorruptible Neural Networks", Eq. 3; Foret et al., "Sharpness-Aware Minimization for Efficiently
    Improving Generalization", Eq. 2 and section 2 (m-sharpness).
    """

    example: ClassVar[str] = "ascent:0.05"
    follows_gradient: ClassVar[bool] = True
    strength_field: ClassVar[str | None] = "rho"

    rho: float = 0.05
    over: Over = "all"
    m: int | None = None
    eta: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rho < float("inf"):
            raise UserError(f"ascent: expected a finite rho >= 0, got {self.rho}")
        check_over(self.name, self.over)

    @contextmanager
    def moved(self, surface: Surface, gradient: Gradients, stream: Stream) -> Iterator[None]:
        gradient = surface.only(gradient, self.over)
        if self.eta is None:
            steps = ascent(gradient, self.rho)
        else:
            steps = adaptive_ascent(gradient, surface.parameters, surface.names, self.rho, self.eta)
        with surface.moved(steps):
            yield


@dataclass(frozen=True)
class Random(Perturbation, name="random"):
    """e is a draw of a noise model.

    - ``noise``: any noise model. ``draws``: how many, each with a value of its own.
    - ``over``: the ``analog`` weights, which are those that the noise is about (and the draws are those of
      ``evaluate``), or ``all`` trainable parameters; one that is not analog is then noised like a weight, a vector as
      one filter.
    - ``m``: every micro-batch of m samples has a draw of its own, as in training.

    Source: "Incorruptible Neural Networks", Eq. 4.
    """

    example: ClassVar[str] = "random:gaussian(0.05)"

    strength_field: ClassVar[str | None] = "noise"

    noise: NoiseModel = field(default_factory=lambda: Gaussian(0.05))
    draws: int = 5
    over: Over = "analog"
    m: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_over(self.name, self.over)

    @contextmanager
    def moved(self, surface: Surface, gradient: Gradients, stream: Stream) -> Iterator[None]:
        with ExitStack() as stack:
            if self.over == "all":
                stack.enter_context(surface.moved(self._digital(surface, stream)))
            stack.enter_context(surface.noisy_weights.perturbed(self.noise, stream))
            yield

    @torch.no_grad()
    def _digital(self, surface: Surface, stream: Stream) -> Gradients:
        """The noise of every parameter that is not analog."""
        analog = surface.chosen("analog")
        return [
            None if a else self._noise(p, stream.child(name))
            for a, p, name in zip(analog, surface.parameters, surface.names, strict=True)
        ]

    def _noise(self, parameter: Tensor, stream: Stream) -> Tensor:
        rows = parameter.detach() if parameter.dim() > 1 else parameter.detach().reshape(1, -1)
        return (self.noise.sample(rows, stream) - rows).reshape(parameter.shape)

    @property
    def is_identity(self) -> bool:
        return self.noise.is_identity

    @property
    def label(self) -> str:
        plain = self.over == "analog" and self.m is None
        return str(self.noise) if plain else str(replace(self, draws=5))


@dataclass(frozen=True)
class Filters(Perturbation, name="filters"):
    r"""Filter-wise random weight perturbation of every parameter: :math:`e_k \sim N(0, (\gamma \lVert w_k \rVert_2)^2)`
    for every filter k; a parameter of a single dimension is one filter.

    Source: Li et al., "Revisiting Random Weight Perturbation for Efficiently Improving Generalization", section 3.2.
    """

    example: ClassVar[str] = "filters:0.01"

    strength_field: ClassVar[str | None] = "gamma"

    gamma: float = 0.01
    draws: int = 5
    m: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma < float("inf"):
            raise UserError(f"filters: expected a finite gamma >= 0, got {self.gamma}")

    @contextmanager
    def moved(self, surface: Surface, gradient: Gradients, stream: Stream) -> Iterator[None]:
        with surface.moved(filter_noise(surface.parameters, surface.names, surface.analog, self.gamma, stream)):
            yield

    @property
    def label(self) -> str:
        return str(replace(self, draws=5))


@dataclass(frozen=True)
class Training(Perturbation, name="training"):
    """The perturbation of the training rule at its present strength; known to a training log alone, which measures
    there the loss of the training step: micro-batches normalised by statistics of their own, label smoothing."""

    example: ClassVar[str] = "training"

    @contextmanager
    def moved(self, surface: Surface, gradient: Gradients, stream: Stream) -> Iterator[None]:
        raise UserError("expected a perturbation such as ascent(0.05), got training, which only a training log knows")
        yield

    @property
    def is_identity(self) -> bool:
        return False


@dataclass(frozen=True)
class Point:
    """What is found at w + e: means over micro-batches, where there are several."""

    loss: float
    """L(w + e)."""
    rise: float
    """L(w + e) - L(w), from one and the same samples."""
    radius: float
    """||e||, over all trainable parameters."""
    gradient_norm: float = float("nan")
    """Norm of the gradient at w + e."""
    cosine: float = float("nan")
    """Cosine between the gradients at w and at w + e."""


def visit(surface: Surface, perturbation: Perturbation, streams: Sequence[Stream], over: Over | None) -> list[Point]:
    """The points of all draws, draw k being named ``streams[k]``; with gradients over ``over``, or without any.

    A forward pass at w, which serves all measures and draws, and one per draw; a backward pass at w where the gradient
    is followed or compared, and one per draw with ``over``.
    """
    # A visit with gradients answers one without.
    for known in dict.fromkeys([over, over or "all", over or "analog"]):
        if (key := (perturbation, tuple(streams), known)) in surface.memo:
            return surface.memo[key]
    parts = surface.parts(perturbation.m)
    sums = [[0.0] * 5 for _ in streams]
    for index, part in enumerate(parts):
        share = sum(len(batch) for batch in part) / surface.images
        whole = perturbation.m is None
        clean, gradient = clean_point(surface, part, whole, perturbation.follows_gradient or over is not None)
        before = clean.mean().item()
        for draw, stream in enumerate(streams):
            own = stream if whole else stream.child("part", index)
            values = _look(surface, part, perturbation, own, gradient, before, over)
            for place, value in enumerate(values):
                sums[draw][place] += share * value
    found = [Point(*values) for values in sums]
    surface.memo[(perturbation, tuple(streams), over)] = found
    return found


def clean_point(surface: Surface, part: Sequence[Batch], whole: bool, gradient: bool) -> tuple[Tensor, Gradients]:
    """Losses at w and, where asked, their mean's gradient (not to be changed); remembered for the whole data."""
    known = surface.memo.get("clean") if whole else None
    if known is None or (gradient and not known[1]):
        known = surface.gradient(part) if gradient else (surface.losses(part), [])
        if whole:
            surface.memo["clean"] = known
    return known


def _look(
    surface: Surface,
    part: Sequence[Batch],
    perturbation: Perturbation,
    stream: Stream,
    gradient: Gradients,
    before: float,
    over: Over | None,
) -> tuple[float, float, float, float, float]:
    if perturbation.is_identity:  # nothing to look for: no further pass
        if over is None:
            return before, 0.0, 0.0, float("nan"), float("nan")
        return before, 0.0, 0.0, norm(surface.only(gradient, over)).item(), 1.0
    clean = [parameter.detach().clone() for parameter in surface.parameters]
    with perturbation.moved(surface, clones(gradient) if perturbation.follows_gradient else [], stream):
        radius = norm([p.detach() - c for p, c in zip(surface.parameters, clean, strict=True)]).item()
        if over is None:
            loss = surface.loss(part)
            return loss, loss - before, radius, float("nan"), float("nan")
        losses, there = surface.gradient(part)
    here, there = surface.only(gradient, over), surface.only(there, over)
    loss, length = losses.mean().item(), norm(there)
    return loss, loss - before, radius, length.item(), (inner(here, there) / (norm(here) * length)).item()


def check_over(name: str, over: str) -> None:
    """Refuse what is neither all nor analog."""
    if over not in ("all", "analog"):
        raise UserError(f"{name}: expected over all or analog, got {over!r}")
