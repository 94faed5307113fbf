"""A process that evaluates into a file of rows, for the tests of several at once.

It creates the file ``mine`` when its first pass is done, and waits there for ``other``. After so many ``passes`` over
the data it is killed, as by the kernel; else it writes their number to ``mine``.
"""

from __future__ import annotations

import os
import signal
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


def work(out: Path, first_draw: int, draws: int, mine: Path, other: Path, passes: int = 1_000_000) -> None:
    noiserobust.storage.ledger.COMMIT_EVERY = 0.0
    done = 0

    def counting(logits: torch.Tensor, labels: torch.Tensor) -> float:
        nonlocal done
        done += 1
        mine.touch()
        deadline = time.monotonic() + LIMIT
        while not other.exists() and time.monotonic() < deadline:  # as when the other has failed
            time.sleep(0.01)
        if done > passes:
            os.kill(os.getpid(), signal.SIGKILL)
        return float(len(labels))

    numbers = range(first_draw, first_draw + draws)
    noiserobust.evaluate(net(), DATA, "gaussian:0.3", numbers, metrics={"images": counting}, out=out)
    mine.write_text(str(done))
