"""Which weights are analog, as one small value that evaluation and training take; importing it loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Where:
    """Which weights are analog (:func:`noiserobust.analog_weights`).

    Without any pattern a trained checkpoint is evaluated with those that it was trained with. The pattern ``none``
    stands for no pattern at all: ``Where(exclude=["none"])`` does not look at the checkpoint.
    """

    include: Sequence[str] = ()
    """Patterns of further parameters that are analog, with the axis of outputs of a layer that is not registered:
    *.kernel@1."""
    exclude: Sequence[str] = ()
    """Patterns of parameters that stay digital."""

    @property
    def patterns(self) -> dict[str, Any]:
        """The patterns as arguments of :func:`noiserobust.analog_weights`."""
        return {name: [one for one in patterns if one != "none"] for name, patterns in vars(self).items()}

    def __str__(self) -> str:
        """``+h.*.weight@1 -head.*``; empty where every weight is what its layer says."""
        patterns = self.patterns
        return " ".join([*(f"+{one}" for one in patterns["include"]), *(f"-{one}" for one in patterns["exclude"])])

    @classmethod
    def trained(cls, settings: Any) -> Where:
        """That of a training run's ``settings``, plain values as a checkpoint holds them."""
        known = settings if isinstance(settings, dict) else {}
        return cls(*(list(known.get(name) or ()) for name in ("include", "exclude")))
