"""``noiserobust curves``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noiserobust.cli.flags import Command
from noiserobust.cli.options import answer
from noiserobust.cli.output import Part


@dataclass(frozen=True)
class Curves(Command):
    """Draw what runs logged: against epochs, or one column against another (train --log measures further ones)."""

    examples = (
        "noiserobust curves runs --y loss perturbed_accuracy",
        "noiserobust curves runs --x train/loss --y train/ascent_sharpness:0.05",
    )
    positional = ("runs",)

    runs: tuple[str, ...] = ()
    """Runs' folders, or folders of runs; LABEL=PATH gives the method another name."""
    x: str = "epoch"
    """epoch, or a column of the logs such as train/loss: the curve is then a trajectory."""
    y: tuple[str, ...] = ()
    """Columns of the logs, a panel each, such as train/ascent_sharpness:0.05 (default: loss, and the perturbed accuracy
    or other metric of the task)."""
    plot: Path = Path("curves.png")
    """File for the picture (.png, .pdf, .svg)."""
    out: Path | None = None
    """File for the logs as tidy rows (.parquet, .csv, .jsonl): model, method, replicate, epoch, metric, value."""

    def run(self) -> Iterator[Part]:
        from noiserobust.evaluation import trajectories

        result = trajectories(self.runs, out=self.out)
        shown = answer(result, None, self.plot, plot={"x": self.x, "y": self.y})
        notes = [] if self.out is None else [f"rows: {self.out}"]
        yield Part(shown.text, [*shown.notes, *notes], {**shown.values, "rows": self.out})
