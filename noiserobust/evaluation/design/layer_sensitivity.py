"""Layer sensitivity: what noise on one layer alone costs, and what sparing that layer alone gains."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from noiserobust.bars import Bar
from noiserobust.evaluation.design.layers import OfLayers, Sample, differences, fields_of, noisy_layers, turned
from noiserobust.evaluation.evaluated_models import Models
from noiserobust.evaluation.monte_carlo import draw_numbers
from noiserobust.evaluation.result import drawn
from noiserobust.evaluation.settings import Chips, Compute, Where
from noiserobust.models import ModelSpec
from noiserobust.noise import NoiseModel
from noiserobust.report.design_tables import ALL, sensitivity_table
from noiserobust.report.leading import leading, quantity_of
from noiserobust.spec.kinds import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Effect = Literal["alone", "spared"]
SHARES = ["weights", "weights_share", "macs", "macs_share"]


@dataclass(frozen=True)
class Sensitivity(OfLayers):
    """Which layers noise hurts: rows of :func:`evaluate`, whose column ``digital`` names the layers without noise."""

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """One line per method, layer, effect and metric: ``mean`` with its interval ``low`` to ``high``.

        ``effect`` is

        - ``"alone"``: clean minus noise on this layer only, what its noise costs where all else is perfect
        - ``"spared"``: noise on all but this layer minus noise on all, what is gained where it alone is digital

        in points of accuracy (or units of the task's ``metric``, whose lines come first), and of loss; the sign is
        turned where less is better, so that positive is harm done (alone) or undone (spared). The lines of ``layer``
        "all layers" have the whole loss, clean minus noise on all, under both. Single effects do not add up to it.
        """
        return super().summary(confidence)

    def table(self, markdown: bool = False, confidence: float = 0.95, *, rank: Effect = "alone") -> str:
        """Layers ranked by what their noise costs ``"alone"``, or by what is gained where they alone are ``"spared"``
        it."""
        return sensitivity_table(self.summary(confidence), rank, markdown)

    def plot(self, path: str | Path | None = None, confidence: float = 0.95, *, rank: Effect = "alone") -> Figure:
        """The same as bars with intervals, beside each layer's share of weights and multiply-accumulates."""
        from noiserobust.report.design_plots import sensitivity_figure

        return drawn(sensitivity_figure(self.summary(confidence), rank), path)

    def _of_method(self, method: str, rows: pd.DataFrame, confidence: float) -> pd.DataFrame:
        layers = self.layers[method]
        under = dict(iter(rows.groupby("digital")))
        clean, noisy = under[layers.label(layers.names)], under[""]
        pairs = [(clean, noisy)] * 2
        about = [{"layer": ALL} | {name: sum(layer.columns[name] for layer in layers) for name in SHARES}] * 2
        for layer in layers:
            rest = layers.label(set(layers.names) - {layer.name})
            pairs += [(clean, under[rest]), (under[layer.name], noisy)]
            about += [layer.columns] * 2
        head = {"method": method, "noise": self.noise, "t": noisy["t"].iloc[0]}
        lines = pd.DataFrame([head | columns for columns in about])
        lines["effect"] = ["alone", "spared"] * (len(lines) // 2)
        metrics = [name for name in dict.fromkeys([leading(rows), "loss"]) if (rows["metric"] == name).any()]
        signs = {metric: quantity_of(rows, metric).sign for metric in metrics}
        compared = [
            pd.concat([lines.assign(metric=metric), differences(turned(pairs, sign), confidence, metric)], axis=1)
            for metric, sign in signs.items()
        ]
        # The metrics of one effect follow each other.
        return pd.concat(compared).sort_index(kind="stable")


@typed
def sensitivity(
    models: Models,
    data: Any = None,
    noise: NoiseModel | str = "gaussian:0.05",
    draws: int | range = 10,
    seed: int = 0,
    *,
    groups: Sequence[str] = (),
    images: int | None = None,
    model: ModelSpec | str | None = None,
    task: Any = None,
    chips: Chips = Chips(),
    compute: Compute = Compute(),
    where: Where = Where(),
    out: str | Path | None = None,
    progress: bool = False,
) -> Sensitivity:
    """Which layers does noise hurt most? Noise on one layer at a time, and on all but one.

    >>> sensitivity("runs", noise="gaussian:0.1").plot("sensitivity.png")  # doctest: +SKIP

    A layer is a weight tensor; each pattern of ``groups`` makes one layer of all the weights that it matches. That
    takes 2 L + 2 evaluations of every model and draw for L layers, in which what lies in front of the layer that
    differs is computed once (``Compute(reuse=...)``). A difference is taken draw by draw, under common random numbers
    (:mod:`.layers`); its interval is over models where there are several of a method, else over draws.
    Everything else is as for :func:`evaluate`, under one condition: one time, compensation and converters.

    Raises :class:`~noiserobust.UserError` for input that cannot be evaluated, a noise without strength, and groups
    that match nothing or overlap.
    """
    fixed: dict[str, Any] = {"images": images, "model": model, "task": task, "compute": compute}
    with Bar(unit="draw", disable=not progress, delay=1) as bar:
        methods = noisy_layers(models, data, noise, groups, chips, where, bar, out, **fixed)
        bar.total = sum((2 * len(one.layers) + 2) * len(one.coverage) for one in methods) * len(draw_numbers(draws))
        sample = Sample(draws, seed)
        for one in methods:
            one.around((), one.layers.names, sample)
            one.around(one.layers.names, one.layers.names, sample)
    result = Sensitivity(**fields_of(methods))
    if missing := result.nan_answers:
        warnings.warn(missing, stacklevel=2)
    return result
