"""What all tests share: hypothesis without its own randomness or clock, so that a run can be repeated."""

from __future__ import annotations

import matplotlib
from hypothesis import settings

matplotlib.use("Agg")
# No deadline: the machine may be busy. Derandomised: random tests are seeded and never retried.
settings.register_profile("noiserobust", deadline=None, derandomize=True, max_examples=60, database=None)
settings.load_profile("noiserobust")
