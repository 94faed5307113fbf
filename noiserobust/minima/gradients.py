"""Gradients at the weights and around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from noiserobust.analog.weight_space import Over
from noiserobust.minima.perturbations import Perturbation, Unperturbed, check_over
from noiserobust.minima.sharpness import AtMeasure


@dataclass(frozen=True)
class AtGradient(AtMeasure):
    """A measure of the gradient at w + e; ``over`` says of which parameters: ``all`` trainable ones or the ``analog``
    weights."""

    names_over: ClassVar[bool] = True

    over: Over = "all"

    def __post_init__(self) -> None:
        check_over(self.name, self.over)

    @property
    def gradients(self) -> Over:
        return self.over


@dataclass(frozen=True)
class GradientNorm(AtGradient, name="gradient_norm"):
    r"""The length of the gradient at the perturbed weights, :math:`\lVert \nabla L(w + e) \rVert_2`; by default at w.

    - ``at``: the perturbation e; ``training`` gives the norm of the update gradient: that of the training step's loss,
      in micro-batches of the batch size with statistics of their own; the mean of their norms.
    - ``over``: ``all`` trainable parameters (default) or the ``analog`` weights alone.

    A forward and a backward pass per draw. Source: "Incorruptible Neural Networks", Figures 3a and 8a.
    """

    example: ClassVar[str] = "gradient_norm:none"
    reads: ClassVar[str] = "gradient_norm"

    at: Perturbation = field(default_factory=Unperturbed)


@dataclass(frozen=True)
class GradientCosine(AtGradient, name="gradient_cosine"):
    r"""Cosine between the gradients at w and at the perturbed weights, :math:`\nabla L(w)` and :math:`\nabla L(w + e)`.

    - ``at``, ``over``: see :class:`GradientNorm`.

    A forward and a backward pass at w and per draw. Source: "Incorruptible Neural Networks", Figure 5.
    """

    example: ClassVar[str] = "gradient_cosine:ascent(0.05)"
    reads: ClassVar[str] = "cosine"
