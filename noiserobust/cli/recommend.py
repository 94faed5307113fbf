"""``noiserobust recommend``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from noiserobust.cli.flags import Command, Groups
from noiserobust.cli.options import Workers, answer, progress_of_pieces
from noiserobust.cli.output import Part
from noiserobust.cli.sweep import varied
from noiserobust.cli.train import SETTINGS
from noiserobust.training.settings import TrainSettings


@dataclass(frozen=True)
class Recommend(Command):
    """Find the training rule that keeps a network most accurate under a noise: a small search over rules and strengths
    on held-out data, then the winner against plain training on copies and draws of their own."""

    examples = (
        "noiserobust recommend --noise gaussian:0.1 --budget 600",
        "noiserobust recommend --noise chips:wafer --initial runs/plain-seed0",
    )
    rare: ClassVar[Groups] = {
        "training": ("model", "epochs", "batch_size", "lr"),
        "workers": ("executor", "workers", "address", "cpus", "gpus", "retries"),
        **SETTINGS,
    }
    hidden = ("seed", "method", "weight_clip", "select_noise", "log", "log_on", "log_images")

    noise: str = "gaussian:0.05"
    """What the chip does to weights: a noise, or measured chips (chips:FOLDER, with --initial)."""
    budget: float | None = None
    """Passes over the training data for everything; plain training makes one an epoch (default: what --epochs need)."""
    vary: tuple[str, ...] = ()
    """Candidates, as a grid of settings: "method=plain|sam:0.2" "weight_clip=2|3" (default: plain, clipped, RWP, SAM,
    ASAM)."""
    copies: int = 3
    """Trained copies of the winner and of plain training, on which they are compared."""
    draws: int = 10
    """Noise draws per copy of that comparison."""
    computed_by: Workers = field(default_factory=Workers)
    out: Path = Path("recommend")
    """Folder for runs and rows; the same command goes on where it was."""
    plot: Path | None = None
    """File for a picture of the comparison (.png, .pdf, .svg)."""
    table: Path | None = None
    """File for the table (.md, .csv, .tex)."""
    settings: TrainSettings = field(default_factory=TrainSettings)

    def run(self) -> Iterator[Part]:
        from noiserobust.sweep import recommend

        vary, executor = dict(map(varied, self.vary)), self.computed_by.chosen()
        with progress_of_pieces(self.quiet) as tell:
            found = recommend(
                self.noise,
                self.settings,
                vary or None,
                budget=self.budget,
                copies=self.copies,
                draws=self.draws,
                out=self.out,
                executor=executor,
                on_piece=tell,
            )
        shown, rows = answer(found, self.table, self.plot), self.out / "rows.parquet"
        about = {"search": found.search, "difference": found.difference, "winner": found.winner.described()}
        about |= {"train_command": found.command}
        yield Part(shown.text, [*shown.notes, f"rows: {rows}"], {**shown.values, **about, "rows": rows})
