"""``noiserobust sharpness``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from noiserobust.cli.inputs import NamedData
from noiserobust.evaluation import sharpness, summarize
from noiserobust.evaluation.measure_minima import USUAL, Part
from noiserobust.evaluation.settings import grouped
from noiserobust.minima import Measure
from noiserobust.report.measures import measure_table
from noiserobust.storage.files import write_atomically


@dataclass(frozen=True)
class Sharpness(NamedData):
    """Measure minima: sharpness, gradients, Hessian, weights; the table of their means, and one row per draw."""

    measures: tuple[Measure, ...] = tuple(map(Measure.parse, USUAL))
    """Measures, such as average_sharpness:gaussian(0.1),draws=10 ascent_sharpness:0.05,over=analog hessian_top:3
    hessian_trace (docs/measures.md lists them all)."""
    strengths: tuple[float, ...] = ()
    """Sweep: every measure that has a perturbation, at each of these strengths of it (for curves)."""
    part: Part = "test"
    """Images of the data: train or test."""
    seed: int = 0
    """Names draws and probes."""
    include: tuple[str, ...] = ()
    """Patterns of further parameters that are analog."""
    exclude: tuple[str, ...] = ()
    """Patterns of parameters that stay digital."""
    out: Path = Path("sharpness.parquet")
    """File for the rows; what it already holds is not computed again."""
    plot: Path | None = None
    """Picture of the measures against the swept strengths (PNG)."""
    table: Path | None = None
    """The table as Markdown."""

    def run(self) -> None:
        checkpoints = self.opened()
        splits = self.splits(checkpoints)
        result = sharpness(
            checkpoints,
            splits,
            self.measures,
            self.seed,
            part=self.part,
            strengths=self.strengths,
            out=self.out,
            progress=True,
            **grouped(self.options | {"include": self.include, "exclude": self.exclude}),
        )
        summary = summarize(result.rows)
        print(measure_table(summary) + "\n")
        if self.table is not None:
            text = measure_table(summary, markdown=True) + "\n"
            print(f"table: {write_atomically(self.table, lambda file: file.write_text(text))}")
        if self.plot is not None:
            from noiserobust.report.curves import measures_figure
            from noiserobust.report.plots import save

            print(f"picture: {save(measures_figure(summary), self.plot)}")
        print(f"rows: {self.out}")
