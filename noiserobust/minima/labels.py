"""What stands in a table for a noise whose strength is swept: its text without that number."""

from __future__ import annotations

from functools import lru_cache

from noiserobust.errors import UserError
from noiserobust.minima.perturbations import Perturbation
from noiserobust.noise import NoiseModel


@lru_cache(maxsize=4096)
def without_strength(noise: str, strength: float) -> str:
    """The noise (or perturbation) of a row without the number ``strength``, where that is its own.

    Text that describes nothing known here, as other tools may write it, stays as it is.

    >>> without_strength("gaussian:0.05,reference=layer", 0.05), without_strength("random:gaussian(0.1),over=all", 0.1)
    ('gaussian:reference=layer', 'random:gaussian,over=all')
    """
    for family in (NoiseModel, Perturbation):
        try:
            described = family.parse(noise, imports=False)
        except UserError:
            continue
        label = described.without_strength(strength)
        return noise if label == str(described) else label
    return noise
