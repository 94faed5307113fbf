"""``noiserobust program``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from noiserobust.cli.flags import Command, Groups
from noiserobust.cli.options import RARE
from noiserobust.cli.output import Part
from noiserobust.evaluation.settings import Where


@dataclass(frozen=True)
class Program(Command):
    """Write the target conductances of a network, per layer and crossbar, to program a chip with; or simulated chips.
    evaluate --noise chips:FOLDER takes what was measured."""

    examples = (
        "noiserobust program runs/plain --noise pcm:reference=tile --out chips",
        "noiserobust program runs/plain --chips 10 --times 25s 1d --out chips",
    )
    positional = ("checkpoint",)
    rare: ClassVar[Groups] = {
        "network and data": ("model", "data", "data_root"),
        "which weights are analog": RARE["which weights are analog"],
    }

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
    """Network of a checkpoint that does not name its own, such as resnet18:width=16, or one of your own:
    package.module:function(depth=3), or factory:package.module:function."""
    data: str | None = None
    """Data that tell a network's shape (default: what it was trained on)."""
    data_root: str | None = None
    """Where named data lie (default: data)."""
    where: Where = field(default_factory=Where)

    def run(self) -> Iterator[Part]:
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
        files = "files: " + ", ".join(map(str, result.files[:2])) + (" ..." if result.files[2:] else "")
        yield Part(str(result), [files], {"crossbars": result.crossbars, "files": result.files})
