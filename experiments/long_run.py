"""What grows over many steps: memory, descriptors and temporary files of every rule and of evaluation.

A line per rule, for noise draws, and for evaluations into files of rows one after the other: slope per 1,000 steps and
its 95 % interval, by least squares over all but the first fifth of the steps.

    python experiments/long_run.py --steps 1000 --minutes 20 --out long_run.csv
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from noiserobust import Stream, evaluate, perturbed
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


def slopes(
    name: str, step: Callable[[int], object], steps: int | None, seconds: float = 0.0
) -> Iterator[dict[str, object]]:
    """Of so many steps, or of those that fit into so many seconds."""
    looks, began, number = [], time.monotonic(), 0
    while number < steps if steps else time.monotonic() < began + seconds:
        step(number)
        if number % max(1, steps // LOOKS if steps else 10) == 0:
            looks.append({"step": number} | seen())
        number += 1
    table = pd.DataFrame(looks).iloc[len(looks) // 5 :]
    for what in ("memory", "descriptors", "files"):
        fit = stats.linregress(table["step"], table[what])
        half = stats.t.ppf(0.975, len(table) - 2) * fit.stderr
        low, high = (1000 * (fit.slope + side * half) for side in (-1, 1))
        yield {"what": name, "of": what, "per_1000_steps": 1000 * fit.slope, "low": low, "high": high, "steps": number}


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


def evaluations() -> Callable[[int], object]:
    """Evaluations: five draws on 400 images into one of ten files, which is begun anew each time."""
    model = DigitsNet(width=2).build(1, 10).eval()
    data = Stream(0, "images").normal((400, 1, 8, 8)), torch.arange(400) % 10

    def step(number: int) -> None:
        out = Path(tempfile.gettempdir()) / f"{number % 10}.parquet"
        for old in (out, Path(f"{out}.ledger")):
            old.unlink(missing_ok=True)
        evaluate(model, data, "gaussian:0.1", range(5 * number, 5 * number + 5), out=out)

    return step


def main(steps: int = 1000, minutes: float = 20.0, out: Path = Path("long_run.csv")) -> None:
    """``steps`` of each rule, and ``minutes`` of evaluations."""
    torch.set_num_threads(1)
    tempfile.tempdir = tempfile.mkdtemp()  # nobody else's files are counted
    rules = {name: member.example for name, member in members("methods").items()}
    rows: list[dict[str, object]] = []
    for name, text in rules.items():
        rows += slopes(name, rule(text), steps)
    rows += slopes("draws", draws(), 10 * steps)
    rows += slopes("evaluations", evaluations(), None, 60 * minutes)
    table = pd.DataFrame(rows)
    table.to_csv(out, index=False, float_format="%.4g")
    print(table.assign(grows=np.where(table["low"] > 0, "grows", "")).to_string(index=False))


if __name__ == "__main__":
    from start import start

    start(main)
