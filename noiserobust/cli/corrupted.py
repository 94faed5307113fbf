"""``noiserobust corrupted``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noiserobust.cli.options import Networks
from noiserobust.cli.output import Part
from noiserobust.errors import UserError


@dataclass(frozen=True)
class Corrupted(Networks):
    """Accuracy on CIFAR-10-C or CIFAR-100-C: rows per corruption and severity, and their means."""

    study = "corrupted"
    examples = (
        "noiserobust corrupted runs --folder CIFAR-10-C --plot corrupted.png",
        "noiserobust corrupted runs --folder CIFAR-10-C --noise gaussian:0.1 --draws 5",
    )

    folder: Path | None = None
    """Folder with <corruption>.npy (five severities one after the other) and labels.npy."""
    corruptions: tuple[str, ...] = ()
    """Corruptions, such as fog motion_blur (default: the usual fifteen)."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Severities, 1 to 5."""
    noise: tuple[str, ...] = ("gaussian:0.0",)
    """Weight noise on top, such as gaussian:0.05."""
    draws: int = 1
    """Noise draws per network."""

    def run(self) -> Iterator[Part]:
        if self.folder is None:
            raise UserError("expected --folder with CIFAR-10-C's or CIFAR-100-C's .npy files, got none")
        from noiserobust.evaluation import corrupted

        result = corrupted(
            data=self.folder,
            noises=self.noise,
            draws=self.draws,
            corruptions=self.corruptions,
            severities=self.severities,
            **self.options(),
        )
        yield self.show(result)
