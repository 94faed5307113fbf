"""Schedules over training: of a rule's strength, and of the learning rate.

Source of the strengths': "Incorruptible Neural Networks" (arXiv 2602.07320), section 5.2; but for the cosine, an option
of the code of mixed RWP's authors. With T_w the warm-up and m the maximum, the
strength at step t is m from T_w on, and before that m t/T_w (linear), m (t/T_w)^2 (quadratic) or 0 (off to on).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from noiserobust.errors import UserError
from noiserobust.rng import Stream
from noiserobust.spec import Described


class Progress(NamedTuple):
    """Where training stands: ``step`` of ``steps`` (from 0) and ``epoch`` of ``epochs`` (from 0).

    ``seed`` names what is random in a strength; a rule's step puts the engine's there.
    """

    step: int
    steps: int
    epoch: int = 0
    epochs: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Schedule(Described, family="schedule"):
    """A strength that changes over training; call it with a :class:`Progress`."""

    @abstractmethod
    def __call__(self, progress: Progress) -> float:
        """The strength of this step."""


@dataclass(frozen=True)
class Constant(Schedule, name="constant"):
    """The same strength at every step."""

    example: ClassVar[str] = "constant(0.1)"

    maximum: float

    def __post_init__(self) -> None:
        _check(self.name, self.maximum, 1)

    def __call__(self, progress: Progress) -> float:
        return self.maximum


@dataclass(frozen=True)
class WarmUp(Schedule):
    """``maximum`` times a shape of the warm-up's elapsed share, which ends at 1.

    ``warmup`` is a number of steps (``int``) or a fraction of all steps (``float`` in [0, 1]).
    """

    maximum: float
    warmup: int | float = 0.5

    def __post_init__(self) -> None:
        _check(self.name, self.maximum, self.warmup)

    def __call__(self, progress: Progress) -> float:
        length = warmup_steps(self.warmup, progress.steps)
        elapsed = 1.0 if progress.step >= length else progress.step / length
        return self.maximum * self.shape(elapsed)

    @abstractmethod
    def shape(self, elapsed: float) -> float:
        """Share of the maximum when ``elapsed`` (0 to 1) of the warm-up has passed."""


@dataclass(frozen=True)
class Linear(WarmUp, name="linear"):
    """From 0, in proportion to the steps taken."""

    example: ClassVar[str] = "linear(0.5,warmup=0.3)"

    def shape(self, elapsed: float) -> float:
        return elapsed


@dataclass(frozen=True)
class Quadratic(WarmUp, name="quadratic"):
    """From 0, in proportion to the square of the steps taken."""

    example: ClassVar[str] = "quadratic(0.5,warmup=0.3)"

    def shape(self, elapsed: float) -> float:
        return elapsed**2


@dataclass(frozen=True)
class OffToOn(WarmUp, name="off-to-on"):
    """0 during the warm-up, then the maximum."""

    example: ClassVar[str] = "off-to-on(1.0,warmup=100)"

    def shape(self, elapsed: float) -> float:
        return float(elapsed >= 1)


@dataclass(frozen=True)
class Cosine(WarmUp, name="cosine"):
    """From 0 as half a cosine, m (1 - cos(pi t/T_w)) / 2, over all of training by default."""

    example: ClassVar[str] = "cosine(0.02)"

    warmup: int | float = 1.0

    def shape(self, elapsed: float) -> float:
        return 0.5 * (1 - math.cos(math.pi * elapsed))


Strength = float | Schedule


@dataclass(frozen=True)
class Drawn(Schedule):
    """A strength that is drawn anew at every step, around ``mean``, a number or a schedule.

    The draw is named by the run's seed and the step: it is the same on every rank, and nothing needs saving.
    Source: Wang et al., "Variance-Aware Noisy Training: Hardening DNNs against Unstable Analog Computations" (arXiv
    2503.16183), which draws the noise's standard deviation from a normal distribution.
    """

    mean: float | Schedule

    def __post_init__(self) -> None:
        check_strength(self.name, "mean", self.mean)
        if isinstance(self.mean, Drawn):
            raise UserError(f"{self.name}: expected one draw, got {self.mean.name} inside: it would be the same one")

    def __call__(self, progress: Progress) -> float:
        return strength_at(self.mean, progress) * self.factor(Stream(progress.seed, "train", "strength", progress.step))

    @abstractmethod
    def factor(self, stream: Stream) -> float:
        """A draw of strength / mean, never negative."""


@dataclass(frozen=True)
class Uniform(Drawn, name="uniform"):
    """Drawn at every step, uniform from mean (1 - spread) to mean (1 + spread)."""

    example: ClassVar[str] = "uniform(0.1,spread=0.5)"

    spread: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.spread <= 1:
            raise UserError(
                f"{self.name}: expected spread in [0, 1], got {self.spread}; 1 draws from 0 to twice the mean"
            )

    def factor(self, stream: Stream) -> float:
        return 1 + self.spread * (2 * float(stream.uniform((1,))) - 1)


@dataclass(frozen=True)
class HalfNormal(Drawn, name="half-normal"):
    """Drawn at every step: the absolute value of a normal number, scaled to have that mean."""

    example: ClassVar[str] = "half-normal(quadratic(0.1))"

    def factor(self, stream: Stream) -> float:
        return math.sqrt(math.pi / 2) * abs(float(stream.normal((1,))))


@dataclass(frozen=True)
class Normal(Drawn, name="normal"):
    """Drawn at every step from a normal distribution of relative standard deviation spread; below 0 it is reflected."""

    example: ClassVar[str] = "normal(0.1,spread=0.3)"

    spread: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.spread < math.inf:
            raise UserError(f"{self.name}: expected a finite spread >= 0, got {self.spread}")

    def factor(self, stream: Stream) -> float:
        return abs(1 + self.spread * float(stream.normal((1,))))


def strength_at(strength: Strength, progress: Progress) -> float:
    """The value of a strength that may be a number or a schedule."""
    return strength(progress) if isinstance(strength, Schedule) else strength


def check_strength(name: str, symbol: str, strength: Strength) -> None:
    """Refuse a strength that is a negative or infinite number; a schedule checks itself."""
    if not isinstance(strength, Schedule) and not 0 <= strength < float("inf"):
        raise UserError(f"{name}: expected a finite {symbol} >= 0, got {strength}")


def learning_rate(step: int, steps: int, warmup: int | float = 0) -> float:
    """Factor on the peak rate: up in a line over the warm-up, then (1 + cos(pi s)) / 2 over the share s that remains.

    ``warmup`` is a number of steps (``int``) or a fraction of all steps (``float``).
    """
    length = warmup_steps(warmup, steps)
    if step < length:
        return (step + 1) / (length + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - length) / max(1, steps - length))))


def _check(name: str, maximum: float, warmup: float) -> None:
    check_strength(name, "maximum", maximum)
    check_warmup(f"{name}: expected warmup", warmup)


def warmup_steps(warmup: int | float, steps: int) -> float:
    """The length of a warm-up given as a number of steps (``int``) or as a fraction of all ``steps`` (``float``)."""
    if not isinstance(warmup, float):
        return warmup
    # 0.07 * 100 is 7.000000000000001, which step 7 would not reach.
    length = warmup * steps
    return round(length) if math.isclose(length, round(length)) else length


def check_warmup(expected: str, warmup: int | float) -> None:
    """Refuse a warm-up that is negative, a fraction above 1 or not finite."""
    if not 0 <= warmup < math.inf or (isinstance(warmup, float) and warmup > 1):
        raise UserError(f"{expected} as whole steps or as a fraction in [0, 1], got {warmup}")
