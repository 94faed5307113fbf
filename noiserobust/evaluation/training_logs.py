"""What runs logged, as one tidy table: curves against epochs, or of one quantity against another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from noiserobust.errors import UserError
from noiserobust.evaluation.evaluated_models import Models, trained_copies
from noiserobust.evaluation.result import Result, drawn
from noiserobust.report.table import aligned, as_markdown
from noiserobust.storage.checkpoints import Checkpoint
from noiserobust.storage.files import known_to_write
from noiserobust.storage.logs import read_log
from noiserobust.storage.rows import ROWS, write_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Trajectories(Result):
    """What runs logged: one of the ``rows`` per model, epoch and ``metric``, which is a column of the log."""

    def summary(self, confidence: float = 0.95) -> pd.DataFrame:
        """One line per method, epoch and metric: ``mean``, ``std`` (ddof 1) and number ``n`` over runs. There is no
        interval, so that ``confidence`` has no effect."""
        groups = self.rows.groupby(["method", "epoch", "metric"], sort=False)["value"]
        return groups.agg(mean="mean", std="std", n="count").reset_index()

    def table(self, markdown: bool = False, confidence: float = 0.95) -> str:
        """A line per method: its last epoch, and the means of what was logged there."""
        metrics = list(dict.fromkeys(self.rows["metric"]))
        grid = [["method", "epoch", *metrics]]
        for method, lines in self.summary(confidence).groupby("method", sort=False):
            last = lines[lines["epoch"] == lines["epoch"].max()].set_index("metric")["mean"].reindex(metrics)
            numbers = ["–" if np.isnan(value) else f"{value:.4g}" for value in last]
            grid.append([str(method), str(lines["epoch"].max()), *numbers])
        return (as_markdown if markdown else aligned)(grid)

    def plot(
        self,
        path: str | Path | None = None,
        confidence: float = 0.95,
        *,
        x: str = "epoch",
        y: Sequence[str] = (),
    ) -> Figure:
        """A panel per column ``y`` of the logs (by default the loss and the task's perturbed metric), against epochs or
        another column ``x``; a PNG where ``path`` is given."""
        from noiserobust.report.curves import epochs_figure

        if not y:  # the task's metric comes first
            logged = [name for name in dict.fromkeys(self.rows["metric"]) if str(name).startswith("perturbed_")]
            y = ("loss", *logged[:1])
        return drawn(epochs_figure(curves(self.rows, x, y), x, f"Training, against {x}"), path)


def trajectories(models: Models, *, out: str | Path | None = None) -> Trajectories:
    """How training went: the logs of finished runs as one table, for curves.

    ``models`` are runs as :func:`noiserobust.evaluate` takes them, ``out`` a file for the rows (parquet, CSV or JSON
    lines, by its suffix). Raises :class:`~noiserobust.UserError` for what has no log beside it.
    """
    if out is not None:
        known_to_write(out, ROWS)
    tables = []
    for copy in trained_copies(models):
        path = copy.source.path if isinstance(copy.source, Checkpoint) else None
        if path is None or not (path.parent / "log.csv").is_file():
            raise UserError(f"expected a run's folder with a log.csv, got {copy.name}; name runs that train wrote")
        table = read_log(path.parent).melt(id_vars="epoch", var_name="metric", value_name="value")
        tables.append(table.assign(model=copy.name, method=copy.method, replicate=copy.replicate))
    rows = pd.concat(tables, ignore_index=True)[["model", "method", "replicate", "epoch", "metric", "value"]]
    if out is not None:
        write_rows(rows, out)
    return Trajectories(rows)


def curves(rows: pd.DataFrame, x: str, y: Sequence[str]) -> pd.DataFrame:
    """One line per method, epoch and ``y``: the means over runs of ``x`` and of y, and y's spread (std, ddof 1).

    ``x`` is ``epoch`` or, as the y are, a column of the log. Columns: method, panel (y), epoch, x, mean, std, runs.
    Raises :class:`~noiserobust.UserError` for a column that a method's runs did not log.
    """
    lines = []
    for method, logged in rows.groupby("method", sort=False):
        table = logged.pivot_table(index=["replicate", "epoch"], columns="metric", values="value").reset_index()
        for name in (x, *y):
            if name not in table:
                known = ", ".join(sorted(map(str, logged["metric"].unique())))
                raise UserError(f"expected a column that {method} logged ({known}), got '{name}'")
        for epoch, group in table.groupby("epoch"):
            for name in y:
                measured = group[[*dict.fromkeys(["replicate", x, name])]].dropna()  # some epochs alone may be
                if measured.empty:
                    continue
                values = measured[name].to_numpy()
                std = values.std(ddof=1) if len(values) > 1 else np.nan
                place = {"method": method, "panel": name, "epoch": epoch, "x": measured[x].mean()}
                lines.append(place | {"mean": values.mean(), "std": std, "runs": len(values)})
    return pd.DataFrame(lines)
