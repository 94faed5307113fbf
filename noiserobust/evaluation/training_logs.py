"""What runs logged, as one tidy table: curves against epochs, or of one quantity against another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from noiserobust.errors import UserError
from noiserobust.storage.checkpoints import Checkpoint


def trajectories(checkpoints: Sequence[Checkpoint]) -> pd.DataFrame:
    """The logs of finished runs: columns model, method, replicate, epoch, metric (the log's column) and value.

    Raises :class:`~noiserobust.UserError` for a checkpoint that has no log beside it.
    """
    tables = []
    for index, checkpoint in enumerate(checkpoints):
        file = checkpoint.path.parent / "log.csv"
        if not file.is_file():
            raise UserError(
                f"expected a run's folder with a log.csv, got {checkpoint.path}; name runs that train wrote"
            )
        about = checkpoint.about
        table = pd.read_csv(file).melt(id_vars="epoch", var_name="metric", value_name="value")
        table.insert(0, "model", str(checkpoint.path))
        table.insert(1, "method", about.get("label", checkpoint.path.parent.name))
        table.insert(2, "replicate", about.get("seed", index))
        tables.append(table)
    if not tables:
        raise UserError("expected at least one run, got none; runs/* names all runs of a folder")
    return pd.concat(tables, ignore_index=True)


def curves(rows: pd.DataFrame, x: str, y: Sequence[str]) -> pd.DataFrame:
    """One line per method, epoch and ``y``: the means over runs of ``x`` and of y, and y's spread (std, ddof 1).

    ``x`` is ``epoch`` or, as the y are, a column of the log. Columns: method, panel (y), epoch, x, mean, std, runs.
    Raises :class:`~noiserobust.UserError` for a column that a method's runs did not log.
    """
    lines = []
    for method, own in rows.groupby("method", sort=False):
        table = own.pivot_table(index=["replicate", "epoch"], columns="metric", values="value").reset_index()
        for name in (x, *y):
            if name not in table:
                known = ", ".join(sorted(map(str, own["metric"].unique())))
                raise UserError(f"expected a column that {method} logged ({known}), got '{name}'")
        for epoch, group in table.groupby("epoch"):
            for name in y:
                values = group[name].to_numpy()
                std = values.std(ddof=1) if len(values) > 1 else np.nan
                place = {"method": method, "panel": name, "epoch": epoch, "x": group[x].mean()}
                lines.append(place | {"mean": values.mean(), "std": std, "runs": len(values)})
    return pd.DataFrame(lines)
