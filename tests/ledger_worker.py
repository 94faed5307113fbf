"""A process that evaluates into a file of rows, for the tests of several at once.

    python ledger_worker.py OUT FIRST_DRAW DRAWS MINE OTHER [PASSES]

It creates the file MINE when its first pass is done, and waits there for OTHER. After PASSES passes over the data it
is killed, as by the kernel.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
from processes import LIMIT
from torch import nn

import noiserobust
import noiserobust.storage.ledger
from noiserobust import Stream
from noiserobust.rng import seeded

DATA = Stream(0, "x").normal((60, 4)), torch.arange(60) % 3


def net() -> nn.Module:
    with seeded(Stream(0, "net")):
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def main(out: str, first_draw: str, draws: str, mine: str, other: str, passes: str = "1000000") -> None:
    noiserobust.storage.ledger.COMMIT_EVERY = 0.0
    done = 0

    def counting(logits: torch.Tensor, labels: torch.Tensor) -> float:
        nonlocal done
        done += 1
        Path(mine).touch()
        deadline = time.monotonic() + LIMIT
        while not Path(other).exists() and time.monotonic() < deadline:  # as when the other has failed
            time.sleep(0.01)
        if done > int(passes):
            os.kill(os.getpid(), signal.SIGKILL)
        return float(len(labels))

    numbers = range(int(first_draw), int(first_draw) + int(draws))
    noiserobust.evaluate(net(), DATA, "gaussian:0.3", numbers, metrics={"images": counting}, out=out)
    print(done)


if __name__ == "__main__":
    main(*sys.argv[1:])
