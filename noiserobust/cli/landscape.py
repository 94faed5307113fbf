"""``noiserobust landscape``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from noiserobust.cli.options import OnData
from noiserobust.cli.output import Part


@dataclass(frozen=True)
class Landscape(OnData):
    """The loss around trained networks along filter-normalised random directions: rows, and a picture."""

    hidden = ("fold", "compile", "reuse")  # of no use here: gradients and losses are taken of the network itself
    study = "landscape"
    examples = (
        "noiserobust landscape runs --dimensions 1 --plot landscape.png",
        "noiserobust landscape runs --points 41 --pairs 3 --images 1000 --plot l.png",
    )

    dimensions: Literal[1, 2] = 2
    """1: the loss along lines; 2: its contours over planes."""
    half_width: float = 1.0
    """Largest distance to each side; 1 moves every filter by its own length."""
    points: int = 21
    """Points along each direction (odd)."""
    pairs: int = 1
    """Pairs of directions to average over."""
    over: Literal["all", "analog"] = "all"
    """Filters that move: all, or only those of analog weights."""
    part: Literal["train", "test"] = "test"
    """Part of the data that the loss is taken on."""

    def run(self) -> Iterator[Part]:
        from noiserobust.evaluation import landscape

        names = ("dimensions", "half_width", "points", "pairs", "over", "part")
        yield self.show(landscape(**{name: getattr(self, name) for name in names}, **self.options()))
