"""Probability schedules p(t) of randomised training, functions of the elapsed share s = t / T of all T steps.

Source: "Randomized Sharpness-Aware Training for Boosting Computational Efficiency in Deep Learning" (arXiv 2203.09962),
Table 2 (constant, piecewise, linear) and Table 4's trigonometric ones.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from noiserobust.errors import UserError
from noiserobust.spec import Described
from noiserobust.training.schedules import Progress


@dataclass(frozen=True)
class Probability(Described, family="probability schedule"):
    """A probability that changes over training; call it with a :class:`Progress`."""

    def __call__(self, progress: Progress) -> float:
        """p at this step."""
        return min(1.0, max(0.0, self.at(progress.step / progress.steps)))

    @abstractmethod
    def at(self, share: float) -> float:
        """p when ``share`` (0 to 1) of all steps has passed."""

    def mean(self, steps: int) -> float:
        """The mean over a run of so many steps: the extra passes that it costs, in units of the inner rule's."""
        return sum(self(Progress(step, steps)) for step in range(steps)) / steps


@dataclass(frozen=True)
class Always(Probability, name="constant"):
    """a throughout; a plain number says the same."""

    example: ClassVar[str] = "constant(0.5)"

    a: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self.name, "a", self.a)

    def at(self, share: float) -> float:
        return self.a


@dataclass(frozen=True)
class Piecewise(Probability, name="piecewise"):
    """a for t < b T, then 1 - a."""

    example: ClassVar[str] = "piecewise(0.0,b=0.5)"

    a: float = 0.0
    b: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self.name, "a", self.a)
        check_probability(self.name, "b", self.b)

    def at(self, share: float) -> float:
        return self.a if share < self.b else 1 - self.a


@dataclass(frozen=True)
class Line(Probability, name="linear"):
    """a t / T + b: from b to a + b."""

    example: ClassVar[str] = "linear(0.8,b=0.1)"

    a: float = 1.0
    b: float = 0.0

    def __post_init__(self) -> None:
        check_probability(self.name, "b", self.b)
        # 0.9 + 0.1 and its like may miss 1 by a rounding.
        if not -1e-12 <= self.a + self.b <= 1 + 1e-12:
            raise UserError(f"{self.name}: expected a + b in [0, 1], where p ends, got {self.a + self.b:g}; lower |a|")

    def at(self, share: float) -> float:
        return self.a * share + self.b


@dataclass(frozen=True)
class Cos1(Probability, name="cos1"):
    """1/2 + 1/2 cos(pi t / T): from 1 to 0."""

    example: ClassVar[str] = "cos1"

    def at(self, share: float) -> float:
        return 0.5 + 0.5 * math.cos(math.pi * share)


@dataclass(frozen=True)
class Cos2(Probability, name="cos2"):
    """1/2 - 1/2 cos(pi t / T): from 0 to 1."""

    example: ClassVar[str] = "cos2"

    def at(self, share: float) -> float:
        return 0.5 - 0.5 * math.cos(math.pi * share)


@dataclass(frozen=True)
class Sin1(Probability, name="sin1"):
    """sin(pi t / T): 1 in the middle."""

    example: ClassVar[str] = "sin1"

    def at(self, share: float) -> float:
        return math.sin(math.pi * share)


@dataclass(frozen=True)
class Sin2(Probability, name="sin2"):
    """1 - sin(pi t / T): 0 in the middle."""

    example: ClassVar[str] = "sin2"

    def at(self, share: float) -> float:
        return 1 - math.sin(math.pi * share)


def check_probability(name: str, symbol: str, value: float) -> None:
    """Refuse what is no probability."""
    if not 0 <= value <= 1:
        raise UserError(
            f"{name}: expected {symbol} in [0, 1], got {value}; it is a probability or a share of all steps"
        )
