"""Finished copies that outlive their machine: logs and rows in a folder, taken up in place of training once more.

The folder of a scale holds, per trained copy, ``<run>.csv``, its log, and ``<run>.parquet``, the rows of all that was
measured of it; and ``data.json``, what names the data that they were trained on. The package comes with those of the
papers' pages. Networks are not kept: what was not measured of a copy needs its training.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd

from noiserobust.data import Content
from noiserobust.errors import UserError
from noiserobust.papers.grid.bench import Bench
from noiserobust.papers.grid.estimate import here
from noiserobust.papers.grid.scale import unplaced
from noiserobust.papers.grid.step_time import StepTime
from noiserobust.storage.files import write_atomically
from noiserobust.storage.logs import read_log
from noiserobust.storage.rows import read_rows, write_rows
from noiserobust.sweep import Piece, Training
from noiserobust.sweep.pieces import Measurement

FOLDER = Path(__file__).parent.parent / "finished"
"""Finished copies that come with the package, a folder per scale."""


def missing(pieces: Iterable[Piece]) -> list[Piece]:
    """What of ``pieces`` is still to be done, each once.

    A training is not, where its log is here and all that is measured of it among ``pieces`` is done, too.
    """
    open_ = [piece for piece in dict.fromkeys(pieces) if not here(piece)]
    needed = {_network_of(piece) for piece in open_}
    return [piece for piece in open_ if not isinstance(piece, Training) or piece in needed or not _logged(piece)]


def _network_of(piece: Piece) -> Training | None:
    """The training whose network ``piece`` looks at."""
    return getattr(piece, "trained", None) if getattr(piece, "of_weights", True) else None


def _logged(piece: Training) -> bool:
    """Whether the log of a finished training is here."""
    try:
        folder = piece.result.parent
        epochs = len(read_log(folder)) if (folder / "log.csv").is_file() else 0
    except UserError:  # it is damaged, or its data are not here and nothing says what they were
        return False
    return epochs == piece.settings.epochs and not (folder / "resume.pt").is_file()


def contents(folder: Path) -> Mapping[str, Content]:
    """What names the data that the copies in ``folder`` were trained on, by their text."""
    path = folder / "data.json"
    if not path.is_file():
        return {}
    try:
        stored = json.loads(path.read_text())
        return {text: _content(**one) for text, one in stored.items()}
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"expected what names the data of finished copies, got {path}, which does not say it") from None


def _content(fingerprints: list[str], mean: list[float], std: list[float], crop: int, flip: bool) -> Content:
    return Content(tuple(fingerprints), tuple(mean), tuple(std), crop, flip)


def take_up(bench: Bench, folder: Path) -> None:
    """Lay the copies in ``folder`` into the bench's own, as if they had been trained and measured there."""
    for log in sorted(folder.glob("*.csv")):
        place = bench.folder / "runs" / log.stem / "log.csv"
        if place.is_file():
            continue
        for name, rows in read_rows(log.with_suffix(".parquet")).groupby("piece"):
            if not (path := bench.pieces / f"{name}.parquet").is_file():
                write_rows(rows.drop(columns="piece").dropna(axis=1, how="all"), path)
        # Last, since it says that the copy is here.
        write_atomically(place, partial(shutil.copyfile, log))


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` whose models are called by their run: where they lie is a matter of the machine."""
    if "model" not in rows:
        return rows
    return rows.assign(model=[f"runs/{Path(path).parent.name}/{Path(path).name}" for path in rows["model"].astype(str)])


def keep(bench: Bench, pieces: Iterable[Piece], folder: Path) -> int:
    """Write the finished copies among ``pieces`` into ``folder``; how many there are. Times are left out: they are
    this machine's."""
    measured: dict[Training, list[Measurement]] = {}
    for piece in dict.fromkeys(pieces):
        if isinstance(piece, Training) and _logged(piece):
            measured.setdefault(piece, [])
        elif isinstance(piece, Measurement) and not isinstance(piece, StepTime) and here(piece):
            measured.setdefault(piece.trained, []).append(piece)  # type: ignore[attr-defined]
    texts = dict(contents(folder))
    kept = 0
    for training, found in measured.items():
        if not found or not _logged(training):
            continue
        run = training.result.parent
        rows = [_named(read_rows(piece.result)).assign(piece=piece.result.stem) for piece in found]
        path, new = folder / f"{run.name}.parquet", {piece.result.stem for piece in found}
        if path.is_file():  # with what was measured for other tables
            before = read_rows(path)
            rows.append(before[~before["piece"].isin(new)])
        write_rows(pd.concat(rows, ignore_index=True), path)
        shutil.copyfile(run / "log.csv", folder / f"{run.name}.csv")
        texts[unplaced(training.settings.data)] = training.content
        kept += 1
    if kept:
        stored = {text: dataclasses.asdict(content) for text, content in sorted(texts.items())}
        text = json.dumps(stored, indent=1) + "\n"
        write_atomically(folder / "data.json", lambda temporary: temporary.write_text(text))
    return kept
