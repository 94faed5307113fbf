"""What ``sensitivity``, ``keep-digital`` and ``budget`` share: the flags of ``evaluate`` under one condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from noiserobust.cli.evaluate import Evaluate
from noiserobust.data import Splits
from noiserobust.errors import UserError
from noiserobust.evaluation import Result
from noiserobust.evaluation.settings import grouped
from noiserobust.storage.files import write_atomically

HANDED = (
    *("include", "exclude", "model", "images", "out", "batch_size", "precision", "device", "fold", "compile"),
    *("reads", "recalibration", "backend"),
)
"""Flags that are handed on as they are."""
ONCE = ("compensation", "converters")
"""Those of which evaluate takes several, to compare them."""


@dataclass(frozen=True)
class Design(Evaluate):
    """Flags of evaluate, of which some may be given once only; draws are counted, so that differences are paired."""

    strengths: tyro.conf.Suppress[tuple[float, ...]] = ()
    precision_target: tyro.conf.Suppress[float | None] = None
    max_images: tyro.conf.Suppress[int] = 0
    noise_std_draws: tyro.conf.Suppress[int] = 0
    confidence: float = 0.95
    """Confidence of the intervals."""

    metrics: tyro.conf.Suppress[tuple[str, ...]] = ()

    def options(self, splits: Splits) -> dict[str, Any]:
        """What every function of design is told beside the models, the data and the noise."""
        handed = {name: getattr(self, name) for name in HANDED} | {"calibration": splits.train, "progress": True}
        handed |= {name: self.one(name, getattr(self, name)) or "none" for name in ONCE}
        return grouped(handed | {"times": (self.one("times", self.times),)})

    @staticmethod
    def one(name: str, values: Sequence[Any]) -> Any:
        """The only value of a flag that evaluate takes several of; None where there is none."""
        if len(values) > 1:
            raise UserError(f"expected one --{name}, got {len(values)}; call the command once for each")
        return values[0] if values else None

    def show(self, result: Result, **options: Any) -> None:
        """Print the table; write it and the picture where asked."""
        options |= {"confidence": self.confidence}
        print(result.table(**options) + "\n")
        if self.plot is not None:
            result.plot(self.plot, **options)
            print(f"picture: {self.plot}")
        if self.table is not None:
            text = result.table(markdown=True, **options) + "\n"
            print(f"table: {write_atomically(self.table, lambda file: file.write_text(text))}")
        print(f"rows: {self.out}")
