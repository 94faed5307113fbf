"""Evaluation rows as arrays ``values[model, draw]``, one per cell, and the refusal of tables that are none."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd

from noiserobust.errors import UserError
from noiserobust.evaluation.statistics.components import Design
from noiserobust.storage.rows import OPERATION, completed
from noiserobust.storage.stored import told_apart
from noiserobust.tasks.counts import NAN_ANSWERS

CELL = ["method", "noise", "strength", "t", *OPERATION, "metric"]
"""The columns whose rows are summarised together, to one line."""
MODEL = ["model", "replicate"]
"""The columns that name a trained copy within its method."""
NAMES_OF_DRAWS = ("seed", "semantics", "device")
"""Columns, where there are any, in which draws of one number must agree to be the same noise."""


def by_draw(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per (cell, model, replicate, draw): the mean over the draw's reads, NaN if one of them is.

    Counts of answers that are no numbers, which only draws with any have, are left out.
    """
    rows = require_rows(rows)
    rows = rows[rows["metric"] != NAN_ANSWERS]
    unit = [*CELL, *MODEL, "draw"]
    groups = rows.assign(invalid=rows["value"].isna()).groupby(unit, sort=False, dropna=False, observed=True)
    names = {name: (name, "first") for name in NAMES_OF_DRAWS if name in rows}
    draws = groups.agg(
        value=("value", "mean"), invalid=("invalid", "any"), reads=("read", "size"), **names
    ).reset_index()
    # pandas leaves NaN out of a mean; a diverged evaluation must show instead.
    draws.loc[draws["invalid"], "value"] = np.nan
    spread = draws.groupby(CELL, sort=False, dropna=False, observed=True)["reads"].transform("max")
    short = draws[draws["reads"] < spread]
    if len(short):
        first, expected = short.iloc[0], spread[short.index[0]]
        raise UserError(
            f"expected {expected} reads of every draw of {place(first)}, got {first['reads']} for draw "
            f"{first['draw']} of {first['model']}; evaluate the missing reads or drop that draw"
        )
    return draws


def cells(draws: pd.DataFrame, design: Design) -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
    """Each cell of :func:`by_draw`'s table with its ``values[model, draw]``, in order of first appearance.

    In the crossed design a column of ``values`` is one draw; in the nested one the order of a model's draws is moot.
    Raises :class:`UserError` when a model lacks draws that another one of its method has.
    """
    models: dict[Any, pd.DataFrame] = {}
    positions = pd.Series(0, draws.index)
    for method, block in draws.groupby("method", observed=True):
        models[method] = _copies(block, method, design)
        positions[block.index] = block.groupby(MODEL, sort=False, dropna=False, observed=True).ngroup()
    for key, cell in draws.groupby(CELL, sort=False, dropna=False, observed=True):
        names, owner = models[key[0]], positions[cell.index].to_numpy()
        column = pd.factorize(cell["draw"])[0] if design == "crossed" else cell.groupby(owner).cumcount().to_numpy()
        present = np.zeros((len(names), column.max() + 1), dtype=bool)
        present[owner, column] = True
        if not present.all():
            raise UserError(_unbalanced(cell, names, present, design))
        yield key, cell["value"].to_numpy(float)[np.lexsort((column, owner))].reshape(present.shape)


def one_model_per_replicate(draws: pd.DataFrame, design: Design) -> pd.DataFrame:
    """``draws`` itself; UserError when a method has two models on one replicate."""
    models = draws.drop_duplicates(["method", *MODEL])
    shared = models[models.duplicated(["method", "replicate"], keep=False)]
    if len(shared):
        first, second = shared[
            (shared["method"] == shared["method"].iloc[0]) & (shared["replicate"] == shared["replicate"].iloc[0])
        ]["model"].iloc[:2]
        remedy = ": they share noise draws; give each trained copy its own replicate, or each its own method label"
        if design == "nested":
            remedy += ", or analyse the design as crossed"
        raise UserError(
            f"expected one model per replicate of a method, got {first} and {second} both as replicate "
            f"{shared['replicate'].iloc[0]} of {shared['method'].iloc[0]}{remedy}"
        )
    return draws


