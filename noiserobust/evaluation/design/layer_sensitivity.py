"""Layer sensitivity: what noise on one layer alone costs, and what sparing that layer alone gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from noiserobust.evaluation.design.layers import Bench, at_once, benches, check_single, contrast
from noiserobust.evaluation.evaluated_models import Models
from noiserobust.noise import NoiseModel

METRICS = {"accuracy": 1, "loss": -1}
"""What is compared, and the sign that makes harm positive in clean minus noisy."""
ALL = "all layers"


@dataclass(frozen=True)
class Sensitivity:
    """What :func:`sensitivity` found: evaluation's ``rows`` and one line of ``effects`` per layer, effect and metric.

    ``effect`` is

    - ``"alone"``: clean minus noise on this layer only, what its noise costs where all else is perfect
    - ``"spared"``: noise on all but this layer minus noise on all, what is gained where it alone is digital

    each as ``mean``, ``low``, ``high`` in points of accuracy, or nats of loss with the sign turned, so that positive
    is harm done (alone) or undone (spared). The line of ``layer`` "all layers" has the whole loss, clean minus noise on
    all, under both. Single effects do not add up to it.
    """

    rows: pd.DataFrame
    effects: pd.DataFrame


def sensitivity(
    models: Models,
    data: Any,
    noise: NoiseModel | str = "gaussian:0.05",
    draws: int = 10,
    seed: int = 0,
    *,
    groups: Sequence[str] = (),
    confidence: float = 0.95,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    t: float | str | None = None,
    out: str | Path | None = None,
    progress: bool = False,
    **options: Any,
) -> Sensitivity:
    """Noise on one layer at a time and on all but one, 2 L + 2 evaluations of every model and draw for L layers.

    A layer is a weight tensor; each pattern of ``groups`` makes one layer of all the weights that it matches. A
    difference is taken draw by draw, under common random numbers (:mod:`.layers`); its interval is over models where
    there are several of a method, else over draws. ``t`` is the time of reading (:func:`evaluate`'s ``times``).
    Everything else is as for :func:`evaluate`, whose rows these are: the ``analog`` column says which layers were
    noisy.

    Raises :class:`~noiserobust.UserError` for input that cannot be evaluated, a noise without strength, and groups
    that match nothing or overlap.
    """
    check_single(options)
    with tqdm(unit="set", disable=not progress, delay=1) as bar:
        options |= {"times": (t,)}
        found = benches(
            models,
            at_once(data),
            noise,
            groups=groups,
            include=include,
            exclude=exclude,
            out=out,
            bar=bar,
            options=options,
        )
        bar.total = sum(2 * len(bench.layers) + 2 for bench in found)
        lines = [line for bench in found for line in _effects(bench, draws, seed, confidence)]
    rows = pd.concat([bench.rows for bench in found], ignore_index=True)
    return Sensitivity(rows, pd.DataFrame(lines))


def _effects(bench: Bench, draws: int, seed: int, confidence: float) -> list[dict[str, Any]]:
    names = {layer.name for layer in bench.layers}
    clean, noisy = bench.clean(draws, seed), bench.under((), draws, seed)
    compared = {(ALL, effect): (clean, noisy) for effect in ("alone", "spared")}
    for layer in bench.layers:
        compared[layer.name, "alone"] = clean, bench.under(names - {layer.name}, draws, seed)
        compared[layer.name, "spared"] = bench.under({layer.name}, draws, seed), noisy
    about = {layer.name: layer.about for layer in bench.layers}
    head = {"method": bench.method, "noise": str(bench.noise), "t": noisy["t"].iloc[0]}
    return [
        head
        | (about.get(name) or _whole(bench))
        | {"effect": effect, "metric": metric}
        | contrast(a, b, confidence, metric, sign)
        for (name, effect), (a, b) in compared.items()
        for metric, sign in METRICS.items()
    ]


def _whole(bench: Bench) -> dict[str, Any]:
    columns = [layer.about for layer in bench.layers]
    return {"layer": ALL} | {name: sum(about[name] for about in columns) for name in columns[0] if name != "layer"}
