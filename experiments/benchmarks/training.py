"""What a training step of every rule costs beside a plain one, beside what people write, and beside pytorch_optimizer.

    python experiments/benchmarks/training.py rules          # time of every rule in turn, one process
    python experiments/benchmarks/training.py narrow         # those with a target, at width 16, one thread's own time
    python experiments/benchmarks/training.py options        # compiled, checkpointed, with converters, at that width
    python experiments/benchmarks/training.py memory         # peak memory of every rule, a process each
    python experiments/benchmarks/training.py widths         # plain, RWP and SAM at several widths
    python experiments/benchmarks/training.py ranks          # on one process and on two (DDP, gloo)
    python experiments/benchmarks/training.py report         # tables and the picture of all rows so far

Every call adds rows to docs/results/speed_training*.csv, so that long measurements can be made in pieces: --rounds 2,
again and again. The network is ResNet-18 on random 32 x 32 images, channels_last, bf16 autocast, SGD with momentum
0.9. With ``--device cuda`` the same flags measure a GPU. pytorch_optimizer's rules join where it is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import tyro
from common import FIGURES, RESULTS, add_rows, in_turn, markdown, ratios
from loops import OTHERS, Setup, of_loop
from matplotlib.lines import Line2D
from rules import OPTIONS, RULES, Rule, of_option, of_rule
from torch.nn.parallel import DistributedDataParallel

from noiserobust.memory import keep_memory
from noiserobust.report.style import FIRST, QUIET, SECOND, TEXT, Entry, dress, panels, save
from noiserobust.storage.files import write_atomically

TIMES, MEMORY, SCALING, NARROW, OPTIONAL = (
    RESULTS / f"speed_training{part}.csv" for part in ("", "_memory", "_scaling", "_narrow", "_options")
)
TARGETS = ("plain", "RWP", "RWP Laplace", "mixed RWP", "SAM", "ASAM", "LookSAM-5", *list(OTHERS)[-3:])
TABLE = RESULTS / "speed_training_table.csv"
SHOWN = ("kind", "device", "ranks", "threads", "width")


def case(name: str, setup: Setup) -> tuple[int, Callable[[], object]]:
    """How many steps a call of the case makes, and the call."""
    if name in OTHERS:
        return of_loop(name, setup)
    if name in OPTIONS:
        return 1, of_option(name, setup)
    rule = RULES.get(name, Rule("plain", None, 1.0, ""))
    return rule.steps, of_rule(rule.text, rule.steps, setup)


def in_a_row(count: int, call: Callable[[], object]) -> Callable[[], None]:
    """The call, ``count`` times."""

    def calls() -> None:
        for _ in range(count):
            call()

    return calls


def measure(
    names: list[str], setup: Setup, rounds: int, kept: dict[str, object], least: int = 1
) -> list[dict[str, object]]:
    """Rows of seconds a step of the cases, in turn in this process, at least ``least`` steps in a row.

    A single step between those of other rules finds its code and its weights outside of the caches, as no step of a
    training does but the first: where steps are short it pays for that as much as for its noise.
    """
    torch.set_num_threads(setup.threads)
    made = {}
    for name in names:
        steps, call = case(name, setup)
        times = -(-least // steps)
        made[name] = times * steps, in_a_row(times, call)
    # One thread's own time is what it computed, whoever else had the core in between.
    own = setup.threads == 1 and setup.device == "cpu"
    clock, calls = time.process_time if own else time.perf_counter, {name: call for name, (_, call) in made.items()}
    rows = []
    try:
        for number, name, seconds, calm in in_turn(calls, rounds, setup.device, clock=clock, baseline="plain"):
            steps, about = made[name][0], {"calm": calm, "clock": clock.__name__, **kept}
            rows.append({"case": name, "round": number, "steps": steps, "seconds": seconds / steps, **about})
    except KeyboardInterrupt:
        print("interrupted: the rounds so far are kept")
    return rows


def peak(name: str, setup: Setup) -> dict[str, object]:
    """Bytes that a case needs at most, of all that torch allocates from the making of its engine on, in two calls.

    On the CPU from torch's own record of what is allocated and freed (oneDNN's scratch memory is not in it).
    """
    torch.set_num_threads(setup.threads)
    device = torch.device(setup.device)
    if device.type == "cuda":
        _, call = case(name, setup)
        for _ in range(2):
            call()
        torch.cuda.synchronize()
        largest = torch.cuda.max_memory_allocated(device)
    else:
        with torch.autograd.profiler.profile(profile_memory=True, use_cpu=True) as profiler:
            _, call = case(name, setup)
            for _ in range(2):
                call()
        events = profiler.kineto_results.events()
        moves = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
        largest = int(pd.Series([size for _, size in moves]).cumsum().max())
    model = setup.model()
    return {"case": name, "bytes": largest, "weights": sum(p.numel() * p.element_size() for p in model.parameters())}


def rank(number: int, count: int, setup: Setup, rounds: int, out: str) -> None:
    """One of ``count`` processes that train together; the first one writes the rows."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29533")
    dist.init_process_group("gloo", rank=number, world_size=count)
    torch.set_num_threads(setup.threads)
    cases = {
        name: of_rule(text, 1, setup, DistributedDataParallel, count)
        for name, text in [("plain", "plain"), *((key, RULES[key].text) for key in ("RWP", "SAM", "GSAM"))]
    }
    rows = [
        {"case": name, "round": turn, "steps": 1, "seconds": seconds, "calm": calm}
        for turn, name, seconds, calm in in_turn(cases, rounds, setup.device, baseline="plain")
    ]
    if number == 0:
        with open(out, "w") as file:
            json.dump(rows, file)
    dist.barrier()
    os._exit(0)  # gloo's threads and the interpreter's end get into each other's way


