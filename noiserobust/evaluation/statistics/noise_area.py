"""Area under the accuracy-noise curve: one number per chip to compare methods by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

from noiserobust.errors import UserError
from noiserobust.evaluation.statistics.cells import MODEL, require_one_of, require_rows
from noiserobust.minima.labels import without_strength
from noiserobust.report.leading import leading
from noiserobust.storage.rows import OPERATION, noise_free

CHIP = ["method", *MODEL, "draw", "read", "t", *OPERATION]
"""A sweep scales one draw: its rows agree in these columns and differ in strength."""


def area(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the metric ``area``, one per (model, draw, read, t) and swept noise, from rows of accuracy (or of their
    task's metric):

        area = integral of accuracy(s) ds / (s_max - s_min),    s from s_min to s_max, by the trapezoid rule

    over the strengths s that were evaluated: the mean accuracy (%) over the range, so that an area can be read, and
    two compared, in points. A strength sweep scales one and the same draw, so every chip has an area: noise and
    weight uncertainty, intervals and paired differences are those of any metric (``summarize(area(rows))``).

    ``noise`` becomes its text without the swept number, and the range (``gaussian, strength 0 to 0.3``), ``strength``
    NaN; the other columns are those of the rows. Noise-free rows (``none``) are strength 0 of every noise. Noises at a
    single strength are left out; so is a composition, whose text keeps a number that the sweep scales.

    Raises :class:`UserError` when chips (of the same or of different methods) were evaluated at different strengths
    of a noise: their areas could not be compared; and when no noise has two strengths.
    """
    rows = require_rows(rows)
    metric = leading(rows)
    require_one_of(rows, "metric", metric)
    rows = rows[rows["metric"] == metric]
    noises = rows[["noise", "strength"]].drop_duplicates()
    names = {key: without_strength(*key) for key in noises.itertuples(index=False, name=None)}
    keys = zip(rows["noise"], rows["strength"], strict=True)
    name = pd.Series([names[key] for key in keys], rows.index, dtype=object)
    everywhere = noise_free(rows) & (name == rows["noise"])
    swept = [_areas(rows[name == one], rows[everywhere], one) for one in name[~everywhere].unique()]
    areas = pd.concat(swept, ignore_index=True) if swept else rows.iloc[:0]
    if areas.empty:
        raise UserError(
            f"expected a noise at two or more strengths, got {', '.join(map(str, noises['noise']))}; "
            "evaluate a sweep of strengths"
        )
    return areas


def _areas(block: pd.DataFrame, clean: pd.DataFrame, name: str) -> pd.DataFrame:
    """The areas of one noise, none when it has a single strength."""
    if not (block["strength"] == 0).any():
        block = pd.concat([block, _at_every_draw(clean, block)])
    block = block.sort_values("strength", kind="stable")
    chips = block.groupby(CHIP, dropna=False, sort=False, observed=True)
    sweeps = chips.agg(strengths=("strength", tuple), values=("value", tuple)).reset_index()
    different = sweeps.drop_duplicates("strengths")
    if len(different) > 1:
        (one, other) = ((row, _range(row["strengths"])) for _, row in different.iloc[:2].iterrows())
        raise UserError(
            f"expected the same strengths of {name} for every model and draw, got {one[1]} for {_chip(one[0])} but "
            f"{other[1]} for {_chip(other[0])}; evaluate the missing ones, or leave those of one out"
        )
    strengths = np.array(different["strengths"].iloc[0])
    if len(strengths) < 2:
        return block.iloc[:0]
    integral = trapezoid(np.array(sweeps["values"].tolist(), dtype=float), strengths, axis=1)
    text = f"{name}, strength {strengths[0]:g} to {strengths[-1]:g}"
    areas = block.drop_duplicates(CHIP).assign(noise=text, strength=np.nan, metric="area")
    # Both are in order of the chips' first appearance.
    return areas.assign(value=integral / (strengths[-1] - strengths[0]))


def _at_every_draw(clean: pd.DataFrame, block: pd.DataFrame) -> pd.DataFrame:
    """A model's noise-free value, which is the same for all draws and times, for each of the chips of ``block``."""
    known = clean.drop_duplicates(["method", *MODEL, *OPERATION])[["method", *MODEL, *OPERATION, "strength", "value"]]
    return (
        block.drop_duplicates(CHIP).drop(columns=["strength", "value"]).merge(known, on=["method", *MODEL, *OPERATION])
    )


def _range(strengths: tuple[Any, ...]) -> str:
    return ", ".join(f"{strength:g}" for strength in strengths)


def _chip(row: pd.Series[Any]) -> str:
    time = "" if pd.isna(row["t"]) else f", t={row['t']:g} s"
    return f"{row['method']} ({row['model']}, draw {row['draw']}{time})"
