"""What sharing work over two processes costs beside it: processor time of both, in that of one alone.

    python experiments/benchmarks/sharing.py draws ranks --rounds 5
    python experiments/benchmarks/sharing.py wall --rounds 5           # on two cores that nobody else uses

On cores that others use, too, the time until two processes have finished says how busy the others were. What they
compute does not: 1 is sharing for nothing, and half of this figure the least time that two cores of one's own would
take. ``draws``: eight draws of an evaluation, opened in each process. ``ranks``: steps of a batch of 64 by DDP over
gloo, half of it in each process; RWP and SAM, whose noise and norms every process makes for itself. ``wall``:
seconds until eight draws of 1,000 images are there, by one process, by two, and by one and two workers of Ray, in turn;
processes and workers are up, and each opens its own copy of the network. ``cpu`` is the longest one's own processor
time: about what the seconds would be on cores that nobody else uses.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import tyro
from common import RESULTS, add_rows, in_turn, machine, markdown, ratios
from loops import Setup
from rules import RULES, of_rule
from torch.nn.parallel import DistributedDataParallel

from noiserobust import evaluate
from noiserobust.memory import keep_memory

OUT, WALL = RESULTS / "speed_sharing.csv", RESULTS / "speed_sharing_wall.csv"
SETUP = Setup(width=16, batch=64, threads=1)
DRAWS, IMAGES, STEPS = 8, 200, 4


class Worker:
    """A process that evaluates the draws it is told to."""

    def __init__(self, images: int) -> None:
        torch.set_num_threads(1)
        keep_memory()
        self.model, data = SETUP.model().eval(), SETUP.data(images)
        self.data = data.inputs, data.labels

    def evaluate(self, part: range) -> float:
        """Evaluate them; seconds of processor time."""
        start = time.process_time()
        evaluate(self.model, self.data, "gaussian:0.1", draws=part)
        return time.process_time() - start


def served(pipe: Connection, images: int) -> None:
    """A :class:`Worker` behind a pipe."""
    worker = Worker(images)
    while (part := pipe.recv()) is not None:
        pipe.send(worker.evaluate(part))


def wall(rounds: int, images: int) -> None:
    """Rows of seconds until all draws are there, the ways in turn."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    remote: Any = ray.remote(num_cpus=1)(Worker)
    actors = [remote.remote(images) for _ in range(2)]
    pipes = [mp.get_context("spawn").Pipe() for _ in range(2)]
    processes = [mp.get_context("spawn").Process(target=served, args=(theirs, images)) for _, theirs in pipes]
    for process in processes:
        process.start()

    spent: list[float] = []

    def parts(count: int) -> list[range]:
        return [range(n * DRAWS // count, (n + 1) * DRAWS // count) for n in range(count)]

    def by_processes(count: int) -> None:
        used = list(zip(pipes, parts(count), strict=False))
        for (ours, _), part in used:
            ours.send(part)
        spent.append(max(ours.recv() for (ours, _), _ in used))

    def by_ray(count: int) -> None:
        used = zip(actors, parts(count), strict=False)
        spent.append(max(ray.get([actor.evaluate.remote(part) for actor, part in used])))

    cases = {"1 process": partial(by_processes, 1), "2 processes": partial(by_processes, 2)}
    cases |= {"Ray, 1 worker": partial(by_ray, 1), "Ray, 2 workers": partial(by_ray, 2)}
    about = {**machine(), "threads": 1, "draws": DRAWS, "images": images}
    rows = [
        {"case": case, "round": number, "seconds": seconds, "calm": calm, **about}
        for number, case, seconds, calm in in_turn(cases, rounds)
    ]
    rows = [row | {"cpu": cpu} for row, cpu in zip(rows, spent[len(cases) :], strict=True)]
    for (ours, _), process in zip(pipes, processes, strict=True):
        ours.send(None)
        process.join(10)
    ray.shutdown()
    print(markdown(ratios(add_rows(WALL, rows), "1 process").round(3)))


def draws(number: int, count: int, folder: str) -> None:
    """A process's part of the draws, once to warm up and once timed."""
    torch.set_num_threads(1)
    keep_memory()
    model, data = SETUP.model().eval(), SETUP.data(IMAGES)
    part = range(number * DRAWS // count, (number + 1) * DRAWS // count)
    for _ in range(2):
        start = time.process_time()
        evaluate(model, (data.inputs, data.labels), "gaussian:0.1", draws=part)
    Path(folder, str(number)).write_text(str(time.process_time() - start))


def ranks(number: int, count: int, folder: str, text: str) -> None:
    """A rank's steps, some to warm up and some timed."""
    torch.set_num_threads(1)
    keep_memory()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=count)
    steps = of_rule(text, STEPS, SETUP, DistributedDataParallel, count)
    steps()
    start = time.process_time()
    steps()
    Path(folder, str(number)).write_text(str(time.process_time() - start))
    dist.barrier()
    os._exit(0)  # gloo's threads and the interpreter's end get into each other's way


@dataclass
class Sharing:
    """Flags of the program."""

    cases: tyro.conf.Positional[tuple[str, ...]]
    rounds: int = 5
    images: int = 1000
    """Images of ``wall``."""

    def run(self) -> None:
        if "wall" in self.cases:
            wall(self.rounds, self.images)
            return
        for turn in range(self.rounds):
            rows = []
            for case, work, *further in self._chosen():
                one, two = (self._seconds(work, count, *further) for count in (1, 2))
                rows.append({"case": case, "round": turn, "one": one, "two": two, "ratio": two / one, **machine()})
                print(f"{case}: {one:.2f} s, {two:.2f} s, {two / one:.3f}", flush=True)
            table = add_rows(OUT, rows)
        found = table.groupby("case")["ratio"].describe()[["50%", "min", "max", "count"]]
        print(markdown(found.round(3).reset_index()))

    def _chosen(self):  # type: ignore[no-untyped-def]
        if "draws" in self.cases:
            yield "draws", draws
        if "ranks" in self.cases:
            for name, text in {"plain": "plain", **{name: RULES[name].text for name in ("RWP", "SAM")}}.items():
                yield f"ranks, {name}", ranks, text

    @staticmethod
    def _seconds(work, count: int, *further: str) -> float:  # type: ignore[no-untyped-def]
        """Processor seconds of all ``count`` processes together."""
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(work, (count, folder, *further), nprocs=count)
            return sum(float(Path(folder, str(number)).read_text()) for number in range(count))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    torch.set_num_threads(1)
    tyro.cli(Sharing).run()
