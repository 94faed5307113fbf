"""``noiserobust sharpness``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from noiserobust.cli.options import OnData
from noiserobust.cli.output import Part
from noiserobust.errors import UserError


@dataclass(frozen=True)
class Sharpness(OnData):
    """Measure minima: sharpness, gradients, Hessian, weights; the table of their means, and one row per draw."""

    hidden = ("fold", "compile", "reuse")  # of no use here: gradients and losses are taken of the network itself
    study = "sharpness"
    examples = (
        "noiserobust sharpness runs --measures ascent_sharpness:0.05 hessian_top:3",
        'noiserobust sharpness runs --measures "average_sharpness:gaussian(0.1)" loss',
    )

    measures: tuple[str, ...] = ()
    """Measures, such as ascent_sharpness:0.05,over=analog (default: the usual ones; docs/measures.md)."""
    strengths: tuple[float, ...] = ()
    """Every measure that has a perturbation, at each of these strengths of it (for curves)."""
    part: Literal["train", "test"] = "test"
    """Part of the data that is measured on."""

    def run(self) -> Iterator[Part]:
        from noiserobust.evaluation import sharpness

        names = [re.split("[:(]", measure)[0] for measure in self.measures]
        if self.plot and len(self.strengths) < 2 and len(set(names)) == len(names):
            raise UserError("expected measures at two or more strengths to draw, got none; sweep with --strengths")
        given: dict[str, Any] = {"measures": self.measures} if self.measures else {}
        yield self.show(sharpness(part=self.part, strengths=self.strengths, **given, **self.options()))
