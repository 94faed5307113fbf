"""Plain, clipped, Gaussian RWP, PCM RWP and aihwkit's hardware-aware training on PCM chips, over time.

Ten PCM chips per network (scale of an output channel), each read 25 s, 1 h, 1 d, 30 d and 1 y after programming, with
no drift compensation, the global and the per-column one, and with batch norm recalibrated on 1,000 training images.
Three seeds on digits, two on CIFAR-10 (ResNet-18 of width 16, 8 epochs). The epoch of a run is chosen on held-out
training data under Gaussian noise of sigma 0.1, whatever the method.

    python experiments/devices.py digits            # trains and evaluates, about ten minutes on one core
    python experiments/devices.py FOLDER_OF_CIFAR_10 --images 2000 --seeds 0 1

Everything is kept under --out: a stopped run goes on, a finished one only prints its tables again. Networks that
aihwkit trained are made by experiments/hwa_aihwkit.py and join with --others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

from noiserobust.checkpoint import find_checkpoints
from noiserobust.data import load
from noiserobust.evaluation import evaluate, paired, summarize
from noiserobust.report import paired_table, robustness_table
from noiserobust.report.plots import accuracy_against_time
from noiserobust.results import VARIANT, write_atomically, write_rows
from noiserobust.training import Method, TrainSettings, fit

METHODS: dict[str, tuple[str, float | None]] = {
    "plain": ("plain", None),
    "plain, clipped": ("plain", 2.5),
    "RWP Gaussian 0.05": ("rwp:gaussian(0.05)", None),
    "RWP Gaussian 0.1": ("rwp:gaussian(0.1)", None),
    "RWP PCM at 1 d": ("rwp:pcm(t=1d)", None),
}
"""Name -> method and weight clipping."""

TIMES = ["25s", "1h", "1d", "30d", "1y"]


@dataclass
class Study:
    """Flags of the program."""

    data: tyro.conf.Positional[str] = "digits"
    """digits, or an image folder of CIFAR-10."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    draws: int = 10
    """Chips per network."""
    images: int | None = None
    """Test images (a stratified sample; default: all)."""
    recalibration: int = 1000
    """Training images for batch norm."""
    others: tuple[str, ...] = ()
    """Further checkpoints, as LABEL=PATH."""
    out: Path = Path("runs/devices")
    """Folder of the trained networks, rows, tables and the picture."""

    def settings(self, name: str, seed: int) -> TrainSettings:
        """How one network is trained."""
        method, clip = METHODS[name]
        common = {"data": self.data, "method": Method.parse(method), "weight_clip": clip, "seed": seed}
        if self.data == "digits":
            return TrainSettings(**common, batch_size=64)  # type: ignore[arg-type]
        from noiserobust.models import ModelSpec

        model = ModelSpec.parse("resnet18:width=16")
        return TrainSettings(**common, model=model, epochs=8, precision="bf16")  # type: ignore[arg-type]

    def run(self) -> None:
        splits = load(self.data)
        models = {
            name: [
                fit(self.settings(name, seed), self.out, splits=splits, progress=True).checkpoint for seed in self.seeds
            ]
            for name in METHODS
        }
        others = [(checkpoint.about["label"], checkpoint) for checkpoint in find_checkpoints(self.others)]
        groups: dict[str, list[object]] = {name: list(paths) for name, paths in models.items()}
        for label, checkpoint in others:
            groups.setdefault(label, []).append(checkpoint)
        precision = "fp32" if self.data == "digits" else "bf16"
        common = {"draws": self.draws, "images": self.images, "precision": precision, "progress": True}
        rows = [
            evaluate(groups, splits.test, "pcm", times=TIMES, **looks, **common, out=self.out / "rows.parquet").rows  # type: ignore[arg-type]
            for looks in (
                {"compensation": ["none", "global", "column"]},
                {"compensation": "none", "recalibration": self.recalibration, "calibration": splits.train},
                {"compensation": "global", "recalibration": self.recalibration, "calibration": splits.train},
            )
        ]
        clean = evaluate(groups, splits.test, "gaussian:0.0", **(common | {"draws": 1}), out=self.out / "rows.parquet")  # type: ignore[arg-type]
        self.report(pd.concat([clean.rows, *rows], ignore_index=True))

    def report(self, rows: pd.DataFrame) -> None:
        """Tables, paired differences and the picture."""
        rows = rows.assign(model=rows["model"].map(lambda path: Path(path).parent.name))
        write_rows(rows, self.out / "published.parquet")
        summary = summarize(rows)
        text = [robustness_table(summary, markdown=True)]
        for method in rows["method"].unique():
            if method != "plain":
                text.append(paired_table(paired(rows, method, "plain")))
        text.append(paired_table(_of_handling(rows)))
        write_atomically(self.out / "tables.md", lambda file: file.write_text("\n\n".join(text) + "\n"))
        shown = summary[(summary["recalibration"] == 0) & (summary["noise"] == "pcm")]
        name = "digits" if self.data == "digits" else "CIFAR-10, ResNet-18 of width 16"
        accuracy_against_time(shown, self.out / "time.png", f"PCM chips over time: {name}")
        print(robustness_table(summary))


def _of_handling(rows: pd.DataFrame) -> pd.DataFrame:
    """What compensation and recalibration gain on the same chips: each against nothing, per method."""
    noisy = rows[rows["noise"] == "pcm"]
    handled = noisy["compensation"] + noisy["recalibration"].map(lambda n: f", batch norm from {n}" if n else "")
    plain = {name: value for name, value in VARIANT.items() if name != "metric"}
    differences = []
    for method in noisy["method"].unique():
        own = noisy.assign(**plain, method=method + " | " + handled, kind=method)
        own = own[own["kind"] == method][noisy["method"] == method]
        for other in own["method"].unique():
            if not other.endswith("| none"):
                differences.append(paired(own, other, f"{method} | none"))
    return pd.concat(differences, ignore_index=True)


if __name__ == "__main__":
    tyro.cli(Study).run()
