"""Finished copies that outlive their machine: logs and rows in a folder, taken up in place of training once more.

The folder of a scale holds, per trained copy, ``<run>.csv``, its log, and ``<run>.parquet``, the rows of all that was
measured of it; and ``data.json``, what names the data that they were trained on. The package comes with those of the
papers' pages. Networks are not kept: what was not measured of a copy needs its training.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from noiserobust.data import Content
from noiserobust.errors import UserError
from noiserobust.limits import read_text_bytes
from noiserobust.papers.grid.bench import Bench
from noiserobust.papers.grid.estimate import here
from noiserobust.papers.grid.scale import unplaced
from noiserobust.papers.grid.step_time import StepTime
from noiserobust.spec.kinds import shortly
from noiserobust.storage.described import read_json, strict
from noiserobust.storage.files import folder_to_write, write_atomically, write_text
from noiserobust.storage.locks import alone
from noiserobust.storage.logs import read_log, require_log
from noiserobust.storage.rows import read_rows, write_rows
from noiserobust.sweep import Piece, Training
from noiserobust.sweep.pieces import Measurement

FOLDER = Path(__file__).parent.parent / "finished"
"""Finished copies that come with the package, a folder per scale."""
_PIECE = re.compile(r"[0-9a-f]{16}")
"""What a piece may be called: it becomes the name of a file, and a folder of somebody else's says it."""


def missing(pieces: Iterable[Piece]) -> list[Piece]:
    """What of ``pieces`` is still to be done, each once.

    A training is not, where its log is here and all that is measured of it among ``pieces`` is done, too.
    """
    open_ = [piece for piece in dict.fromkeys(pieces) if not here(piece)]
    needed = {_network_of(piece) for piece in open_}
    return [piece for piece in open_ if not isinstance(piece, Training) or piece in needed or not _logged(piece)]


def complete(bench: Bench, pieces: Callable[[Bench], Iterable[Piece]]) -> Bench | None:
    """``bench`` with those of its copies of whose ``pieces`` nothing is :func:`missing`; None if there are none."""
    seeds = [seed for seed in bench.seeds if not missing(pieces(bench.with_copies([seed])))]
    found = bench.with_copies(seeds)
    return found if seeds and not missing(pieces(found)) else None


def _network_of(piece: Piece) -> Training | None:
    """The training whose network ``piece`` looks at."""
    return getattr(piece, "trained", None) if getattr(piece, "of_weights", True) else None


def _logged(piece: Training) -> bool:
    """Whether the log of a finished training is here."""
    if not piece.nameable:
        return False
    try:
        folder = piece.result.parent
        epochs = len(read_log(folder)) if (folder / "log.csv").is_file() else 0
    except UserError:  # it is damaged, or its data are not here and nothing says what they were
        return False
    return epochs == piece.settings.epochs and not (folder / "resume.pt").is_file()


def contents(folder: Path) -> Mapping[str, Content]:
    """What names the data that the copies in ``folder`` were trained on, by their text."""
    path = folder / "data.json"
    if not path.exists():
        return {}
    what = "what names the data of finished copies"
    try:
        text = read_text_bytes(path, what).decode()
    except UnicodeDecodeError:
        raise UserError(f"expected {what}, got {path}, which is no text; take another copy") from None
    stored = read_json(text, f"{what} ({path})")
    if not isinstance(stored, dict):
        raise UserError(f"expected {what} by name, got {path}, which does not say it")
    return {text: _content(strict(_Stored, one, f"'{text}' in {path}")) for text, one in stored.items()}


@dataclasses.dataclass(frozen=True)
class _Stored:
    """:class:`~noiserobust.data.Content` as it stands in the file."""

    fingerprints: list[str]
    mean: list[float]
    std: list[float]
    crop: int
    flip: bool


def _content(stored: Mapping[str, Any]) -> Content:
    fingerprints, mean, std = (tuple(stored[name]) for name in ("fingerprints", "mean", "std"))
    return Content(fingerprints, mean, std, stored["crop"], stored["flip"])


def take_up(bench: Bench, folder: Path) -> None:
    """Lay the copies in ``folder`` into the bench's own, as if they had been trained and measured there.

    Their names become names of files: :class:`~noiserobust.UserError` for those that no piece of ours has, and for logs
    and rows that are none.
    """
    for log in sorted(folder.glob("*.csv")):
        require_log(log)
        for name, rows in _pieces(log.with_suffix(".parquet")):  # a copy that is here may have been measured further
            if not (path := bench.pieces / f"{name}.parquet").is_file():
                write_rows(rows.drop(columns="piece").dropna(axis=1, how="all"), path)
        # Last, since it says that the copy is here.
        if not (place := bench.folder / "runs" / log.stem / "log.csv").is_file():
            write_atomically(place, partial(shutil.copyfile, log))


def _pieces(path: Path) -> list[tuple[str, pd.DataFrame]]:
    """The rows of a finished copy by the name of the piece that measured them."""
    rows = read_rows(path)
    missing = [name for name in ("piece", "metric", "value") if name not in rows]
    if missing:
        raise UserError(f"expected the rows of a finished copy, got {path} without {', '.join(missing)}")
    for name in rows["piece"].unique():
        if not isinstance(name, str) or not _PIECE.fullmatch(name):
            raise UserError(
                f"expected 16 hex digits as the name of every piece in {path}, got {shortly(name)}; take another copy"
            )
    return [(str(name), part) for name, part in rows.groupby("piece")]


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
    folder_to_write(folder)
    with alone(folder / ".lock", f"keeping copies in {folder}"):
        return _keep(measured, folder)


def _keep(measured: Mapping[Training, list[Measurement]], folder: Path) -> int:
    texts = dict(contents(folder))
    kept = 0
    for training, found in measured.items():
        if not found or not _logged(training):
            continue
        run = training.result.parent
        rows = [_named(read_rows(piece.result)).assign(piece=piece.result.stem) for piece in found]
        path, new = folder / f"{run.name}.parquet", {piece.result.stem for piece in found}
        if path.is_file():  # with what was measured for other tables
            rows += [part for name, part in _pieces(path) if name not in new]
        write_rows(pd.concat(rows, ignore_index=True), path)
        write_atomically(folder / f"{run.name}.csv", partial(shutil.copyfile, run / "log.csv"))
        texts[unplaced(training.settings.data)] = training.content
        kept += 1
    if kept:
        stored = {text: dataclasses.asdict(content) for text, content in sorted(texts.items())}
        write_text(folder / "data.json", json.dumps(stored, indent=1) + "\n")
    return kept