@dataclass
class Benchmark:
    """Flags of the program."""

    what: tyro.conf.Positional[Literal["rules", "narrow", "options", "memory", "widths", "ranks", "report", "peak"]]
    """peak is what memory starts for one case."""
    setup: tyro.conf.OmitArgPrefixes[Setup] = field(default_factory=Setup)
    rounds: int = 5
    """Times that each case is measured."""
    cases: tuple[str, ...] = ("plain", *RULES, *OTHERS)
    """What is measured (rules, memory)."""
    widths: tuple[int, ...] = (16, 32, 64)

    def run(self) -> None:
        setup = self.setup
        keep_memory()  # as the command line does
        if self.what == "rules":
            names = ["plain", *(name for name in self.cases if name != "plain")]
            add_rows(TIMES, measure(names, setup, self.rounds, setup.describe()))
        elif self.what in ("narrow", "options"):
            small = Setup(**{**vars(setup), "width": 16, "batch": 64, "threads": 1})
            path, names = (NARROW, list(TARGETS)) if self.what == "narrow" else (OPTIONAL, ["plain", *OPTIONS])
            rows = add_rows(path, measure(names, small, self.rounds, small.describe(), least=5))
            print(markdown(ratios(rows[rows["run"] == rows["run"].max()], "plain").round(3)))
            return
        elif self.what == "peak":
            print(json.dumps(peak(self.cases[0], setup)))
            return
        elif self.what == "memory":
            rows = []
            for name in self.cases:
                flags = [f"--{key}={value}" for key, value in vars(setup).items()]
                done = subprocess.run(
                    [sys.executable, __file__, "peak", "--cases", name, *flags],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                rows.append({**json.loads(done.stdout.splitlines()[-1]), **setup.describe()})
            add_rows(MEMORY, rows)
        elif self.what == "widths":
            rows = []
            for width in self.widths:
                sized = Setup(**{**vars(setup), "width": width})
                kept = {"kind": "width", "ranks": 1, **sized.describe(), "threads": sized.threads}
                rows += measure(["plain", "RWP", "SAM", "SAF"], sized, self.rounds, kept)
            add_rows(SCALING, rows)
        elif self.what == "ranks":
            rows = []
            for count in (1, 2):
                out = f"{os.environ.get('TMPDIR', '/tmp')}/ranks-{os.getpid()}.json"
                mp.spawn(rank, (count, setup, self.rounds, out), nprocs=count)
                with open(out) as file:
                    kept = {"kind": "ranks", "ranks": count, **setup.describe(), "threads": setup.threads}
                    rows += [{**row, **kept} for row in json.load(file)]
                os.unlink(out)
            add_rows(SCALING, rows)
        report()


def table() -> pd.DataFrame:
    """Every case's ratio and memory beside its target and its bound at full width: of the newest version, on the
    machine of which most rounds count."""
    rows, full = pd.read_csv(TIMES), Setup()
    rows = rows[rows["noiserobust"] == rows["noiserobust"].iloc[-1]]
    counted = rows[rows["calm"].fillna(True).astype(bool) & (rows["case"] == "plain")]
    for column in ("width", "batch", "precision"):
        counted = counted[counted[column] == getattr(full, column)]
    last = counted[counted["device"] == counted["device"].mode()[0]].iloc[-1]
    # All rounds: of half a minute in between, calm before and after says little, and medians bear a few bad ones.
    cases = ratios(_like(rows, last).drop(columns="calm"), "plain")
    order = ["plain", *RULES, *OTHERS]
    cases = cases.sort_values("case", key=lambda names: names.map(order.index), ignore_index=True)
    if MEMORY.exists():
        memory = _like(pd.read_csv(MEMORY), last, but=("device", "threads")).groupby("case").last()
        copies = (memory["bytes"] - memory["bytes"].get("plain", float("nan"))) / memory["weights"]
        cases["copies"] = cases["case"].map(copies)
    rules = cases["case"].map(RULES)
    for column in ("target", "bound", "why"):
        cases[column] = [getattr(rule, column, None) for rule in rules]
    cases["why"] = cases["why"].fillna(cases["case"].map(OTHERS))
    return cases


def _like(rows: pd.DataFrame, last: pd.Series, but: Sequence[str] = ()) -> pd.DataFrame:
    """Rows of the same machine and network as ``last``; ``but``: what may differ (memory does not depend on it)."""
    for column in ("device", "threads", "width", "batch", "precision"):
        if column not in but:
            rows = rows[rows[column] == last[column]]
    return rows


def report() -> None:
    """Print the tables, write that of the rules and draw it."""
    cases = table()
    write_atomically(TABLE, lambda file: cases.to_csv(file, index=False, float_format="%.6g"))
    shown = cases.assign(
        ratio=[f"{row.ratio:.2f} ({row.q1:.2f} to {row.q3:.2f})" for row in cases.itertuples()],
        **{column: cases[column].map("{:.2f}".format) for column in ("copies", "bound", "target") if column in cases},
    ).drop(columns=["seconds", "q1", "q3"])
    print(markdown(shown.replace("nan", "").fillna("")))
    draw(cases)
    if SCALING.exists():
        rows = pd.read_csv(SCALING)
        for keys, group in rows.groupby(["kind", "device", "ranks", "threads", "width"]):
            print("\n" + ", ".join(f"{name} {value}" for name, value in zip(SHOWN, keys, strict=True)))
            print(markdown(ratios(group, "plain").round(3)))


def draw(cases: pd.DataFrame) -> None:
    """The ratios with their quartiles, targets as ticks, bounds as dots."""
    rows = cases[cases["case"] != "plain"].iloc[::-1].reset_index(drop=True)
    title = "What a training step costs, in plain steps"
    legend: list[Entry] = [
        (Line2D([], [], color=TEXT), "quartiles"),
        (Line2D([], [], color=SECOND, marker="|", linestyle="", markeredgewidth=2, markersize=14), "target"),
        (Line2D([], [], color=TEXT, marker="o", linestyle="", markersize=4), "bound by passes"),
    ]
    figure, (axis,) = panels(1, title, legend=legend, size=(6.3, 0.32 * len(rows) + 0.6))
    axis.barh(
        rows.index, rows["ratio"], color=[QUIET if case in OTHERS else FIRST for case in rows["case"]], height=0.6
    )
    spread = [(rows["ratio"] - rows["q1"]).clip(lower=0), (rows["q3"] - rows["ratio"]).clip(lower=0)]
    axis.errorbar(rows["ratio"], rows.index, xerr=spread, fmt="none", color=TEXT, capsize=2)
    axis.plot(rows["target"], rows.index, "|", color=SECOND, markersize=14, markeredgewidth=2)
    axis.plot(rows["bound"], rows.index, "o", color=TEXT, markersize=4)
    axis.axvline(1, color=TEXT, linewidth=0.8)
    axis.set_yticks(rows.index, rows["case"])
    dress(axis, "", "time of a step / time of a plain step, in the same round", grid="x")
    save(figure, FIGURES / "speed_training.png")


if __name__ == "__main__":
    tyro.cli(Benchmark).run()
