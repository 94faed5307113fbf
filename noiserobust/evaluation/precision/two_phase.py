"""Answers in bf16, corrected: some draws compute some images in full precision, too.

Difference estimator of two-phase sampling (C.-E. Särndal, B. Swensson, J. Wretman, Model Assisted Survey Sampling,
chapter 9): a cheap answer everywhere, the difference to the dear one in a random part.
"""

from __future__ import annotations

import numpy as np

CORRECTED = 1 / 4
"""Chance that a draw computes any image again."""
DOUBTFUL = 1 / 16
"""Share of its images, those of the smallest margins, that it then computes again for certain."""
OTHERS = 1 / 32
"""Chance of each other image."""


def difference_weights(margin: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    r"""How much the difference between an image's two answers counts; 0 without the second.

    .. math:: \hat y_i = z_i + f_i (y_i - z_i), \qquad E[f_i] = 1

    z is the answer in bf16, y that in the network's own precision. f is 1 / the chance of a second answer, or 0. So the
    estimate is unbiased for y, whatever bf16 does to z; that rounding turns answers only where the ``margin`` is small
    makes it precise, nothing else.
    """
    uniform = generator.random(len(margin) + 1)
    counts = np.where(uniform[1:] < OTHERS, 1 / OTHERS, 0.0)
    counts[np.argsort(np.abs(margin), kind="stable")[: -(-len(margin) // round(1 / DOUBTFUL))]] = 1.0
    return counts / CORRECTED if uniform[0] < CORRECTED else np.zeros(len(margin))
