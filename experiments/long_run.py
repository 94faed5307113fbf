"""What grows over many steps: memory, descriptors and temporary files of every rule and of evaluation.

A line per rule, and for noise draws of evaluation: slope per 1,000 steps and its 95 % interval, by least squares over
all but the first fifth of the steps. python experiments/long_run.py --steps 1000 --out long_run.csv
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from noiserobust import Stream, perturbed
from noiserobust.data import Batch
from noiserobust.models import DigitsNet
from noiserobust.spec.listing import members
from noiserobust.training import Engine, Method, Progress

LOOKS = 100
"""How often one looks."""


def seen() -> dict[str, float]:
    """Resident memory in MB, open descriptors, and temporary files."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    files = len(os.listdir(tempfile.gettempdir()))
    return {"memory": resident, "descriptors": len(os.listdir("/proc/self/fd")), "files": files}


def slopes(name: str, step: Callable[[int], object], steps: int) -> Iterator[dict[str, object]]:
    looks = []
    for number in range(steps):
        step(number)
        if number % max(1, steps // LOOKS) == 0:
            looks.append({"step": number} | seen())
    table = pd.DataFrame(looks).iloc[len(looks) // 5 :]
    for what in ("memory", "descriptors", "files"):
        fit = stats.linregress(table["step"], table[what])
        half = stats.t.ppf(0.975, len(table) - 2) * fit.stderr
        low, high = (1000 * (fit.slope + side * half) for side in (-1, 1))
        yield {"what": name, "of": what, "per_1000_steps": 1000 * fit.slope, "low": low, "high": high, "steps": steps}


def rule(text: str) -> Callable[[int], object]:
    """Steps of a rule on a small network and 128 random images."""
    model = DigitsNet(width=2).build(1, 10)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    engine = Engine(model, optimizer, samples=128, classes=10)
    method = Method.parse(text)
    images, labels = Stream(0, "images").normal((128, 1, 8, 8)), torch.arange(128) % 10
    method.prepare(engine)

    def step(number: int) -> None:
        rows = torch.arange(32) + 32 * (number % 4)
        method.step(engine, Batch(images[rows], labels[rows], rows), Progress(number, 10_000, number // 4, 2500))

    return step


def draws() -> Callable[[int], object]:
    """Noise draws of an evaluation."""
    model = DigitsNet(width=2).build(1, 10).eval()
    images = Stream(0, "images").normal((32, 1, 8, 8))

    def step(number: int) -> None:
        with torch.no_grad(), perturbed(model, "gaussian:0.1", draw=number):
            model(images)

    return step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("long_run.csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rules = {name: member.example for name, member in members("methods").items()}
    rows: list[dict[str, object]] = []
    for name, text in rules.items():
        rows += slopes(name, rule(text), given.steps)
    rows += slopes("evaluation", draws(), 10 * given.steps)
    table = pd.DataFrame(rows)
    table.to_csv(given.out, index=False, float_format="%.4g")
    print(table.assign(grows=np.where(table["low"] > 0, "grows", "")).to_string(index=False))


if __name__ == "__main__":
    main()
