"""Claim: an evaluation's cost is linear in draws and noise levels, one bare pass each, and processes share it evenly.

Each case is timed three times, in a process of its own that keeps its memory, and the least counts. Rows go to
docs/results/speed_evaluation_scaling.csv, the picture to figures/evaluation_scaling.png.

    python experiments/benchmarks/evaluation_scaling.py draws width levels threads ranks
    python experiments/benchmarks/evaluation_scaling.py --plot
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from common import FIGURES, RESULTS, add_rows, machine

from noiserobust.report.style import FIRST, QUIET, SECOND, dress, panels, save

OUT = RESULTS / "speed_evaluation_scaling.csv"
STANDARD: dict[str, Any] = {"width": 16, "draws": 8, "levels": 1, "threads": 1, "images": 500, "ranks": 1}
KEEP = {"MALLOC_TRIM_THRESHOLD_": str(1 << 32), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}
"""glibc keeps freed memory: else it may give a pass's activations back to the system and fault them in again in the
next, or not, as it happens: at width 16 a third of the time."""
AXES: dict[str, dict[str, list[Any]]] = {
    "draws": {"draws": [1, 2, 4, 8, 16]},
    "width": {"width": [4, 8, 16, 32, 64], "draws": [2]},
    "levels": {"levels": [1, 2, 4, 8], "draws": [2]},
    "threads": {"threads": [1, 2]},
    "ranks": {"ranks": [1, 2], "threads": [1]},
}
ONE = """
import json, sys, time
import torch
from noiserobust import evaluate
from noiserobust.evaluation import Compute
from noiserobust.models import ModelSpec

case = json.loads(sys.argv[1])
torch.set_num_threads(case["threads"])
device, network = case["device"], ModelSpec.parse(f"resnet18:width={case['width']}").build(3, 10)
network = network.eval().to(device, memory_format=torch.channels_last)
x = torch.randn(case["images"], 3, 32, 32, device=device).to(memory_format=torch.channels_last)
y = (torch.arange(len(x)) % 10).to(device)
noises = [f"gaussian:{0.01 * (1 + level)}" for level in range(case["levels"])]

def run(draws):
    numbers = range(case["first"], case["first"] + draws)
    evaluate(network, (x, y), noises, numbers, compute=Compute(channels_last=True))
    if device != "cpu":
        torch.cuda.synchronize()

@torch.no_grad()
def floor():
    for batch in x.split(50 if device == "cpu" else 500):
        network(batch)

run(1)
print("ready", flush=True)
sys.stdin.readline()  # ranks start together

def timed(action, *arguments):
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start

rounds = [(timed(run, case["draws"]), timed(floor), timed(floor)) for _ in range(3)]
print(json.dumps([min(one[0] for one in rounds), min(min(one[1:]) for one in rounds)]))
"""


def measured(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the slowest rank, and of a bare pass, the least of three; ranks take equal parts of the draws."""
    share = case["draws"] // case["ranks"]
    commands = [{**case, "draws": share, "first": rank * share} for rank in range(case["ranks"])]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    pipes["env"] = os.environ | KEEP
    started = [subprocess.Popen([sys.executable, "-c", ONE, json.dumps(one)], **pipes) for one in commands]
    for process in started:
        if process.stdout is None or process.stdin is None or process.stdout.readline() != "ready\n":
            raise RuntimeError(f"expected a rank that starts, got none for {case}")
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    seconds, floors = zip(*(json.loads(process.communicate()[0].splitlines()[-1]) for process in started), strict=True)
    return {**case, "seconds": round(max(seconds), 4), "pass": round(max(floors), 4)}


def plot(table: pd.DataFrame) -> None:
    """Cost of a draw and level, in bare passes, along every axis."""
    names = {"draws": "draws", "levels": "noise levels", "width": "width of the ResNet-18"}
    figure, axes = panels(4, "What an evaluation costs", size=(3.2, 2.6), columns=4)
    for (axis, name), place in zip(names.items(), axes, strict=False):
        part = table[table["axis"] == axis]
        cost = part["seconds"] / part["pass"] / part["draws"] / part["levels"]
        cost = cost.groupby(part[axis]).median()
        place.plot(cost.index, cost, color=FIRST, marker="o", markersize=5)
        place.axhline(1, color=QUIET, linewidth=0.8)
        place.axhline(1.05, color=QUIET, linewidth=0.8, linestyle=":")
        place.set_xscale("log", base=2)
        place.set_xticks(list(cost.index), [str(value) for value in cost.index])
        dress(place, "", name, "time of a draw and level / bare pass" if axis == "draws" else "")
    shared = table[table["axis"].isin(["threads", "ranks"])]
    cost = shared["seconds"].groupby([shared["axis"], shared["threads"] * shared["ranks"]]).median().unstack()
    cost.T.plot.bar(ax=axes[3], rot=0, color=[FIRST, SECOND][: len(cost)])
    axes[3].legend(frameon=False)
    dress(axes[3], "", "cores", "seconds for 8 draws")
    save(figure, FIGURES / "evaluation_scaling.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="*", choices=[*AXES, []])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--plot", action="store_true")
    args = parser.parse_args()
    for axis in args.axes:
        values = AXES[axis]
        fixed = STANDARD | {name: held[0] for name, held in values.items()} | {"device": args.device}
        for value in values[axis]:
            row = measured({**fixed, axis: value})
            print(row, flush=True)
            add_rows(
                args.out, [{**machine(args.device), "axis": axis, **{k: v for k, v in row.items() if k != "device"}}]
            )
    if args.plot:
        plot(pd.read_csv(args.out))


if __name__ == "__main__":
    main()
