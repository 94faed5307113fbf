"""What a page is made of: result rows by what they are about, and the runs behind them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from noiserobust.errors import UserError
from noiserobust.evaluation.labels import told_apart
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.storage.stored import chosen, require_alike, stored, together
from noiserobust.training import Run, load_run
from noiserobust.training.runs import names_code

log = logging.getLogger("noiserobust")

ALONE, SPARED = re.compile(r"(\+\S+ )+-\*"), re.compile(r"(-\S+ ?)+")
"""What the column ``analog`` says of a network in which noise is on a few layers alone, and in which it is not."""


@dataclass(frozen=True)
class Results:
    """Rows of whole networks, rows of studies of single layers, and runs that were trained."""

    rows: pd.DataFrame
    layers: pd.DataFrame
    runs: list[Run]
    ongoing: list[Run] = field(default_factory=list)
    """Runs that are being trained, of which there is a log alone."""

    @classmethod
    def read(cls, places: Sequence[str | Path], where: str | None = None, model: str | None = None) -> Results:
        """What files of rows, runs' folders and folders of runs hold, with the runs that rows name, where they lie.

        Of rows those are taken of which the condition ``where`` holds; ``model`` is that of :func:`runs_in`.
        """
        tables: dict[bool, list[pd.DataFrame]] = {True: [], False: []}
        folders = []
        for place in map(Path, places):
            if place.is_dir():
                inside = [file.parent for file in sorted(place.glob("**/model.safetensors"))]
                if not inside:
                    raise UserError(f"expected rows or finished runs, got the folder {place} without any")
                folders += inside
            else:
                rows = stored(place)
                tables[bool(of_layers(rows).any())].append(rows)
        # A study of layers has rows of whole networks, too, on images of its own.
        layers, whole = (
            chosen(together(tables[kind]), where) if tables[kind] else pd.DataFrame() for kind in (True, False)
        )
        if whole.empty and len(layers):
            whole = layers[~of_layers(layers)]
        for rows in filter(len, (whole, layers)):
            require_alike(rows[~of_layers(rows)])
        for rows in (whole, layers):
            named = [Path(str(model)).parent for model in rows["model"].unique()] if len(rows) else []
            folders += [folder for folder in named if (folder / "model.safetensors").is_file()]
        unique = list({folder.resolve(): folder for folder in folders}.values())
        return cls(whole, layers, runs_in(unique, model))

    @classmethod
    def of_runs(cls, finished: Sequence[Run], ongoing: Sequence[Run] = (), rows: pd.DataFrame | None = None) -> Results:
        """Runs and, where there are any, ``rows``."""
        return cls(pd.DataFrame() if rows is None else rows, pd.DataFrame(), list(finished), list(ongoing))

    @property
    def methods(self) -> list[str]:
        """Methods in order of appearance: their colours on the whole page."""
        names = [name for rows in (self.rows, self.layers) if len(rows) for name in rows["method"].unique()]
        return list(dict.fromkeys([*names, *self._labels.values()]))

    def label(self, run: Run) -> str:
        """What a run of these is called: as its rows call it, else with the settings that tell it from the others."""
        return self._labels[run.folder.resolve()]

    @cached_property
    def _labels(self) -> dict[Path, str]:
        runs = [*self.runs, *self.ongoing]
        told = told_apart([{"label": run.label, "settings": run.settings.described()} for run in runs])
        tables = [rows[["model", "method"]].drop_duplicates() for rows in (self.rows, self.layers) if len(rows)]
        named = {
            Path(str(m)).parent.resolve(): str(name) for rows in tables for m, name in rows.itertuples(index=False)
        }
        places = [run.folder.resolve() for run in runs]
        return {place: named.get(place, own) for place, own in zip(places, told, strict=True)}


def of_layers(rows: pd.DataFrame) -> pd.Series[bool]:
    """Which rows a study of layers alone could have made: its pairs with noise on a layer, and on all but it."""
    text = rows["analog"].fillna("") if "analog" in rows else pd.Series("", rows.index)
    alone = {frozenset(names_of(one)) for one in text.unique() if ALONE.fullmatch(one)}
    spared = {frozenset(names_of(one)) for one in text.unique() if SPARED.fullmatch(one)}
    layers = alone & spared
    return text.map(lambda one: one != "" and frozenset(names_of(one)) in layers).astype(bool)


def names_of(analog: str) -> list[str]:
    """The layers that the column ``analog`` names, ``*`` left out."""
    return sorted(word[1:] for word in analog.split() if word != "-*")


def runs_in(folders: Sequence[Path], model: str | None = None) -> list[Run]:
    """The runs in these folders. Those whose network is somebody's code are left out, unless ``model`` names it."""
    runs, left_out = [], dict[str, list[str]]()
    for folder in folders:
        settings = read_checkpoint(folder).about.get("settings") if (folder / "log.csv").is_file() else None
        if settings is not None:
            named = str(settings.get("model"))
            try:
                runs.append(load_run(folder, model if model == named else None))
            except UserError as error:
                left_out.setdefault(named, []).append(str(error))
    for named, errors in left_out.items():
        remedy = f" (--model {named} shows own networks)" if names_code(named) and model != named else ""
        log.warning("%s not on the page%s: %s", _runs(len(errors)), remedy, errors[0])
    return runs


def _runs(number: int) -> str:
    return "a run is" if number == 1 else f"{number} runs are"
