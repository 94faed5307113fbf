"""A sweep: training runs for all combinations of settings, their evaluation, and one table of all rows."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from noiserobust.errors import UserError
from noiserobust.noise import NoiseModel
from noiserobust.spec import parse_value
from noiserobust.spec.kinds import typed
from noiserobust.storage.files import folder_to_write
from noiserobust.storage.rows import read_rows, write_rows
from noiserobust.sweep.executors import Executor, OnPiece, compute
from noiserobust.sweep.pieces import Evaluating, Training
from noiserobust.training import TrainSettings

SHARD = 10
"""Draws of one evaluation piece."""

ORDER = ["method", "model", "noise", "t", "compensation", "draw", "read", "metric"]
"""Rows lie in this order, whoever computed them and when."""


def runs_of(base: TrainSettings, vary: Mapping[str, Sequence[Any]], out: str | Path = "runs") -> list[Training]:
    """Every combination of the varied fields, the last one fastest; values may be texts, read by the field's type.

    >>> [piece.name for piece in runs_of(TrainSettings(), {"method": ["plain", "sam:0.2"], "seed": [0, 1]})][1:3]
    ['train plain seed 1', 'train sam:0.2 seed 0']
    """
    kinds = typing.get_type_hints(TrainSettings)
    for field, values in vary.items():
        if field not in kinds:
            raise UserError(f"expected a training setting to vary ({', '.join(kinds)}), got '{field}'")
        if isinstance(values, str) or not isinstance(values, Iterable) or not values:
            raise UserError(f"expected at least one value of {field} to vary, in a list, got {values or 'none'}")
    read = {field: [_read(field, value, kinds[field]) for value in values] for field, values in vary.items()}
    combinations = (dict(zip(read, values, strict=True)) for values in product(*read.values()))
    pieces = [Training(dataclasses.replace(base, **changes), Path(out)) for changes in combinations]
    return list(dict.fromkeys(pieces))


def _method(settings: TrainSettings, vary: Mapping[str, Sequence[Any]]) -> str:
    """The rule, and the other settings that are varied: ``plain, lr 0.1``."""
    values = settings.described()
    named = [name for name, given in vary.items() if len(given) > 1 and name not in ("method", "weight_clip", "seed")]
    return ", ".join([settings.label, *(f"{name.replace('_', ' ')} {values[name]}" for name in named)])


def _read(field: str, value: Any, kind: Any) -> Any:
    try:
        return parse_value(value, kind) if isinstance(value, str) else value
    except UserError as error:
        raise UserError(f"{field}: {error}") from None


def evaluations(
    runs: Sequence[Training],
    noises: Sequence[NoiseModel | str],
    draws: int,
    out: str | Path,
    options: Mapping[str, Any] | None = None,
    shard: int = SHARD,
) -> list[Evaluating]:
    """The draws of every run under every noise, cut into pieces of ``shard`` draws; draws are named, so any cut gives
    the same rows."""
    given = tuple(sorted((options or {}).items()))
    # Parsed here, so that one noise has one file of rows however it is spelled, and a wrong one is refused first.
    models = [NoiseModel.parse(noise) for noise in noises]
    return [
        Evaluating(run, noise, first, min(shard, draws - first), Path(out), given)
        for run, noise, first in product(runs, models, range(0, draws, shard))
    ]


@typed
def sweep(
    base: TrainSettings,
    vary: Mapping[str, Sequence[Any]],
    noises: Sequence[NoiseModel | str],
    draws: int = 10,
    out: str | Path = "sweep",
    *,
    options: Mapping[str, Any] | None = None,
    executor: Executor | None = None,
    shard: int = SHARD,
    on_piece: OnPiece | None = None,
) -> pd.DataFrame:
    """Train every run of the grid, evaluate it, and put all rows together as ``out/rows.parquet``.

    Runs lie in ``out/runs``, evaluated pieces in ``out/pieces``: what is there is not computed again, so the same call
    goes on where another one stopped, on whatever executor. ``on_piece(piece, done, of)`` is called for every
    finished one.
    """
    folder = folder_to_write(out)
    runs = runs_of(base, vary, folder / "runs")
    wanted = evaluations(runs, noises, draws, folder / "pieces", options, shard)
    for pieces in (runs, wanted):
        compute(pieces, executor, on_piece)
    rows = rows_of(wanted, runs, vary)
    write_rows(rows, folder / "rows.parquet")
    return rows


def rows_of(pieces: Sequence[Evaluating], runs: Sequence[Training], vary: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """The rows of those ``pieces`` that are done, named by their runs and what is varied."""
    done = [read_rows(piece.result) for piece in pieces if piece.result.is_file()]
    if not done:
        return pd.DataFrame()
    rows = pd.concat(done, ignore_index=True)
    # A path is a matter of the machine; the run's own name is not.
    rows["model"] = rows["model"].map(lambda path: Path(path).parent.name)
    # Runs that differ in more than their rule are different methods, and are called so.
    rows["method"] = rows["model"].map({run.result.parent.name: _method(run.settings, vary) for run in runs})
    return rows.sort_values(ORDER, ignore_index=True)
