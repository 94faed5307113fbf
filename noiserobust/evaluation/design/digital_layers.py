"""Which layers to keep digital: found greedily on some draws, verified jointly on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from noiserobust.errors import UserError
from noiserobust.evaluation.design.layers import Bench, Layer, at_once, benches, check_single, contrast, level
from noiserobust.evaluation.evaluated_models import Models
from noiserobust.noise import NoiseModel


@dataclass(frozen=True)
class KeptDigital:
    """What :func:`keep_digital` found: evaluation's ``rows``, and ``steps``, one line per method and step.

    Step k keeps the ``layers`` (a list, in the order in which they were chosen) digital, the last of which is
    ``layer``; ``macs_share`` and ``weights_share`` are percentages of the whole network's, what is digital anyway
    included. All of it on fresh draws, in points of accuracy:

    - ``accuracy``, ``low``, ``high``: with the set digital
    - ``lost``, ``lost_low``, ``lost_high``: clean minus that, draw by draw
    - ``gain``, ``gain_low``, ``gain_high``: that minus noise on all layers, draw by draw
    - ``sum_of_singles``: the gains of the set's layers, each digital alone, added up
    - ``search_accuracy``, ``search_gain``: what the search saw on its own draws (and images), which is biased upwards
      because the set was chosen for it
    """

    rows: pd.DataFrame
    steps: pd.DataFrame


@dataclass(frozen=True)
class Stop:
    """When enough layers are digital: ``within`` points of clean on the search's draws, that percentage of
    multiply-accumulates, that many layers."""

    within: float | None
    max_share: float | None
    max_layers: int | None

    def __post_init__(self) -> None:
        if self.within is not None and self.within < 0:
            raise UserError(f"expected within >= 0 points of accuracy, got {self.within}")
        if self.max_share is not None and not 0 < self.max_share <= 100:
            raise UserError(f"expected max_share in percent, above 0 and up to 100, got {self.max_share}")
        if self.max_layers is not None and self.max_layers < 1:
            raise UserError(f"expected max_layers >= 1, got {self.max_layers}")


def keep_digital(
    models: Models,
    data: Any,
    noise: NoiseModel | str = "gaussian:0.05",
    draws: int = 10,
    seed: int = 0,
    *,
    search_draws: int | None = None,
    search_images: int | None = None,
    candidates: int | None = None,
    per_mac: bool = False,
    within: float | None = None,
    max_share: float | None = None,
    max_layers: int | None = None,
    groups: Sequence[str] = (),
    confidence: float = 0.95,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    t: float | str | None = None,
    out: str | Path | None = None,
    progress: bool = False,
    **options: Any,
) -> KeptDigital:
    """Make layers digital one after the other, each time the one that gains most beside those already digital.

    The search measures accuracy (ties go to the lower loss), as the mean over a method's models and ``search_draws``
    (default: ``draws``) on ``search_images`` (default: all). Its draws are named by the seed -1 - ``seed``, so that the
    ``draws`` of ``seed`` are fresh: on them and on all images every set on the way is then measured, with the interval
    of its mean. A set chosen among many looks better on the draws that chose it than it is. It is still chosen for
    these models and images.

    - ``candidates``: after the first step only that many layers, of the largest gains alone, are tried. L layers cost
      L (L + 1) / 2 sets without it.
    - ``per_mac``: choose by gain per multiply-accumulate instead of gain. A layer that gains nothing comes last.
    - ``within``, ``max_share``, ``max_layers``: stop as soon as the search is that near to clean; never keep more of
      the multiply-accumulates (percent, what is digital anyway included) or more layers. With none of them every layer
      is taken in turn.

    Everything else is as for :func:`~noiserobust.evaluation.sensitivity`. Raises :class:`~noiserobust.UserError` for
    input that cannot be evaluated, and for shares of multiply-accumulates where a layer's cannot be told.
    """
    stop = Stop(within, max_share, max_layers)
    if candidates is not None and candidates < 1:
        raise UserError(f"expected candidates >= 1, got {candidates}")
    check_single(options)
    with tqdm(unit="set", disable=not progress, delay=1) as bar:
        options |= {"times": (t,)}
        data = at_once(data)
        found = benches(
            models,
            data,
            noise,
            groups=groups,
            include=include,
            exclude=exclude,
            out=out,
            bar=bar,
            options=options,
        )
        lines = []
        for bench in found:
            _require_macs(bench, per_mac or max_share is not None)
            search = _Search(bench, draws if search_draws is None else search_draws, -1 - seed, search_images)
            lines += _verified(bench, search, search.sets(stop, candidates, per_mac), draws, seed, confidence)
    return KeptDigital(pd.concat([bench.rows for bench in found], ignore_index=True), pd.DataFrame(lines))


class _Search:
    """Mean accuracy and loss of sets of digital layers on the search's own draws."""

    def __init__(self, bench: Bench, draws: int, seed: int, images: int | None) -> None:
        self.bench, self.sample = bench, (draws, seed, images)
        self.clean = _means(bench.clean(*self.sample))[0]

    def value(self, digital: Sequence[str]) -> tuple[float, float]:
        """(accuracy, minus loss), so that the larger pair is the better one."""
        return _means(self.bench.under(digital, *self.sample))

    def sets(self, stop: Stop, candidates: int | None, per_mac: bool) -> list[list[str]]:
        """The sets on the way, from none; each is the one before and one layer more."""
        chosen: list[str] = []
        found = [chosen]
        left = list(self.bench.layers)
        while left and not self.enough(stop, chosen):
            share = self.bench.digital_share + sum(x.macs_share for x in self.bench.layers if x.name in chosen)
            left = [x for x in left if stop.max_share is None or share + x.macs_share <= stop.max_share + 1e-9]
            base = self.value(chosen)
            merits = {x.name: _merit(base, self.value([*chosen, x.name]), x, per_mac) for x in left}
            left.sort(key=lambda x: merits[x.name], reverse=True)  # a stable sort: ties stay in the network's order
            if not chosen and candidates is not None:
                left = left[:candidates]
            if left:
                chosen = [*chosen, left.pop(0).name]
                found.append(chosen)
        return found

    def enough(self, stop: Stop, chosen: Sequence[str]) -> bool:
        if stop.max_layers is not None and len(chosen) >= stop.max_layers:
            return True
        return stop.within is not None and self.clean - self.value(chosen)[0] <= stop.within


