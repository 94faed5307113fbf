"""What all tests share: hypothesis without its own randomness or clock, signals and threads as on a fresh terminal."""

from __future__ import annotations

import signal

import matplotlib
from hypothesis import settings

matplotlib.use("Agg")
# Started by nohup or in the background, SIGINT is ignored, and so it would be in every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# No deadline: the machine may be busy. Derandomised: random tests are seeded and never retried.
settings.register_profile("noiserobust", deadline=None, derandomize=True, max_examples=60, database=None)
settings.load_profile("noiserobust")
