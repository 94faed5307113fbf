"""``noiserobust budget``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from noiserobust.cli.flags import Groups
from noiserobust.cli.options import RARE, OnChips
from noiserobust.cli.output import Part
from noiserobust.errors import UserError
from noiserobust.spec.listing import check


@dataclass(frozen=True)
class Budget(OnChips):
    """How much noise a network may meet: the value of one number at which it loses the stated points, with its
    interval."""

    study = "budget"
    examples = (
        'noiserobust budget runs --vary "gaussian:{x}" --between 0 0.5 --within 2',
        "noiserobust budget runs --vary-time pcm --between 1min 1y --plot b.png",
    )
    rare: ClassVar[Groups] = {
        "search and interval": ("noise", "log", "points", "tolerance", "confidence"),
        **RARE,
    }

    vary: str | None = None
    """What has one free number: a noise, such as gaussian:{x}, converters, io:adc={x}, or either of some layers,
    'head.*: quantize:{x}'."""
    noise: str | None = None
    """The weights' noise while something else varies (default: none)."""
    vary_time: str | None = None
    """Noise whose time since programming is the free number, such as pcm."""
    between: tuple[str, str] | None = None
    """Range of the number, such as 0 0.5; of times such as 1min 1y."""
    within: float = 1.0
    """Points of mean accuracy that may be lost against clean."""
    log: bool | None = None
    """Search in the logarithm (default: for times, and for wide ranges of whole numbers)."""
    points: int = 5
    """Values on the first grid, which shows whether the loss is monotone."""
    tolerance: float = 0.02
    """How finely the answer is searched, as a fraction of it (of the range, on a logarithmic axis)."""
    confidence: float = 0.95
    """Confidence of the intervals."""

    def run(self) -> Iterator[Part]:
        vary = self.vary_time if self.vary is None else self.vary
        if vary is None or (self.vary is not None and self.vary_time is not None):
            raise UserError("expected either --vary with {x} in a noise, such as gaussian:{x}, or --vary-time with one")
        if self.between is None:
            raise UserError("expected --between LOW HIGH, the range to search, such as 0 0.5, or 1min 1y for times")
        if self.vary is not None and "{x}" not in self.vary:
            raise UserError(f"expected one free number {{x}} in a noise, such as gaussian:{{x}}, got '{self.vary}'")
        text = vary.replace("{x}", "1").rpartition(": ")[2]
        check({"io": "converters", "aihwkit": "backends"}.get(text.partition(":")[0], "noises"), text)
        from noiserobust.evaluation import Axis, budget

        axis = Axis(self.vary_time is not None, self.log, self.points, self.tolerance, self.confidence)
        result = budget(
            vary=vary, noise=self.noise, between=self.between, within=self.within, axis=axis, **self.options()
        )
        yield self.show(result, confidence=self.confidence)
