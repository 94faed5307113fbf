"""What names data: enough to say which run was trained on them, without having them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Content:
    """The content of :class:`~noiserobust.data.Splits` in a few words, from which the names of runs follow.

    ``fingerprints``: of the training and the test data, and of those that training watches, if there are such;
    ``mean``, ``std``: the normalisation; ``crop``, ``flip``: the augmentation that suits them.
    """

    fingerprints: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int = 0
    flip: bool = False
