"""Plain, clipped, Gaussian RWP, PCM RWP and aihwkit's hardware-aware training on PCM chips, over time.

Ten PCM chips per network (scale of an output channel), each read 25 s, 1 h, 1 d, 30 d and 1 y after programming, with
no drift compensation, the global and the per-column one, and with batch norm recalibrated on 1,000 training images.
Three seeds on digits, two on CIFAR-10 (ResNet-18 of width 16, 8 epochs). The epoch of a run is chosen on held-out
training data under Gaussian noise of sigma 0.1, whatever the method.

    python experiments/devices.py digits            # trains and evaluates, about ten minutes on one core
    python experiments/devices.py FOLDER_OF_CIFAR_10 --images 500 --seeds 0 1 --recalibration 0

Everything is kept under --out: a stopped run goes on, a finished one only prints its tables again. Networks that
aihwkit trained are made by experiments/hwa_aihwkit.py and join with --others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

from noiserobust.data import load
from noiserobust.evaluation import Chips, Compute, evaluate, paired, summarize
from noiserobust.models import ModelSpec
from noiserobust.noise import Compensation
from noiserobust.report import robustness_table
from noiserobust.report.plots import time_figure
from noiserobust.report.style import save
from noiserobust.report.table import as_markdown
from noiserobust.storage.checkpoints import find_checkpoints
from noiserobust.storage.files import write_atomically
from noiserobust.storage.rows import write_rows
from noiserobust.training import Method, TrainSettings, fit

METHODS: dict[str, tuple[str, float | None]] = {
    "plain": ("plain", None),
    "plain, clipped": ("plain", 2.5),
    "RWP Gaussian 0.05": ("rwp:gaussian(0.05)", None),
    "RWP Gaussian 0.1": ("rwp:gaussian(0.1)", None),
    "RWP PCM at 1 d": ("rwp:pcm(t=1d)", None),
    "RWP compensated PCM at 1 d": ("rwp:pcm(t=1d)+compensate(global)", None),
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
    methods: tuple[str, ...] = tuple(METHODS)
    """What to train."""
    draws: int = 10
    """Chips per network."""
    images: int | None = None
    """Test images (a stratified sample; default: all)."""
    compensations: tuple[Compensation, ...] = ("none", "global", "column")
    """Drift compensations."""
    recalibration: int = 1000
    """Training images for batch norm (0: batch norm is left as it is)."""
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
        model = ModelSpec.parse("resnet18:width=16")
        return TrainSettings(**common, model=model, epochs=8, precision="bf16")  # type: ignore[arg-type]

    def run(self) -> None:
        splits = load(self.data)
        models = {
            name: [
                fit(self.settings(name, seed), self.out, splits=splits, progress=True).checkpoint for seed in self.seeds
            ]
            for name in self.methods
        }
        others = [(checkpoint.about["label"], checkpoint) for checkpoint in find_checkpoints(self.others)]
        groups: dict[str, list[object]] = {name: list(paths) for name, paths in models.items()}
        for label, checkpoint in others:
            groups.setdefault(label, []).append(checkpoint)
        precision = "fp32" if self.data == "digits" else "bf16"
        compute = Compute(precision=precision)  # type: ignore[arg-type]
        common = {"images": self.images, "compute": compute, "out": self.out / "rows.parquet", "progress": True}
        chips = [Chips(times=TIMES, compensation=self.compensations)]
        if self.recalibration:
            for kind in ("none", "global"):
                chips.append(Chips(times=TIMES, compensation=kind, recalibration=self.recalibration))
        rows = [evaluate(groups, splits, "pcm", self.draws, chips=one, **common).rows for one in chips]  # type: ignore[arg-type]
        clean = evaluate(groups, splits, "gaussian:0.0", 1, **common)  # type: ignore[arg-type]
        self.report(pd.concat([clean.rows, *rows], ignore_index=True))

    def report(self, rows: pd.DataFrame) -> None:
        """Tables, paired differences and the picture."""
        rows = rows.assign(model=rows["model"].map(lambda path: Path(path).parent.name))
        write_rows(rows, self.out / "published.parquet")
        summary = summarize(rows)
        noisy = rows[rows["noise"] == "pcm"]
        handlings = noisy.assign(method=_handled(noisy), compensation="none", recalibration=0)
        text = [
            robustness_table(summary, markdown=True),
            "Difference from plain on the same seeds and chips, points [95 %]:",
            _differences(noisy, _handled(noisy), "plain", "{method}; {group}"),
            "Gain of what is done to the chip over nothing, on the same chips, points [95 %]:",
            _differences(handlings, noisy["method"], "none", "{group}; {method}"),
        ]
        write_atomically(self.out / "tables.md", lambda file: file.write_text("\n\n".join(text) + "\n"))
        shown = summary[(summary["recalibration"] == 0) & (summary["noise"] == "pcm")]
        name = "digits" if self.data == "digits" else "CIFAR-10, ResNet-18 of width 16"
        save(time_figure(shown, f"PCM chips over time: {name}"), self.out / "time.png")
        print("\n\n".join(text))


def _handled(rows: pd.DataFrame) -> pd.Series:
    """What is done to the chip, in words."""
    norm = rows["recalibration"].map(lambda images: " + batch norm" if images else "")
    return (rows["compensation"] + norm).str.removeprefix("none + ")


def _differences(rows: pd.DataFrame, groups: pd.Series, baseline: str, label: str) -> str:
    """Markdown: within every group each method's difference from ``baseline``, by time."""
    table = [["method; done to the chip", *TIMES]]
    for group, part in rows.groupby(groups, sort=False):
        for method in part["method"].unique():
            if method != baseline:
                lines = paired(part, method, baseline).sort_values("t").itertuples()
                cells = [f"{line.mean:+.1f} [{line.low:+.1f}, {line.high:+.1f}]" for line in lines]
                table.append([label.format(method=method, group=group), *cells])
    return as_markdown(table)


if __name__ == "__main__":
    from start import start

    start(Study)
