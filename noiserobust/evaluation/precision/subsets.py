"""A fresh subset of the test images for every draw: stratified by clean margin, refined once after a pilot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from noiserobust.evaluation.precision.strata import Strata, prior, refitted, sampling_variance, score
from noiserobust.rng import Stream
from noiserobust.tasks.counts import NAN_ANSWERS

PILOT = 32  # draws
PILOT_IMAGES = 64  # of each
SIZES = range(16, 161, 16)
"""Images per draw to choose from, besides all of them."""


@dataclass(frozen=True)
class Answered:
    """What a network under one draw says of some images."""

    right: np.ndarray
    """Whether it is right, image by image (bool)."""
    added: np.ndarray | None = None
    """What is to be added to each, which makes it right in expectation
    (:mod:`~noiserobust.evaluation.precision.two_phase`)."""
    undefined: int = 0
    """How many answers are NaN or infinite; they are wrong."""


Answers = Callable[[int, np.ndarray], Answered]
"""(draw, positions) -> what the network under that draw says there."""


@dataclass(frozen=True)
class Plan:
    """What the pilot taught."""

    strata: Strata
    score: np.ndarray
    noise_variance: float
    """s^2 of the accuracies of whole draws, on the safe (large) side."""
    sampling_variance: float
    """v_1: n times the variance over subsets of n images."""


class Subsets:
    """One network under one noise: what each draw's subset says, whatever was asked before.

    images: N. margins: gives the N signed clean margins, at the price of a clean pass, when first needed. stream: names
    the subsets. draw_cost: what a draw costs beside its images, in images' forward passes.

    The first ``PILOT`` draws have 64 images each, chosen by the prior score. Then the chance of a right answer is
    fitted to what they showed and the score replaced, or made uniform where that would have served the pilot better.
    The images per draw become those that make (n + c_0) (s^2 + v_1 (1/n - 1/N)), the cost of a precision, least; n
    = N (all of them) is among the candidates. Nothing of this depends on the precision that is asked for.
    """

    def __init__(
        self, images: int, margins: Callable[[], np.ndarray], answers: Answers, stream: Stream, draw_cost: float
    ) -> None:
        self.images, self._margins, self._answers = images, margins, answers
        self.stream, self.draw_cost = stream, draw_cost
        self._seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._pilot: dict[int, dict[str, float]] = {}

    def until_precise(self, draw: int) -> dict[str, float]:
        """What the subset of draw ``draw`` says, on the way to a precision."""
        if draw >= PILOT:
            return self._values(self.plan.strata, draw, "stopped")
        return self._values(self._first, draw, "stopped")

    def for_noise_std(self, draw: int) -> dict[str, float]:
        """The same in the design that measures the noise's standard deviation: about v_1 / s^2 images a draw."""
        return self._values(self._even, draw, "fixed")

    def everything(self, draw: int) -> dict[str, float]:
        """What all images say of draw ``draw``."""
        return self._values(Strata.whole(self.images), draw, "all")

    @cached_property
    def margin(self) -> np.ndarray:
        """The clean margins, with what is not finite brought to the largest that is."""
        margin = np.asarray(self._margins(), dtype=float)
        most = np.abs(margin[np.isfinite(margin)]).max(initial=1.0)
        return np.nan_to_num(margin, nan=0.0, posinf=most, neginf=-most).clip(-most, most)

    @cached_property
    def plan(self) -> Plan:
        """What follows from the pilot; its draws are made again where only their values are known."""
        pilot = [self.until_precise(draw) for draw in range(PILOT)]
        positions, correct = (
            np.concatenate(parts) for parts in zip(*(self._seen[k] for k in range(PILOT)), strict=True)
        )
        total = np.var([draw["subset_accuracy"] / 100 for draw in pilot], ddof=1)
        inside = np.mean([draw["subset_variance"] for draw in pilot]) / 1e4
        # One standard error above the estimate: an s that chance made small would ask for far too many images.
        noise = max(total - inside, 0.0) + total * np.sqrt(2 / PILOT)
        if self._first.images == self.images:
            return Plan(self._first, np.ones(self.images), noise, 0.25)
        weight = np.tile(self._first.represents, PILOT)
        chance = refitted(self.margin, positions, correct, weight)
        scores = [score(chance), np.ones(self.images)]
        variances = [sampling_variance(one, chance, positions, correct, weight) for one in scores]
        between, best = min(variances), scores[int(np.argmin(variances))]
        sizes = [*(n for n in SIZES if n < self.images), self.images]
        costs = [(n + self.draw_cost) * (noise + between * (1 / n - 1 / self.images)) for n in sizes]
        return Plan(self._strata(best, sizes[int(np.argmin(costs))]), best, noise, between)

    @cached_property
    def _first(self) -> Strata:
        # A test set so small that a pilot of whole passes costs no more than the clean pass and one of subsets.
        if self.images * PILOT <= self.images + PILOT_IMAGES * PILOT:
            return Strata.whole(self.images)
        return Strata.cut(self.margin, score(prior(self.margin)), PILOT_IMAGES)

    @cached_property
    def _even(self) -> Strata:
        plan = self.plan
        wanted = plan.sampling_variance / plan.noise_variance if plan.noise_variance else self.images
        return self._strata(plan.score, int(np.clip(wanted, min(SIZES), self.images)))

    def _strata(self, scores: np.ndarray, images: int) -> Strata:
        return Strata.whole(self.images) if images >= self.images else Strata.cut(self.margin, scores, images)

    def _values(self, strata: Strata, draw: int, purpose: str) -> dict[str, float]:
        pilot = draw < PILOT and purpose == "stopped"
        if not (pilot and draw in self._pilot):
            generator = np.random.Generator(np.random.PCG64(self.stream.child(purpose, draw).integer()))
            positions = strata.subset(generator)
            answered = self._answers(draw, positions)
            values = _values(strata, answered)
            if not pilot:
                return values
            self._seen[draw], self._pilot[draw] = (positions, answered.right), values
        return self._pilot[draw]


@dataclass(frozen=True)
class WholePasses:
    """What :class:`Subsets` is where samples are not right or wrong: every draw is measured on all samples."""

    images: int
    metric: str
    measured: Callable[[int], dict[str, float]]

    def until_precise(self, draw: int) -> dict[str, float]:
        """What all samples say of draw ``draw``; nothing is left to chance but the draw."""
        exact = {"subset_variance": 0.0, "subset_images": float(self.images), "subset_step": 0.0}
        values = self.measured(draw)
        undefined = {name: value for name, value in values.items() if name == NAN_ANSWERS}
        return {f"subset_{self.metric}": values[self.metric]} | exact | undefined

    for_noise_std = everything = until_precise


def _values(strata: Strata, answered: Answered) -> dict[str, float]:
    share, variance = strata.estimate(answered.right)
    if answered.added is not None:
        share += float(strata.represents @ answered.added)
    values = {
        "subset_accuracy": 100 * share,
        "subset_variance": 1e4 * variance,
        "subset_images": float(strata.images),
        "subset_step": 100 * strata.step,
    }
    return values | ({NAN_ANSWERS: float(answered.undefined)} if answered.undefined else {})
