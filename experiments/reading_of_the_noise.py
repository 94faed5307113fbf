"""Which reading of N(0, max|w| sigma^2) did "Incorruptible Neural Networks" run? Three kinds of evidence, measured.

1. The fall of plainly trained networks under sigma .02, .03, .05, .07, as a share of clean accuracy, under the four
   readings {filter, layer} x {std = sigma max|w|, literal: std = sigma sqrt(max|w|)}, beside the published one; and the
   factor on sigma that would fit it best.
2. The length ||e|| of the noise at sigma .08, which the paper gives as 63, at initial and at trained weights.
3. What training under sigma .08 costs and gains in each reading (the paper: 2.3 points clean, 14.3 gained under .07).

    python experiments/reading_of_the_noise.py RUNS --data CIFAR --out reading.parquet

RUNS is a folder of finished runs (``reproduce --scale small`` writes such), CIFAR an image folder of CIFAR-10. About 10
minutes on two cores for three plain copies and their rivals. Results: docs/reading_of_the_noise.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from torch import nn

from noiserobust import evaluate
from noiserobust.analog.noisy import NoisyWeights
from noiserobust.data import load
from noiserobust.evaluation import Compute
from noiserobust.models import ModelSpec
from noiserobust.noise import Gaussian, NoiseModel
from noiserobust.rng import Stream, seeded
from noiserobust.storage.checkpoints import Checkpoint, find_checkpoints
from noiserobust.storage.rows import write_rows

SIGMAS = (0.02, 0.03, 0.05, 0.07)
PUBLISHED = dict(zip((0.0, *SIGMAS), (79.31, 77.24, 71.95, 56.21, 47.09), strict=True))
READINGS = {
    f"{reference}, {reading}": Gaussian(1.0, reference=reference, reading=reading)  # type: ignore[arg-type]
    for reference in ("filter", "layer")
    for reading in ("std", "literal")
}


@dataclass(frozen=True)
class Arguments:
    runs: tyro.conf.Positional[str]
    """Folder of finished runs."""
    data: str
    """Image folder of CIFAR-10."""
    images: int = 1000
    """Test images (stratified)."""
    draws: int = 10
    """Noise draws per network."""
    out: Path = Path("reading.parquet")
    """File for the rows."""


def radius(model: nn.Module, noise: Gaussian, draws: int = 3) -> float:
    """Mean over draws of the length of the noise on all analog weights."""
    weights = NoisyWeights(model)
    clean = {weight.name: weight.parameter.detach().clone() for weight in weights.weights}
    lengths = []
    for draw in range(draws):
        with weights.perturbed(noise, Stream(0, "radius", draw)), torch.no_grad():
            squares = [(weight.parameter - clean[weight.name]).square().sum() for weight in weights.weights]
        lengths.append(torch.stack(squares).sum().sqrt().item())
    return float(np.mean(lengths))


GRID = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28)
FACTORS = tuple(round(0.4 * 1.1**step, 3) for step in range(24))
"""Multiples of sigma that are tried, from 0.4 to 3.6."""


def accuracies(models: Any, noises: list[NoiseModel], arguments: Arguments) -> pd.DataFrame:
    """Rows of the accuracy of ``models`` under ``noises``."""
    compute, test = Compute(precision="bf16"), load(arguments.data).test
    rows = evaluate(models, test, noises, arguments.draws, images=arguments.images, compute=compute).rows
    return rows[rows["metric"] == "accuracy"]


def fall(checkpoints: list[Checkpoint], arguments: Arguments) -> pd.DataFrame:
    """Accuracy under every reading at a grid of sigmas: rows of evaluate, ``of`` naming the reading."""
    tables = []
    for name, unit in READINGS.items():
        noises = [unit.scaled(sigma) for sigma in GRID]
        tables.append(accuracies(checkpoints, noises, arguments).assign(of=name))
    rows = pd.concat(tables, ignore_index=True)
    # A path is a matter of the machine; the run's own name is not.
    return rows.assign(model=[Path(path).parent.name for path in rows["model"]])


def kept(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Share of clean accuracy kept: a line per network, a column per sigma."""
    means = rows[rows["of"] == name].groupby(["replicate", "strength"])["value"].mean().unstack()
    return means.div(means[0.0], axis=0)


