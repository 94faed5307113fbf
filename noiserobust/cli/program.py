"""``noiserobust program``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from noiserobust.cli.flags import Command
from noiserobust.cli.options import say
from noiserobust.evaluation.settings import Where


@dataclass(frozen=True)
class Program(Command):
    """Write the target conductances of a network, per layer and crossbar, to program a chip with; or simulated chips.
    What was measured is evaluated by evaluate --noise chips:FOLDER."""

    examples = (
        "noiserobust program runs/plain --noise pcm:reference=tile --out chips",
        "noiserobust program runs/plain --chips 10 --times 25s 1d --out chips",
    )
    positional = ("checkpoint",)

    checkpoint: str = ""
    """A run's folder, or a file of weights (.safetensors, .pt, .pth)."""
    noise: str = "pcm"
    """Device profile: how weights become conductances, such as pcm:reference=tile,rows=256."""
    out: Path = Path("chips")
    """Folder for targets.safetensors, manifest.json and the chips."""
    chips: int = 0
    """Number of simulated chips to write beside the targets."""
    times: tuple[str, ...] = ()
    """Times since programming at which each chip is read, such as 25s 1d."""
    seed: int = 0
    """Seed of the simulated chips."""
    model: str | None = None
    """Network of a checkpoint that does not name its own, such as resnet18:width=16."""
    data: str | None = None
    """Data, by which a network's shape is checked (default: what it was trained on)."""
    data_root: str | None = None
    """Where named data lie (default: data)."""
    where: Where = field(default_factory=Where)

    def run(self) -> None:
        from noiserobust.data import load
        from noiserobust.errors import UserError
        from noiserobust.evaluation.programming import program

        if not self.checkpoint:
            raise UserError("expected a checkpoint, got none; name a run's folder")
        data = None if self.data is None else load(self.data, self.data_root or "data")
        result = program(
            self.checkpoint,
            self.noise,
            self.out,
            chips=self.chips,
            times=self.times,
            seed=self.seed,
            data=data,
            spec=self.model,
            where=self.where,
        )
        print(result)
        say("files: " + ", ".join(str(path) for path in result.files[:2]) + (" ..." if result.files[2:] else ""))
