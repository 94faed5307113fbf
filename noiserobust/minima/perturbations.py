"""Perturbations: ways from w to a point w + e nearby. Training rules step with them, measures visit them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from noiserobust.analog.filters import filter_noise
from noiserobust.analog.places import AnalogWeight
from noiserobust.analog.vectors import Vector, divisor, multiply, precise, scale, scale_to
from noiserobust.analog.weight_space import Over, WeightSpace
from noiserobust.errors import UserError
from noiserobust.noise import Gaussian, NoiseModel
from noiserobust.noise.sharded import whole
from noiserobust.rng import Stream
from noiserobust.spec import Scalable


@dataclass(frozen=True)
class Perturbation(Scalable, family="perturbation"):
    """A way to choose the step e from the weights w to weights w + e nearby.

    ``m`` is for measures: the data are taken in micro-batches of m samples, each with an e of its own. A perturbation
    says what e is in :meth:`step`, or how the weights get to w + e in :meth:`moved`.
    """

    follows_gradient: ClassVar[bool] = False
    """Whether e is made of the gradient at w."""
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

    def step(self, weights: WeightSpace, gradient: Vector, stream: Stream) -> Vector:
        """e, one tensor per parameter, here 0; may be made in the memory of ``gradient``, whose scale must not count.

        ``gradient`` is that at w where :attr:`follows_gradient`, else empty; ``stream`` names what is random.
        """
        return [None] * len(weights.parameters)

    @contextmanager
    def moved(self, weights: WeightSpace, gradient: Vector, stream: Stream) -> Iterator[None]:
        """Inside, the weights are w + e; restored bit for bit. Uses ``gradient`` up: the list is empty afterwards."""
        step = self.step(weights, gradient, stream)
        gradient.clear()
        with weights.moved(step):
            yield

    def is_identity_on(self, weights: WeightSpace) -> bool:
        """Whether e is 0 there."""
        return self.is_identity

    def by_batches(self, m: int) -> Perturbation:
        """The same with an e for every micro-batch of ``m`` samples."""
        if not any(one.name == "m" for one in fields(self)):
            raise UserError(f"{self.name}: expected a field m (samples per micro-batch), got none; measures need it")
        return replace(self, m=m)  # type: ignore[call-arg]

    @property
    def label(self) -> str:
        """What stands in the column ``noise`` of result rows; how many draws there are is not part of it."""
        return str(self)


@dataclass(frozen=True)
class Unperturbed(Perturbation, name="none"):
    """No perturbation: e = 0."""

    example: ClassVar[str] = "none"

    leading: ClassVar[Literal["changed"]] = "changed"

    m: int | None = None


@dataclass(frozen=True)
class Ascent(Perturbation, name="ascent"):
    r"""SAM's single step of length rho up the gradient: :math:`e = \rho\, g / (\lVert g \rVert_2 + 10^{-12})`.

    - ``rho``: the radius. ``over``: ``all`` trainable parameters, as SAM climbs, or the ``analog`` weights alone.
    - ``m``: every micro-batch of m samples climbs its own gradient (m-sharpness); without m, that of all the data.
    - ``eta``: climb as ASAM does, :math:`e = \rho\, T^2 g / \lVert T g \rVert_2`, T being :math:`|w| + \eta` element by
      element on weights and 1 on biases (parameters whose name says bias).
    - ``p``: climb as SAMSON does, with :math:`T = |w| / \lVert w \rVert_p + \eta`, the norm being that of each tensor.

    Source: "Incorruptible Neural Networks" (arXiv 2602.07320), Eq. 3; Foret et al., "Sharpness-Aware Minimization for
    Efficiently Improving Generalization" (arXiv 2010.01412), Eq. 2 and section 2 (m-sharpness); Kwon et al., "ASAM"
    (arXiv 2102.11600), Eq. 8; Mordido et al., "SAMSON" (arXiv 2211.11561).
    """

    example: ClassVar[str] = "ascent(0.05)"
    follows_gradient: ClassVar[bool] = True
    strength_field: ClassVar[str | None] = "rho"

    rho: float = 0.05
    over: Over = "all"
    m: int | None = None
    eta: float | None = None
    p: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rho < float("inf"):
            raise UserError(f"ascent: expected a finite rho >= 0, got {self.rho}")
        if self.p is not None and not self.p >= 1:
            raise UserError(f"ascent: expected a norm of p >= 1, got {self.p}; inf is the largest weight")
        check_over(self.name, self.over)

    @torch.no_grad()
    def step(self, weights: WeightSpace, gradient: Vector, stream: Stream) -> Vector:
        gradient = precise(weights.only(gradient, self.over))
        if self.eta is None and self.p is None:
            return scale_to(gradient, self.rho)
        T: Vector = [
            None if g is None else self._size(parameter, name)
            for g, parameter, name in zip(gradient, weights.parameters, weights.names, strict=True)
        ]
        length = divisor(multiply(gradient, T))
        return scale(multiply(gradient, T), self.rho / length)

    def _size(self, parameter: Tensor, name: str) -> Tensor | None:
        """The diagonal of T for a parameter; None where it is 1."""
        if self.p is None:
            return None if "bias" in name.rpartition(".")[2] else parameter.abs().add_(self.eta or 0.0)
        (size,) = precise([parameter.abs()])
        assert size is not None
        return size.div_(whole(torch.linalg.vector_norm(size, self.p)) + 1e-12).add_(self.eta or 0.0)


@dataclass(frozen=True)
class Random(Perturbation, name="random"):
    """Noise on the weights: e is a draw of a noise model.

    - ``noise``: any noise model. ``draws``: how many, each with a value of its own.
    - ``over``: the ``analog`` weights, which are those that the noise is about (and the draws are those of
      ``evaluate``), or ``all`` trainable parameters; one that is not analog is then noised like a weight, a vector as
      one filter.
    - ``m``: every micro-batch of m samples has a draw of its own, as in training.
    - ``mirrored``: w - e in place of w + e, the other half of an antithetic pair.
    - ``own``: factor on the noises that single layers have of their own (a table of settings by layer).

    Source: "Incorruptible Neural Networks", Eq. 4.
    """

    example: ClassVar[str] = "random(gaussian(0.05))"

    strength_field: ClassVar[str | None] = "noise"

    noise: NoiseModel = field(default_factory=lambda: Gaussian(0.05))
    draws: int = 5
    over: Over = "analog"
    m: int | None = None
    mirrored: bool = False
    own: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_over(self.name, self.over)

    @contextmanager
    def moved(self, weights: WeightSpace, gradient: Vector, stream: Stream) -> Iterator[None]:
        with ExitStack() as stack:
            if self.over == "all":
                digital = self._digital(weights, stream)
                stack.enter_context(weights.moved(scale(digital, -1.0) if self.mirrored else digital))
            if self.mirrored:
                stack.enter_context(weights.noisy.replaced(lambda weight: self._reflected(weight, stream)))
            else:
                stack.enter_context(weights.noisy.perturbed(self.noise, stream, own=self.own))
            yield

    def _reflected(self, weight: AnalogWeight, stream: Stream) -> Tensor:
        """2 w - (w + e)."""
        clean = weight.value()
        noisy = weight.noise(self.noise, self.own).sample(weight.as_rows(clean), stream.weight(weight.name))
        return 2 * clean - weight.from_rows(noisy)

    @torch.no_grad()
    def _digital(self, weights: WeightSpace, stream: Stream) -> Vector:
        """The noise of every parameter that is not analog."""
        analog = weights.chosen("analog")
        return [
            None if a else self._noise(p, stream.weight(name))
            for a, p, name in zip(analog, weights.parameters, weights.names, strict=True)
        ]

    def _noise(self, parameter: Tensor, stream: Stream) -> Tensor:
        rows = parameter.detach() if parameter.dim() > 1 else parameter.detach().reshape(1, -1)
        return (self.noise.sample(rows, stream) - rows).reshape(parameter.shape)

    @property
    def is_identity(self) -> bool:
        return self.noise.is_identity

    def is_identity_on(self, weights: WeightSpace) -> bool:
        return self.is_identity and all(weight.noise(self.noise, self.own).is_identity for weight in weights.analog)

    @property
    def label(self) -> str:
        plain = self.over == "analog" and self.m is None
        return str(self.noise) if plain else str(replace(self, draws=5))


@dataclass(frozen=True)
class Filters(Perturbation, name="filters"):
    r"""Normal noise in proportion to each filter's norm: :math:`e_k \sim N(0, (\gamma \lVert w_k \rVert_2)^2)` for
    every filter (output channel) k of every parameter; one of a single dimension is one filter.

    Source: Li et al., "Efficient Generalization Improvement Guided by Random Weight Perturbation" (arXiv 2211.11489),
    section 3.2.
    """

    example: ClassVar[str] = "filters(0.01)"

    strength_field: ClassVar[str | None] = "gamma"

    gamma: float = 0.01
    draws: int = 5
    m: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma < float("inf"):
            raise UserError(f"filters: expected a finite gamma >= 0, got {self.gamma}")

    def step(self, weights: WeightSpace, gradient: Vector, stream: Stream) -> Vector:
        return filter_noise(weights, self.gamma, stream)

    @property
    def label(self) -> str:
        return str(replace(self, draws=5))


@dataclass(frozen=True)
class Training(Perturbation, name="training"):
    """The perturbation of the training rule at its present strength; known to a training log alone, which measures
    there the loss of the training step: micro-batches normalised by statistics of their own, label smoothing."""

    example: ClassVar[str] = "training"

    def step(self, weights: WeightSpace, gradient: Vector, stream: Stream) -> Vector:
        raise UserError("expected a perturbation such as ascent(0.05), got training, which only a training log knows")

    @property
    def is_identity(self) -> bool:
        return False


def check_over(name: str, over: str) -> None:
    """Refuse what is neither all nor analog."""
    if over not in ("all", "analog"):
        raise UserError(f"{name}: expected over all or analog, got {over!r}")
