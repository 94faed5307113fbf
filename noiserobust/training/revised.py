"""What settings have come to mean since runs were first named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noiserobust.noise.additive import names_laplace

if TYPE_CHECKING:
    from noiserobust.training.settings import TrainSettings


def revised(settings: TrainSettings) -> list[str]:
    """What ``settings`` mean now and did not always, without a change of SEMANTICS, which all other runs keep."""
    method, converters = str(settings.method), f"{settings.converters} {settings.layers or ''}"
    noises = (method, settings.select_noise, settings.layers, *settings.log)
    mixes = any(name in method for name in ("arwp-mixed", "g-rst", "alpha="))
    changes = {
        "clipped weights keep their limit": settings.weight_clip is not None,
        "norm of the whole gradient": "scaling=paper" in method.partition("esam")[2],
        "averaged with its ranges and converters": settings.average is not None and "io:" in converters,
        "Laplace noise of one uniform number": names_laplace(*noises),
        "ranges learn of every loss": mixes and "learnt=true" in converters,
    }
    return [change for change, is_so in changes.items() if is_so]
