"""How the loss rises around the weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from noiserobust.analog.weight_space import Over
from noiserobust.errors import UserError
from noiserobust.minima.base import Measure, PointMeasure, Streams, Values
from noiserobust.minima.perturbations import Ascent, Perturbation, Random, Training, Unperturbed
from noiserobust.minima.surface import Surface
from noiserobust.minima.visit import visit
from noiserobust.noise import Gaussian, NoiseModel


@dataclass(frozen=True)
class Loss(PointMeasure, name="loss"):
    """The mean loss at the weights, L(w). One forward pass, which the other measures share."""

    example: ClassVar[str] = "loss"
    reads: ClassVar[str] = "loss"
    strength_field: ClassVar[str | None] = None

    @property
    def perturbation(self) -> Perturbation:
        return Unperturbed()


@dataclass(frozen=True)
class Accuracy(Measure, name="accuracy"):
    """Percent of the samples (tokens, pixels) that are right, as the task counts it. One more forward pass."""

    example: ClassVar[str] = "accuracy"

    def values(self, surface: Surface, streams: Streams) -> list[Values]:
        meter = surface.task.meter()
        with surface.mode(), torch.no_grad():
            for batch in surface.batches:
                meter.update(surface.predictions(batch), batch)
        metrics = meter.compute()
        if "accuracy" not in metrics:
            known = ", ".join(metrics)
            raise UserError(f"expected a task with an accuracy, got {surface.task} ({known}); measure the loss")
        return [{"": metrics["accuracy"]}]


@dataclass(frozen=True)
class AverageSharpness(PointMeasure, name="average_sharpness"):
    r"""How far noise on the weights raises the loss on average: :math:`E_e[L(w + e)] - L(w)`, one value per draw of e.

    - ``noise``: any noise model. ``draws``: how many. ``m``: a draw for every micro-batch of m samples.
    - ``over``: ``analog`` (default: what the noise is about; the draws are those of ``evaluate``, so the rise is that
      of its losses) or ``all`` trainable parameters (:class:`~noiserobust.minima.perturbations.Random`).

    1 + draws forward passes. Source: "Incorruptible Neural Networks", Eq. 4.
    """

    example: ClassVar[str] = "average_sharpness:gaussian(0.05),draws=10"

    noise: NoiseModel = field(default_factory=lambda: Gaussian(0.05))
    draws: int = 5
    over: Over = "analog"
    m: int | None = None
    reads: ClassVar[str] = "rise"
    strength_field: ClassVar[str | None] = "noise"

    @property
    def perturbation(self) -> Perturbation:
        return Random(self.noise, self.draws, self.over, self.m)


@dataclass(frozen=True)
class AscentSharpness(PointMeasure, name="ascent_sharpness"):
    r"""How far a step of length rho up the gradient raises the loss:
    :math:`L(w + \rho\, \nabla L(w) / \lVert \nabla L(w) \rVert_2) - L(w)`.

    - ``rho``: the radius of SAM's single step.
    - ``over``: ``all`` trainable parameters (default, as SAM climbs) or the ``analog`` weights alone.
    - ``m``: m-sharpness, the mean over micro-batches of m samples that each climb their own gradient.

    Two forward passes and one backward. Source: "Incorruptible Neural Networks", Eq. 3; with rho 0.05 and m the batch
    size it is the sharpness of "Sharpness-Aware Training for Free", Figure 4 (the first form of its Eq. 5).
    """

    example: ClassVar[str] = "ascent_sharpness:0.05"

    rho: float = 0.05
    over: Over = "all"
    m: int | None = None
    reads: ClassVar[str] = "rise"
    strength_field: ClassVar[str | None] = "rho"

    @property
    def perturbation(self) -> Perturbation:
        return Ascent(self.rho, self.over, self.m)


@dataclass(frozen=True)
class FirstOrderSharpness(AscentSharpness, name="first_order_sharpness"):
    r"""The ascent-direction sharpness to first order: :math:`\rho \lVert \nabla L(w) \rVert_2`.

    - ``rho``, ``over``, ``m``: see :class:`AscentSharpness`.

    One forward pass and one backward. Source: "Sharpness-Aware Training for Free", Eq. 5 (last form).
    """

    example: ClassVar[str] = "first_order_sharpness:0.05"

    @property
    def gradients(self) -> Over:
        return self.over

    def values(self, surface: Surface, streams: Streams) -> list[Values]:
        (here,) = visit(surface, Unperturbed(self.m), [streams(0)], self.over)
        return [{"": self.rho * here.gradient_norm}]

    def swept(self, strength: float) -> Measure:
        return replace(self, rho=strength)


@dataclass(frozen=True)
class AtMeasure(PointMeasure):
    """A measure at any perturbation: ``random(gaussian(0.1))``, ``ascent(0.05)``, ``filters(0.01)``, or ``training``,
    that of the training rule, in a training log."""

    strength_field: ClassVar[str | None] = "at"

    at: Perturbation = field(default_factory=Training)

    @property
    def perturbation(self) -> Perturbation:
        return self.at

    def at_training(self, perturbation: Perturbation) -> Measure:
        return replace(self, at=perturbation) if isinstance(self.at, Training) else self


@dataclass(frozen=True)
class PerturbedLoss(AtMeasure, name="perturbed_loss"):
    r"""The loss at perturbed weights, L(w + e), one value per draw.

    A forward pass per draw (and what finding e takes). Source: "Incorruptible Neural Networks", Figures 10 and 12.
    """

    example: ClassVar[str] = "perturbed_loss:random(gaussian(0.1))"
    reads: ClassVar[str] = "loss"


@dataclass(frozen=True)
class GradientSharpness(AtMeasure, name="gradient_sharpness"):
    r"""The rise L(w + e) - L(w) where the rule takes its update gradient: at SAM's ascent point, at a draw of RWP.

    In micro-batches of the batch size, each with an e of its own, at the strength of the epoch's last step. Passes:
    those of the rule. Source: "Incorruptible Neural Networks", section 3, Figures 3b and 11a.
    """

    example: ClassVar[str] = "gradient_sharpness:ascent(0.05)"
    reads: ClassVar[str] = "rise"


@dataclass(frozen=True)
class PerturbationRadius(AtMeasure, name="perturbation_radius"):
    r"""The length of the perturbation, :math:`\lVert e \rVert_2` over all trainable parameters, one value per draw.

    Shares the passes of the other measures there. Source: "Efficient Generalization Improvement Guided by Random Weight
    Perturbation" (arXiv 2211.11489), Figure 3.
    """

    example: ClassVar[str] = "perturbation_radius:ascent(0.05)"
    reads: ClassVar[str] = "radius"