def _merit(base: tuple[float, float], value: tuple[float, float], layer: Layer, per_mac: bool) -> tuple[float, ...]:
    """What a layer is worth: its gain, or its gain per cost where it gains anything."""
    gain, fall = value[0] - base[0], value[1] - base[1]
    if not per_mac:
        return gain, fall
    return (1.0, gain / layer.macs, fall) if gain > 0 else (0.0, gain, fall)


def _verified(
    bench: Bench, search: _Search, sets: list[list[str]], draws: int, seed: int, confidence: float
) -> list[dict[str, Any]]:
    """One line per set, on fresh draws."""
    clean, noisy = bench.clean(draws, seed), bench.under((), draws, seed)
    layers = {layer.name: layer for layer in bench.layers}
    singles = {name: contrast(bench.under([name], draws, seed), noisy, confidence)["mean"] for name in sets[-1]}
    first = search.value(())[0]
    lines = []
    for step, digital in enumerate(sets):
        rows = bench.under(digital, draws, seed)
        accuracy = level(rows, confidence)
        seen = search.value(digital)[0]
        line = {
            "method": bench.method,
            "noise": str(bench.noise),
            "t": noisy["t"].iloc[0],
            "step": step,
            "layer": digital[-1] if digital else "",
            "layers": digital,
            "macs_share": bench.digital_share + sum(layers[name].macs_share for name in digital),
            "weights_share": sum(layers[name].weights_share for name in digital),
            "clean": level(clean, confidence)["mean"],
            "accuracy": accuracy.pop("mean"),
        }
        line |= accuracy
        for name, difference in (
            ("lost", contrast(clean, rows, confidence)),
            ("gain", contrast(rows, noisy, confidence)),
        ):
            line |= {name: difference["mean"], f"{name}_low": difference["low"], f"{name}_high": difference["high"]}
        line |= {"sum_of_singles": sum(singles[name] for name in digital)}
        lines.append(line | {"search_accuracy": seen, "search_gain": seen - first})
    return lines


def _means(rows: pd.DataFrame) -> tuple[float, float]:
    means = rows.groupby("metric")["value"].mean()
    return float(means["accuracy"]), -float(means["loss"])


def _require_macs(bench: Bench, needed: bool) -> None:
    unknown = [layer.name for layer in bench.layers if not layer.macs >= 0]
    if needed and unknown:
        raise UserError(
            f"expected multiply-accumulates of every layer of {bench.method}, but those of {', '.join(unknown[:6])} "
            "cannot be told: leave per_mac and max_share out"
        )
