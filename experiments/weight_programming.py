"""Which states should a pair of devices use, given a table of errors? The usual ones (idle device at g_min), or others?

For every weight x the two states that minimise the mean square of alpha (g_+ - g_-) - x at a time are searched among
all pairs of 251 states, with the table's own moments and the global compensation factor alpha that results (Mackin et
al., "Optimised weight programming for analogue memory-based deep neural networks", Nature Communications 13, 3765
(2022), for one pair). Networks are then evaluated on the same chips with the usual and with these states.

    noiserobust train --data digits --batch-size 64 --method plain --epochs 15 --seeds 0 1 2 3 4 --out runs
    python experiments/weight_programming.py runs            # a minute of one core
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
import tyro
from torch import Tensor

import noiserobust
from noiserobust.evaluation import paired
from noiserobust.noise import Measured, mapping
from noiserobust.rng import Stream

TABLE = "example"
TIMES = [0.0, 86400.0, 31536000.0]
STATES, WEIGHTS, DEVICES = 251, 401, 4000


def best_states(t: float) -> tuple[Tensor, Tensor, Tensor]:
    """The states of both devices, and the root mean square error, of weights from 0 to 1, all in units of g_max."""
    devices = Measured(table=TABLE).devices()
    states = torch.linspace(0, devices.g_max, STATES, dtype=torch.float64)
    target = states[:, None].repeat(1, DEVICES)
    then = devices.program(target, Stream(0, "programming"))
    drift = devices.drift_parameters(target, Stream(0, "drift")) if t else None
    now = devices.read(target, then, drift, t, Stream(0, "read"))
    first, mean, variance = then.mean(1) / devices.g_max, now.mean(1) / devices.g_max, now.var(1) / devices.g_max**2
    x = torch.linspace(0, 1, WEIGHTS, dtype=torch.float64)
    typical = (Stream(0, "weights").normal((4000,)).abs() / 3).clamp(max=1).mul(WEIGHTS - 1).round().long()
    plus, minus, error = (x * (STATES - 1)).round().long(), torch.zeros(WEIGHTS, dtype=torch.long), x
    for _ in range(6):  # the factor depends on the states, and they on it
        alpha = (first[plus] - first[minus])[typical].sum() / (mean[plus] - mean[minus])[typical].sum()
        bias = alpha * (mean[:, None] - mean) - x[:, None, None]
        cost = bias**2 + alpha**2 * (variance[:, None] + variance)
        best = cost.flatten(1).argmin(1)
        plus, minus = best // STATES, best % STATES
        error = cost.flatten(1).amin(1).sqrt()
    return states[plus], states[minus], error


def optimised(t: float) -> type[mapping.Pair]:
    """A mapping to the states that are best at a time."""
    plus, minus, _ = best_states(t)

    class Optimised(mapping.Pair):
        def split(self, x: Tensor) -> list[Tensor]:
            place = (x.abs().clamp(max=1) * (WEIGHTS - 1)).round().long()
            larger, smaller = plus.to(x)[place], minus.to(x)[place]
            return [torch.where(x >= 0, larger, smaller), torch.where(x >= 0, smaller, larger)]

    return Optimised


def accuracy(runs: str, t: float, states: str, kind: type[mapping.Pair]) -> Any:
    """Rows of all networks, with ten compensated chips each, under a mapping in place of the pair's."""
    mapping.MAPPINGS["pair"] = kind
    chips = noiserobust.Chips(times=[t], compensation=["global"])
    return noiserobust.evaluate(runs, "digits", f"measured:{TABLE}", draws=10, chips=chips).rows.assign(method=states)


def main(runs: tyro.conf.Positional[str]) -> None:
    """``runs``: folder of the trained networks."""
    usual = mapping.Pair
    for t in TIMES:
        _, minus, error = best_states(t)
        print(f"t = {t:g} s: g_- at most {minus.max():.2f} of 25 µS; error at 0, .5, 1: {error[[0, WEIGHTS // 2, -1]]}")
        rows = [accuracy(runs, t, "usual", usual), accuracy(runs, t, "optimised", optimised(t))]
        (line,) = paired(pd.concat(rows), "optimised", "usual").itertuples()
        print(f"optimised - usual: {line.mean:+.2f} ({line.low:+.2f} to {line.high:+.2f}) points")


if __name__ == "__main__":
    from start import start

    start(main)
