"""Which test images tell most about the accuracy under noise: scores from clean margins, strata, their estimator.

Sampling theory: W. G. Cochran, Sampling Techniques, chapter 5 (stratified sampling).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FLOOR = 0.05
"""Least score: without it the rare flip of a confident image would get a huge weight."""
PER_STRATUM = 4


@dataclass(frozen=True, eq=False)
class Strata:
    """N images cut into H groups; a subset has ``taken[h]`` images of each, drawn anew without replacement.

    order: N positions, group after group; size, taken: H numbers. With the weights W_h = size_h / N and the share of
    right answers ybar_h among the n_h taken, the estimate of the accuracy is t = sum_h W_h ybar_h, unbiased, and

        v = sum_h W_h^2 (1 - n_h / N_h) ybar_h (1 - ybar_h) / (n_h - 1)

    is an unbiased estimate of its variance over subsets (Cochran, 5.3 and 5.4).
    """

    order: np.ndarray
    size: np.ndarray
    taken: np.ndarray

    @staticmethod
    def cut(margin: np.ndarray, score: np.ndarray, images: int) -> Strata:
        """``images`` / 4 strata along ``margin``, each with the same sum of ``score``, 4 images of each in a subset.

        An image of score c is in a subset with a probability about proportional to c. Fewer where the test set is too
        small for so many.
        """
        order = np.argsort(margin, kind="stable")
        count = max(images // PER_STRATUM, 1)
        mass = score[order].cumsum()
        # The middle of an image's share decides, so that rounding at the borders cannot lose the last one.
        stratum = ((mass - score[order] / 2) / mass[-1] * count).astype(int)
        size = np.bincount(stratum, minlength=count)
        size = size[size > 0]
        return Strata(order, size, np.minimum(size, PER_STRATUM))

    @staticmethod
    def whole(images: int) -> Strata:
        """The whole test set, every time."""
        return Strata(np.arange(images), np.array([images]), np.array([images]))

    @property
    def images(self) -> int:
        """Images of a subset."""
        return int(self.taken.sum())

    @property
    def step(self) -> float:
        """How far an image that was not taken could move t: the largest W_h / n_h of a stratum not whole, or 0."""
        return float((self.size / self.taken)[self.size > self.taken].max(initial=0.0) / len(self.order))

    def subset(self, generator: np.random.Generator) -> np.ndarray:
        """Positions of a fresh subset, stratum after stratum."""
        if self.images == len(self.order):
            return self.order
        # Floyd's way of drawing without replacement (Bentley and Floyd 1987), in all strata at once: the j-th
        # number is one of 0 .. N_h - n_h + j, or the last of these where that one is taken already.
        most = int(self.taken.max())
        chosen = np.full((len(self.size), most), -1)
        uniform = generator.random((most, len(self.size)))
        for j in range(most):
            last = self.size - self.taken + j
            number = (uniform[j] * (last + 1)).astype(int)
            number = np.where((chosen[:, :j] == number[:, None]).any(1), last, number)
            chosen[:, j] = np.where(j < self.taken, number, -1)
        first = self.size.cumsum() - self.size
        return self.order[(first[:, None] + chosen)[chosen >= 0]]

    def estimate(self, correct: np.ndarray) -> tuple[float, float]:
        """(t, v), as shares of 1, from the answers to a :meth:`subset`, in its order."""
        first = self.taken.cumsum() - self.taken
        right = np.add.reduceat(correct.astype(float), first) / self.taken
        weight = self.size / len(self.order)
        spread = right * (1 - right) / np.maximum(self.taken - 1, 1)
        return float(weight @ right), float(weight**2 * (1 - self.taken / self.size) @ spread)

    @property
    def represents(self) -> np.ndarray:
        """For every image of a subset, in its order: the share of the test set that it stands for."""
        return np.repeat(self.size / self.taken, self.taken) / len(self.order)


def score(chance: np.ndarray) -> np.ndarray:
    """How much an image tells: the standard deviation of its answer, at least ``FLOOR``."""
    return np.maximum(np.sqrt(chance * (1 - chance)), FLOOR)


def prior(margin: np.ndarray) -> np.ndarray:
    """The chance of a right answer under noise before any was seen: Phi(m / tau), tau half the median of abs(m)."""
    from scipy.special import ndtr

    return ndtr(margin / max(np.median(np.abs(margin)) / 2, np.finfo(float).tiny))


def refitted(margin: np.ndarray, positions: np.ndarray, correct: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The same chance for every image, from the answers to some: a logistic regression on the clean margin m.

    Features u = m / mean abs(m) and sign(u) sqrt(abs(u)); each answer counts by its ``weight``, scaled to mean 1; an L2
    penalty of 1e-3 on their factors (scikit-learn's C = 1000) keeps it finite where the answers are separable.
    """
    if correct.all() or not correct.any():
        return np.full(len(margin), float(correct[0]))
    u = margin / max(np.abs(margin).mean(), np.finfo(float).tiny)
    features = np.column_stack([u, np.sign(u) * np.sqrt(np.abs(u)), np.ones(len(u))])
    x, weight, beta = features[positions], weight / weight.mean(), np.zeros(3)
    penalty = np.array([1e-3, 1e-3, 0.0])

    def loss(beta: np.ndarray) -> float:
        return float(weight @ np.logaddexp(0, np.where(correct, -1, 1) * (x @ beta)) + penalty @ beta**2 / 2)

    for _ in range(100):  # Newton's method; a step that leads up is halved
        chance = _logistic(x @ beta)
        gradient = x.T @ (weight * (chance - correct)) + penalty * beta
        curvature = x.T @ (x * (weight * chance * (1 - chance))[:, None]) + np.diag(penalty + 1e-12)
        step = np.linalg.solve(curvature, gradient)
        while loss(beta - step) > loss(beta) and np.abs(step).max() > 1e-10:
            step = step / 2
        beta = beta - step
        if np.abs(step).max() <= 1e-10 * max(1.0, float(np.abs(beta).max())):
            break
    return _logistic(features @ beta)


def _logistic(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def sampling_variance(
    score: np.ndarray, chance: np.ndarray, positions: np.ndarray, correct: np.ndarray, weight: np.ndarray
) -> float:
    """v_1 of subsets chosen by ``score``: n times the variance of t over subsets of n images, seen in ``correct``.

        v_1 = mean(c) sum_i w_i (y_i - q_i)^2 / c_i

    over the answers y at ``positions`` with their ``weight`` w (made to sum to 1), where q is the ``chance``: what
    the margin does not tell. It judges a score by what happened, whatever the score was made from.
    """
    share = weight / weight.sum()
    return float(score.mean() * (share @ ((correct - chance[positions]) ** 2 / score[positions])))
