"""The registries that drive the contract tests, and the statistical judge that they share."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from noiserobust.noise import (
    PCM,
    Cells,
    Compensate,
    Correlated,
    Gaussian,
    Hermes,
    Laplace,
    LogNormal,
    Measured,
    NoiseModel,
    Quantize,
    ReRamCMO,
    ReRamWan2022,
    Sliced,
    StateIndependent,
    Stuck,
    WriteVerify,
)
from noiserobust.noise.wrapper import Wrapper
from noiserobust.spec import Duration

TABLE = "example"  # the one that is shipped

# Every noise model keeps the contract of test_noise.py, of test_weights.py and of the text form: add new ones here.
NOISES: list[NoiseModel] = [
    Gaussian(0.1),
    Gaussian(0.1, reference="layer"),
    Gaussian(0.1, reference="tile", rows=7, columns=5),
    Gaussian(0.1, reference="tile-column", rows=7, columns=5),
    Gaussian(0.1, reading="literal"),
    Gaussian(0.1, reference="layer", reading="literal"),
    Laplace(0.1),
    Laplace(0.1, reference="layer"),
    Laplace(0.1, reference="tile", rows=7, columns=5),
    Laplace(0.1, reference="tile-column", rows=7, columns=5),
    Gaussian(0.1) + Laplace(0.05, reference="layer"),
    Gaussian(0.1) + Gaussian(0.1) + Laplace(0.0),
    LogNormal(0.3),
    LogNormal(0.3, strength=0.5),
    Quantize(3),
    Quantize(3, reference="layer", strength=0.5),
    Quantize(4, reference="tile", rows=7, columns=5),
    Stuck(0.3, at_max=0.3),
    Stuck(0.0, at_max=0.4, reference="tile-column", rows=7, columns=5),
    Cells(Gaussian(0.1), 3),
    Cells(Gaussian(0.1, reference="layer") + Laplace(0.05), 2),
    Cells(Gaussian(0.1), 3, fill="max"),
    Correlated(Gaussian(0.1), 0.5),
    Correlated(Gaussian(0.1), 1.0, over="die"),
    Correlated(Laplace(0.1) + Gaussian(0.1), 0.3, over="tile", rows=3, columns=4),
    Correlated(Stuck(0.3, at_max=0.3), 0.5, over="row"),
    Sliced(Gaussian(0.1), bits=2, slices=3),
    Sliced(Laplace(0.1, reference="layer"), bits=3, slices=2, reference="layer", strength=0.5),
    WriteVerify(Gaussian(0.1), 0.05),
    WriteVerify(Laplace(0.1, reference="layer"), 0.02, iterations=3, strength=0.5),
]

# Those whose chips drift, or read differently each time.
CHANGING: list[NoiseModel] = [
    Gaussian(0.1, per="read"),
    Gaussian(0.1, reference="tile", rows=7, columns=5, reading="literal", per="read"),
    LogNormal(0.3, per="read"),
    PCM(),
    PCM(0.5, reference="tile", rows=7, columns=5, t=Duration("1d")),
    PCM(reference="tile-column", rows=7, columns=5, drift=0.0, read=0.0),
    Hermes(reference="layer"),
    Hermes(cells=1, t=Duration("1y")),
    ReRamWan2022(),
    ReRamCMO(),
    ReRamCMO(acceptance=2.0, t=Duration("1h")),
    StateIndependent(),
    Measured(table=TABLE),
    Measured(0.5, table=TABLE, reference="tile", rows=7, columns=5, t=Duration("1d")),
    Measured(table="example-retention", mapping="offset-column"),
    PCM(mapping="offset", on_off=10.0),
    Hermes(mapping="offset-column", reference="tile", rows=7, columns=2, t=Duration("1h")),
    ReRamCMO(mapping="pair", on_off=5.0),
    Cells(PCM(), 2),
    Correlated(PCM() + Gaussian(0.1, per="read"), 0.5, over="layer"),
    Sliced(PCM(t=Duration("1h")), bits=1, slices=4),
    WriteVerify(PCM(mapping="offset"), 0.02, strength=0.5),
]

# Those whose parts depend on what lies below them: scaling multiplies the parts' deviations, not their sum's.
STACKED: list[NoiseModel] = [
    Gaussian(0.1) + PCM(),
    PCM(t=Duration("1d")) + Compensate(),
    PCM(t=Duration("1y"), reference="tile", rows=7, columns=5) + Compensate("column") + Gaussian(0.05),
    Quantize(4) + PCM(reference="layer"),
    Quantize(4) + Gaussian(0.1) + Stuck(0.2, at_max=0.1),
    Gaussian(0.1) + LogNormal(0.1, per="read") + Quantize(6),
]


def innermost(noise: NoiseModel) -> list[NoiseModel]:
    """The stages of a noise, those inside of others instead of them."""
    return [leaf for part in noise.stages for leaf in (innermost(part.noise) if isinstance(part, Wrapper) else [part])]


def is_random(noise: NoiseModel) -> bool:
    return not all(isinstance(part, Quantize) for part in innermost(noise))


def spares_groups_of_zeros(noise: NoiseModel) -> bool:
    """Whether weights of 0 stay 0 when all others of their filter are 0, whatever lies beside it."""
    return all(
        isinstance(part, Quantize) or getattr(part, "reference", "filter") in ("filter", "tile-column")
        for part in innermost(noise)
    )


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def assert_distributed(sample: Tensor, name: str) -> None:
    """``sample`` is drawn independently from scipy's standard distribution ``name``, judged three times.

    False-alarm rate 2e-6 in all: 6e-7 for the mean and for the variance (5 standard errors each), 1e-6 for the
    Kolmogorov-Smirnov distance.
    """
    values = sample.detach().double().flatten().cpu().numpy()
    expected = getattr(stats, name)
    mean, variance, excess = expected.stats(moments="mvk")
    assert abs(values.mean() - mean) < 5 * math.sqrt(variance / values.size)
    assert abs(values.var() - variance) < 5 * variance * math.sqrt((excess + 2) / values.size)
    assert stats.kstest(values, name).pvalue > 1e-6


def assert_independent(a: Tensor, b: Tensor) -> None:
    """Two fields are uncorrelated at every shift, so that neither equals a piece of the other either.

    Each of n shifts has a correlation of standard deviation 1 / sqrt(n); the bound of 7 of them has a false-alarm
    rate of n * 2.6e-12, that is 2e-7 for the 65,536 values looked at.
    """
    x, y = (field.double().flatten()[: 1 << 16].cpu().numpy() for field in (a, b))
    x, y = ((field - field.mean()) / field.std() for field in (x, y))
    correlation = np.fft.irfft(np.fft.rfft(x) * np.conj(np.fft.rfft(y)), x.size) / x.size
    assert np.abs(correlation).max() < 7 / math.sqrt(x.size)
