"""Clipping per layer or per column, and one or several draws a step, on digits.

Data: scikit-learn's digits (8 x 8 pixels; 1,297 to train on, of which a tenth is held out to choose on; 500 to test
on), the small convolutional net, 30 epochs, batch 128, SGD momentum 0.9, lr 0.05 cosine, ten trained copies (five for
the draws). The epoch of a run, and the limit of a kind of clipping, are those with the best accuracy on the held-out
data under Gaussian noise of sigma 0.15 (mean over copies). The rest is evaluated on the test data, five draws per copy,
under noise whose scale is the largest weight of a column, as it is here unless said otherwise, and of a layer.

    python experiments/clipping_and_draws.py [--out FOLDER] [--table docs/clipping_and_draws.md]

70 runs of one or two seconds each on one core; stopped at any moment it goes on from there.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from noiserobust.data import Splits, load
from noiserobust.evaluation import evaluate
from noiserobust.noise import Gaussian
from noiserobust.report.table import as_markdown
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.storage.files import write_atomically
from noiserobust.training import Run, TrainSettings, fit

SIGMAS = (0.0, 0.1, 0.2, 0.3)
CLIPPED: dict[str, tuple[str, ...]] = {
    "plain": ("none",),
    "clipped per layer": ("1.5", "2.0"),
    "clipped per column": ("rms(1.5,per=column)", "rms(2.0,per=column)"),
}
"""Kind of clipping -> limits to choose from, with plain training."""
DRAWS = {
    "one draw": ("rwp:gaussian(0.2)", 1.0),
    "two draws": ("rwp:gaussian(0.2),draws=2", 1.0),
    "two antithetic draws": ("rwp:gaussian(0.2),draws=2,antithetic=true", 1.0),
    "one draw, twice the epochs": ("rwp:gaussian(0.2)", 2.0),
}
"""Rule and length of training; the last three cost the same."""


@dataclass
class Settings:
    """Train the copies, choose limits on validation, tabulate."""

    out: Path = Path("runs/clipping_and_draws")
    """Folder for runs."""
    rows: Path = Path("docs/results/clipping_and_draws.parquet")
    """Rows of the evaluation; what is there is not computed again."""
    table: Path = Path("docs/clipping_and_draws.md")
    """The page."""
    copies: int = 10
    """Trained copies of each kind of clipping."""
    copies_of_draws: int = 5
    """Trained copies of each number of draws."""
    epochs: int = 30
    """Passes over the training data."""
    draws: int = 5
    """Noise draws per copy and sigma."""


def main(settings: Settings) -> None:
    torch.set_num_threads(1)  # a step is too small to share out
    splits = load("digits")
    chosen: dict[str, list[Run]] = {}
    tried: dict[str, dict[str, float]] = {}
    for kind, limits in CLIPPED.items():
        runs = {limit: _runs(settings, splits, "plain", limit, settings.copies) for limit in limits}
        tried[kind] = {limit: statistics.mean(map(_validation, copies)) for limit, copies in runs.items()}
        chosen[kind] = runs[max(limits, key=lambda limit: tried[kind][limit])]
        print(f"{kind}: {tried[kind]}", flush=True)
    for name, (method, length) in DRAWS.items():
        chosen[name] = _runs(settings, splits, method, "none", settings.copies_of_draws, length)
        print(name, flush=True)
    result = evaluate(
        {name: [read_checkpoint(run.checkpoint) for run in runs] for name, runs in chosen.items()},
        splits.test,
        [Gaussian(sigma, reference) for reference in ("filter", "layer") for sigma in SIGMAS],
        settings.draws,
        out=settings.rows,
    )
    print(f"table: {write_atomically(settings.table, lambda file: file.write_text(_page(settings, tried, result)))}")


def _runs(settings: Settings, splits: Splits, method: str, limit: str, copies: int, length: float = 1.0) -> list[Run]:
    epochs = round(length * settings.epochs)
    clip = None if limit == "none" else limit
    common = {"method": method, "weight_clip": clip, "epochs": epochs}
    common |= {"select_noise": "gaussian:0.15", "select_draws": 3}
    return [
        fit(TrainSettings(**common, seed=seed), settings.out, splits=splits)  # type: ignore[arg-type]
        for seed in range(copies)
    ]


def _validation(run: Run) -> float:
    """Perturbed accuracy on the held-out data of the epoch kept."""
    return float(read_checkpoint(run.checkpoint).about["log"]["perturbed_accuracy"])


def _page(settings: Settings, tried: dict[str, dict[str, float]], result: object) -> str:
    summary = result.summary()  # type: ignore[attr-defined]
    print(summary.to_string())
    pairs = [(name, "plain") for name in CLIPPED if name != "plain"]
    pairs += [("clipped per column", "clipped per layer")]
    pairs += [(name, "one draw") for name in DRAWS if name != "one draw"]
    pairs += [("two antithetic draws", "two draws"), ("two draws", "one draw, twice the epochs")]
    lines = []
    for left, right in pairs:
        print(left, right)
        print(result.paired(left, right).to_string())  # type: ignore[attr-defined]
        lines.append([left, right])
    return as_markdown([["", "against"], *lines])


if __name__ == "__main__":
    main(tyro.cli(Settings))
