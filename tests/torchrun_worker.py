"""What test_torchrun.py starts on two processes: whole runs, and one that fails on one of them."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from methods import few_digits
from torch import nn

from noiserobust import UserError
from noiserobust.cli import main as command
from noiserobust.data import Splits
from noiserobust.models import DigitsNet, ModelSpec
from noiserobust.training import Engine, Method, Processes, TrainSettings, fit, torchrun

RULES = ["plain", "sam:0.1,sync=true", "rwp:gaussian(0.1)", "rwp-mixed:0.1", "saf:0.3,start=1,back=1"]
"""Of these two processes make what one makes, but for rounding."""


@dataclasses.dataclass(frozen=True)
class Smooth(ModelSpec, name="test-smooth"):
    """No normalisation, whose statistics would be each rank's own; ``drop`` is the probability of its dropout."""

    drop: float = 0.0

    def build(self, channels: int, classes: int) -> nn.Module:
        hidden = [nn.Linear(64 * channels, 16), nn.Tanh(), nn.Dropout(self.drop)]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(16, classes))


def settings(**changes: Any) -> TrainSettings:
    """160 samples in batches of 33: odd ones and a last one of 28."""
    few = {"model": Smooth(), "epochs": 3, "batch_size": 33, "validation": 0.2, "select_draws": 2, "crop": 1}
    return TrainSettings(**(few | changes))


RUNS: dict[str, TrainSettings] = {
    **{rule: settings(method=Method.parse(rule)) for rule in RULES},
    "micro-batches": settings(micro_batches=3, clip_norm=0.5, weight_clip=2.5),
    "adam": settings(optimizer="AdamW", lr=0.001, average="swa:0.3", weight_clip="rms(2.5,per=column,when=end)"),
}
RESUMED: dict[str, TrainSettings] = {
    "batch norm": settings(model=DigitsNet(4), select_on="none", average="ema:0.7"),
    "dropout": settings(model=Smooth(0.3), select_on="none"),
    "mixed": settings(method=Method.parse("rwp-mixed:0.1"), model=DigitsNet(4), select_on="none"),
}
"""Stopped and taken up again by the same number of processes, these end with the same bits."""


def stop_after(epoch: int) -> Callable[[dict[str, Any]], None]:
    def on_epoch(line: dict[str, Any]) -> None:
        if line["epoch"] == epoch:
            raise InterruptedError

    return on_epoch


def stopped(of: TrainSettings, out: Path, data: Splits, processes: Processes | None = None) -> None:
    """A run that ends after its second epoch."""
    try:
        fit(of, out, splits=data, on_epoch=stop_after(1), processes=processes)
    except InterruptedError:
        return
    raise AssertionError("expected to be stopped")


def trained(folder: Path, processes: Processes) -> None:
    data = few_digits(200)
    for of in RUNS.values():
        fit(of, folder / "two", splits=data, processes=processes)
    for of in RESUMED.values():
        fit(of, folder / "whole", splits=data, processes=processes)
        stopped(of, folder / "parts", data, processes)
        fit(of, folder / "parts", splits=data, processes=processes)
    # To be finished by one process, and begun by one.
    stopped(RUNS["plain"], folder / "two-one", data, processes)
    fit(RUNS["plain"], folder / "one-two", splits=data, processes=processes)


def failing(how: str, folder: Path) -> None:
    """The command, on rank 1 of which the third step fails while rank 0 waits for its gradient."""
    commit, steps = Engine.commit, iter(range(10**6))

    def fails(engine: Engine) -> bool:
        if engine.ranks.rank == 1 and next(steps) == 2:
            if how == "interrupted":
                signal.raise_signal(signal.SIGINT)  # in this thread: from outside, any may be the one that gets it
            raise {"refused": UserError("expected luck, got none"), "broken": ZeroDivisionError()}[how]
        return commit(engine)

    Engine.commit = fails  # type: ignore[method-assign]
    command(["train", "--epochs", "2", "--out", str(folder)])


def failures(folder: Path, hows: list[str]) -> None:
    """As if started by hand, without an agent that would end the other: what each of two ranks said, and its code."""
    command(["train", "--epochs", "1", "--out", str(folder / "before")])  # forks find all that it imports
    for how in hows:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        ranks = []
        for rank in ("0", "1"):
            process = os.fork()  # which ends as Python does
            if not process:
                os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
                os.dup2(os.open(folder / f"{how}.{rank}", os.O_CREAT | os.O_WRONLY), 2)
                failing(how, folder)
                sys.exit()
            ranks.append(process)
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in ranks]
        (folder / f"{how}.codes").write_text(json.dumps(codes))


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    task, to = sys.argv[1], Path(sys.argv[2])
    if task == "train":
        before = torch.get_rng_state()
        with torchrun("cpu") as joined:
            # Only rank 0 may write: the other is told of a folder where it could not.
            trained(to if joined.writes else to / "nowhere", joined)
            assert torch.equal(torch.get_rng_state(), before)
        sys.stderr.flush()
        os._exit(0)  # gloo's threads and the interpreter's end get into each other's way now and then (exit code -6)
    elif task == "failures":
        failures(to, sys.argv[3:])
    else:
        failing(task, to)
