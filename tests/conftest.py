"""What all tests share: hypothesis without its own randomness or clock, signals and threads as on a fresh terminal."""

from __future__ import annotations

import os
import random
import signal

# One thread a process, also in those that a test starts: two that spin for the same core slow each other down, so that
# time limits would depend on the machine's load. Tests about threads ask for theirs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# xdist tells its workers how wide its own terminal is; tests read what a pipe gets.
os.environ.pop("COLUMNS", None)

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import settings

matplotlib.use("Agg")
# Started by nohup or in the background, SIGINT is ignored, and so it would be in every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# No deadline: the machine may be busy. Derandomised: random tests are seeded and never retried.
settings.register_profile("noiserobust", deadline=None, derandomize=True, max_examples=60, database=None)
settings.load_profile("noiserobust")


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """What a test leaves to a library's own generator does not hang on the tests before it; another seed may be
    asked for, to find tests that hold by chance."""
    seed = int(os.environ.get("TEST_SEED", "0"))
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the generator that libraries share
    torch.manual_seed(seed)
