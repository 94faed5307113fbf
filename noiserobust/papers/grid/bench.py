"""The folder of a scale: where its runs and pieces lie, and how many trained copies of a run there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from noiserobust.data import Content
from noiserobust.errors import UserError
from noiserobust.minima import Measure
from noiserobust.papers.grid.scale import Scale
from noiserobust.storage.logs import read_log
from noiserobust.sweep import Training
from noiserobust.training import TrainSettings

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Bench:
    """The folder of a scale. A run that several artefacts share lies there once, with the log that all of them want.

    ``logged``: what is logged of each run (:func:`with_logs`); a run that is not in it is logged as it says itself.
    ``contents``: what names data that need not be on this machine, by their text.
    ``copies``: seeds of the trained copies (default: as many as the scale has, from 0 on).
    """

    scale: Scale
    folder: Path
    logged: Mapping[TrainSettings, TrainSettings] = dataclasses.field(default_factory=dict)
    contents: Mapping[str, Content] = dataclasses.field(default_factory=dict)
    copies: tuple[int, ...] | None = None

    @property
    def seeds(self) -> Sequence[int]:
        return range(self.scale.seeds) if self.copies is None else self.copies

    def with_seeds(self, count: int) -> Bench:
        """The same with so many trained copies of every run."""
        return dataclasses.replace(self, scale=dataclasses.replace(self.scale, seeds=count), copies=None)

    def with_copies(self, seeds: Sequence[int]) -> Bench:
        """The same with the copies of these seeds."""
        return dataclasses.replace(self.with_seeds(len(seeds)), copies=tuple(seeds))

    def training(self, run: TrainSettings, seed: int) -> Training:
        """The piece that trains the copy ``seed`` of ``run``."""
        bare = unlogged(run)
        return Training(
            dataclasses.replace(self.logged.get(bare, run), seed=seed),
            self.folder / "runs",
            self.contents.get(run.data),
        )

    def log(self, run: TrainSettings, seed: int, columns: Sequence[str]) -> pd.DataFrame:
        """What the finished copy logged, a line per epoch; refused where it lacks one of ``columns``."""
        folder = self.training(run, seed).result.parent
        log = read_log(folder)
        if missing := [column for column in columns if column not in log]:
            raise UserError(
                f"expected {', '.join(missing)} in the log of {folder}, which was trained before that was asked for; "
                "remove the folder to train it again"
            )
        return log

    @property
    def pieces(self) -> Path:
        """Folder of everything that is measured of finished runs."""
        return self.folder / "pieces"


def unlogged(run: TrainSettings) -> TrainSettings:
    """``run`` without a log: what names its weights."""
    return dataclasses.replace(run, log=(), log_on=("train",), log_images=1000, log_every=1, seed=0)


def with_logs(runs: Iterable[TrainSettings], images: int, every: int = 1) -> dict[TrainSettings, TrainSettings]:
    """Every run by its bare settings, with all that any of ``runs`` wants logged of it, on ``images`` images,
    in every ``every``-th epoch.

    A log changes no weights, but a finished run cannot be logged afterwards: so runs that artefacts share are trained
    with the logs of all.
    """
    wanted: dict[TrainSettings, tuple[dict[Measure, None], dict[Part, None]]] = {}
    for run in runs:
        measures, on = wanted.setdefault(unlogged(run), ({}, {}))
        measures |= dict.fromkeys(run.log)
        if run.log:
            on |= dict.fromkeys(run.log_on)
    return {
        bare: dataclasses.replace(bare, log=tuple(measures), log_on=tuple(on), log_images=images, log_every=every)
        if measures
        else bare
        for bare, (measures, on) in wanted.items()
    }