def require_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with every column of :data:`OPERATION`; UserError when a column is missing, a value there twice, or
    draws of one noise have two meanings."""
    rows = completed(rows)
    missing = [name for name in [*CELL, *MODEL, "draw", "read", "value"] if name not in rows]
    if missing:
        raise UserError(f"expected evaluation rows, got a table without {', '.join(missing)}; read one with read_rows")
    if rows.empty:
        raise UserError("expected at least one evaluation row, got none; evaluate a checkpoint first")
    unit = [*CELL, *MODEL, "draw", "read"]
    doubled = rows.duplicated(unit)
    if doubled.any():
        first = rows[doubled].iloc[0]
        twins = rows[(rows[unit].eq(first[unit]) | (rows[unit].isna() & first[unit].isna())).all(axis=1)]
        remedy = told_apart(twins) or f"drop the {doubled.sum()} doubled rows"
        raise UserError(
            f"expected one value per (model, noise, draw, read, t, metric), got several for {first['model']}, "
            f"{place(first)}, draw {first['draw']}, read {first['read']}; {remedy}"
        )
    if "semantics" in rows and rows["semantics"].nunique() > 1:
        versions = rows.groupby([*CELL, *MODEL], dropna=False, observed=True)["semantics"]
        mixed = rows[versions.transform("nunique") > 1]
        if len(mixed):
            first = mixed.iloc[0]
            raise UserError(
                f"expected draws of one meaning, got those of two versions for {first['model']}, {place(first)}; "
                + told_apart(mixed[["semantics"]])
            )
    return rows


def require_one_of(rows: pd.DataFrame, column: str, wanted: str) -> None:
    known = [str(value) for value in rows[column].unique()]
    if wanted not in known:
        near = get_close_matches(wanted, known, 1)
        end = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(f"expected a {column} of the table ({', '.join(map(repr, known))}), got '{wanted}'{end}")


def place(row: pd.Series[Any]) -> str:
    """A cell in words for an error: noise, time where there is one, metric."""
    time = "" if pd.isna(row["t"]) else f" at t={row['t']:g} s"
    return f"{row['noise']}{time} ({row['metric']})"


def _copies(block: pd.DataFrame, method: Any, design: Design) -> pd.DataFrame:
    """The trained copies of one method: (model, replicate), one row each."""
    names = block[MODEL].drop_duplicates(ignore_index=True)
    if design == "nested":
        one_model_per_replicate(block, design)
    elif 1 < names["replicate"].nunique() < len(names):
        raise UserError(
            f"expected a replicate of its own for every model of {method}, or one replicate for all, in the crossed "
            f"design, got {len(names)} models on {names['replicate'].nunique()} replicates; number the copies"
        )
    return names


def _unbalanced(cell: pd.DataFrame, names: pd.DataFrame, present: np.ndarray, design: Design) -> str:
    """Which model lacks what, in one line."""
    counts = present.sum(axis=1)
    most, least = counts.argmax(), counts.argmin()
    what, method = place(cell.iloc[0]), cell["method"].iloc[0]
    remedy = "evaluate the missing draws or drop one"
    if design == "crossed":
        lacking = cell["draw"].unique()[present[least].argmin()]
        return (
            f"expected the same draws of {what} for every model of {method} in the crossed design, got none named "
            f"{lacking} for {names['model'][least]} (replicate {names['replicate'][least]}); {remedy}"
        )
    return (
        f"expected as many draws of {what} for every model of {method}, got {counts[most]} for "
        f"replicate {names['replicate'][most]} but {counts[least]} for replicate {names['replicate'][least]}; {remedy}"
    )
