"""What work that is not done saves: two ways to the same result in turn, one thread's own time, a row a pair.

    python experiments/benchmarks/pairs.py sensitivity keep-digital times bf16 memory memory-training --pairs 3
    python experiments/benchmarks/pairs.py batch batch-bf16 --images 1000 --pairs 3

``a`` is the plain way, ``b`` the other one: outputs given again, all times and compensations in one call for each in
its own, bf16 for fp32, freed memory kept (a process each, timed inside), 500 images a pass for 50 with memory kept.
The network is ResNet-18 of width 16 with random weights, on random images of 32 x 32, where rounding and accuracies
mean nothing and times all.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from common import RESULTS, add_rows, machine, markdown, timed
from loops import Setup
from rules import of_rule

from noiserobust import evaluate
from noiserobust.evaluation import Chips, Compute, Stop, keep_digital, sensitivity
from noiserobust.memory import SWITCH, keep_memory

OUT = RESULTS / "speed_pairs.csv"
SETUP = Setup(width=16, batch=128, threads=1)
NOISE = "gaussian:0.1"
TIMES, KINDS = ("25s", "1h", "1d", "1y"), ("none", "global", "column")
OF_PROCESSES = {"memory": "evaluation", "memory-training": "training"}


@dataclass
class Pairs:
    """Flags of the program."""

    cases: tyro.conf.Positional[tuple[str, ...]]
    pairs: int = 3
    images: int = 200

    def run(self) -> None:
        torch.set_num_threads(1)
        if self.cases[0] == "inside":
            print(*_inside(self.cases[1], self.images))
            return
        about = {"images": self.images, "width": SETUP.width, **machine()}
        for case in self.cases:
            for pair in range(self.pairs):
                a, b = self.pair(case)
                row = {"case": case, "pair": pair, "a_seconds": a, "b_seconds": b, "ratio": b / a}
                table = add_rows(OUT, [row | about])
                print(f"{case}: {a:.2f} s, {b:.2f} s, {b / a:.3f}", flush=True)
        found = table.groupby("case")["ratio"].describe()[["50%", "min", "max", "count"]]
        print(markdown(found.round(3).reset_index()))

    def pair(self, case: str) -> tuple[float, float]:
        """Seconds of both ways."""
        if case in OF_PROCESSES:
            return self._process(OF_PROCESSES[case], "0"), self._process(OF_PROCESSES[case], "1")
        model, data = SETUP.model().eval(), SETUP.data(self.images)
        tensors = data.inputs, data.labels
        calls: dict[str, Callable[[Compute], object]] = {
            "sensitivity": lambda compute: sensitivity(model, tensors, NOISE, draws=1, compute=compute),
            "keep-digital": lambda compute: keep_digital(
                model, tensors, NOISE, draws=1, stop=Stop(max_layers=2), compute=compute
            ),
            "bf16": lambda compute: evaluate(model, tensors, NOISE, draws=5, compute=compute),
        }
        if case == "times":
            readings = [(t, kind) for t in TIMES for kind in KINDS]
            alone = [Chips(t, compensation=kind) for t, kind in readings]
            each, together = (
                timed(
                    lambda sets=sets: [evaluate(model, tensors, "pcm", draws=2, chips=chips) for chips in sets],
                    clock=time.process_time,
                )
                for sets in (alone, [Chips(TIMES, compensation=KINDS)])
            )
            return each, together
        ways = (Compute(), Compute(precision="bf16")) if case == "bf16" else (Compute(reuse=0), Compute())
        if case.startswith("batch"):
            keep_memory()
            precision = "bf16" if case == "batch-bf16" else "fp32"
            ways = tuple(Compute(precision=precision, channels_last=True, batch_size=size) for size in (50, 500))
            calls[case] = lambda compute: evaluate(model, tensors, NOISE, draws=3, compute=compute)
        a, b = (timed(lambda way=way: calls[case](way), clock=time.process_time) for way in ways)
        return a, b

    def _process(self, what: str, keeps: str) -> float:
        words = [sys.executable, __file__, "inside", what, "--images", str(self.images)]
        done = subprocess.run(words, env=os.environ | {SWITCH: keeps}, stdout=subprocess.PIPE, text=True, check=True)
        seconds, faults, size = done.stdout.splitlines()[-1].split()
        print(f"  kept: {keeps}, {faults} page faults, {size} MiB at the end")
        return float(seconds)


def _inside(what: str, images: int) -> tuple[float, int, int]:
    """Seconds of 5 draws or 8 steps after as many to warm up, page faults meanwhile, MiB that the process then has."""
    keep_memory()
    model, data = SETUP.model().eval(), SETUP.data(images)
    step = of_rule("plain", 8, SETUP)
    work = step if what == "training" else lambda: evaluate(model, (data.inputs, data.labels), NOISE, draws=5)
    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = timed(work, clock=time.process_time)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    with open("/proc/self/statm") as file:
        return seconds, faults, int(file.read().split()[1]) * resource.getpagesize() // 2**20


if __name__ == "__main__":
    tyro.cli(Pairs).run()