def misfit(shares: pd.DataFrame, factor: float) -> pd.Series:
    """Per network: root mean square over the four sigmas of (share kept at factor * sigma) - (share published)."""
    asked = [sigma * factor for sigma in SIGMAS]
    published = np.array([PUBLISHED[sigma] / PUBLISHED[0.0] for sigma in SIGMAS])
    gaps = {copy: np.interp(asked, shares.columns, line) - published for copy, line in shares.iterrows()}
    return pd.Series({copy: float(np.sqrt((gap**2).mean())) for copy, gap in gaps.items()})


def main(arguments: Arguments) -> None:
    torch.set_grad_enabled(False)
    checkpoints = find_checkpoints([arguments.runs])
    plain = [one for one in checkpoints if one.about["label"] == "plain"]
    rows = fall(plain, arguments)
    write_rows(rows, arguments.out)
    print(
        f"{len(plain)} plain copies, {arguments.images} images, {arguments.draws} draws; share of clean accuracy kept"
    )
    for name in READINGS:
        shares = kept(rows, name)
        shown = "  ".join(f"{shares[s].mean():.3f}±{shares[s].std():.3f}" for s in SIGMAS)
        misses = {factor: misfit(shares, factor) for factor in (1.0, *FACTORS)}
        best = min(misses, key=lambda factor: misses[factor].mean())
        print(
            f"{name:16} {shown}  rms gap {misses[1.0].mean():.3f}±{misses[1.0].std():.3f}; "
            f"best with sigma times {best:g}: {misses[best].mean():.3f}"
        )
    print("published        " + "  ".join(f"{PUBLISHED[s] / PUBLISHED[0.0]:.3f}      " for s in SIGMAS))
    print("\n||e|| at sigma 0.08 (published: 63, on ResNet-18 in training by RWP)")
    with seeded(Stream(0, "init")):
        full = ModelSpec.parse("resnet18").build(3, 100)
    lines = [("ResNet-18, initial weights", [full])]
    groups: dict[tuple[str, str], list[nn.Module]] = {}
    for one in checkpoints:
        groups.setdefault((one.about["model"], one.about["label"]), []).append(one.build())
    lines += [(f"{model}, {label}", models) for (model, label), models in groups.items()]
    for title, models in lines:
        lengths = {name: [radius(model, unit.scaled(0.08)) for model in models] for name, unit in READINGS.items()}
        print(f"{title:64} " + "  ".join(f"{name} {np.mean(radii):.1f}" for name, radii in lengths.items()))
    rivals = [one for one in checkpoints if "(0.08" in one.about["label"]]
    if rivals:
        print(
            "\ntraining under sigma 0.08: points against plain training, clean and under sigma 0.07 of the same reading"
        )
        for label in dict.fromkeys(one.about["label"] for one in rivals):
            copies = [one for one in rivals if one.about["label"] == label]
            name = f"{'layer' if 'layer' in label else 'filter'}, {'literal' if 'literal' in label else 'std'}"
            noises = [Gaussian(0.0), READINGS[name].scaled(0.07)]
            compared = accuracies({"plain": plain, "rwp": copies}, noises, arguments)
            mean = compared.groupby(["method", "strength", "replicate"])["value"].mean()
            gain = (mean["rwp"] - mean["plain"]).dropna().groupby("strength")
            words = ", ".join(f"{s:g}: {g.mean():+.1f} (n = {len(g)})" for s, g in gain)
            print(f"{label:50} {words}")


if __name__ == "__main__":
    from start import start

    start(main)
