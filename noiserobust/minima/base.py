"""What a measure is, and how several of them share passes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from noiserobust.analog.weight_space import Over
from noiserobust.errors import UserError
from noiserobust.minima.perturbations import Perturbation
from noiserobust.minima.surface import Surface
from noiserobust.minima.visit import visit
from noiserobust.rng import Stream
from noiserobust.spec import Described, Scalable

Streams = Callable[[int], Stream]
"""Draw -> the name of its randomness."""
Values = dict[str, float]
"""Part -> value; the part "" is the measure itself, others are written ``measure/part``."""


@dataclass(frozen=True)
class Measure(Described, family="measure"):
    """A number, or several, that describe a trained network: its sharpness, gradients, curvature or weights."""

    needs_data: ClassVar[bool] = True
    """Whether it is about the loss on data; if not, it is about the weights alone."""

    names_over: ClassVar[bool] = False
    """Whether ``over="analog"`` has to be said by the metric, since the perturbation does not."""

    @abstractmethod
    def values(self, surface: Surface, streams: Streams) -> list[Values]:
        """The measure's values by part, one dictionary per draw."""

    @property
    def draws(self) -> int:
        """How many dictionaries :meth:`values` gives."""
        return 1

    @property
    def gradients(self) -> Over | None:
        """The parameters whose gradient at the perturbed point is needed; None for none."""
        return None

    @property
    def place(self) -> tuple[str, float]:
        """The columns ``noise`` and ``strength`` of its result rows: the perturbation and its size."""
        return "none", 0.0

    def at_training(self, perturbation: Perturbation) -> Measure:
        """The same with the rule's present ``perturbation`` where it says ``training``."""
        return self

    def swept(self, strength: float) -> Measure:
        """The same with its perturbation at another ``strength``."""
        raise UserError(f"expected a measure with a strength to sweep, got {self}; perturbed_loss:ascent(1.0) has one")


@dataclass(frozen=True)
class PointMeasure(Measure, Scalable):
    """A measure that is one number of the point w + e; ``strength_field`` names what scales e."""

    reads: ClassVar[str]
    """The field of :class:`~noiserobust.minima.visit.Point` that is the value."""

    def __post_init__(self) -> None:
        _ = self.perturbation  # checks its own settings

    @property
    @abstractmethod
    def perturbation(self) -> Perturbation:
        """The perturbation whose point w + e it reads."""

    def values(self, surface: Surface, streams: Streams) -> list[Values]:
        points = visit(surface, self.perturbation, [streams(draw) for draw in range(self.draws)], self.gradients)
        return [{"": getattr(point, self.reads)} for point in points]

    @property
    def draws(self) -> int:
        return self.perturbation.draws

    @property
    def place(self) -> tuple[str, float]:
        return self.perturbation.label, self.perturbation.strength

    def swept(self, strength: float) -> Measure:
        return self.scaled(strength / self.strength) if self.strength else super().swept(strength)


def measure(surface: Surface, measures: Sequence[Measure], streams: Streams) -> dict[Measure, list[Values]]:
    """The values of all ``measures`` at the present weights: for each, a dictionary of parts per draw.

    Passes are shared: one at w serves all, and measures at the same perturbation share a visit.
    """
    # Those that take gradients first: what they see answers the others, too.
    values = {one: one.values(surface, streams) for one in sorted(measures, key=lambda one: one.gradients is None)}
    return {one: values[one] for one in measures}


def column(one: Measure, part: str = "") -> str:
    """The name of a value in a training log: the measure's text, and its part."""
    return f"{one}/{part}" if part else str(one)


def metric(one: Measure, part: str = "") -> str:
    """The name of a value in result rows, whose other columns say at which perturbation."""
    analog = one.names_over and getattr(one, "over", "all") == "analog"
    return "/".join(filter(None, [one.name, "analog" if analog else "", part]))
