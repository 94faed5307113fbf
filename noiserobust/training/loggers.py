"""What follows a training by epochs, beside ``log.csv``: TensorBoard, Weights & Biases, or an object of your own."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from noiserobust.errors import UserError, reason_of
from noiserobust.storage.files import file_to_write, folder_to_write, one_line_refusals
from noiserobust.storage.locks import locked
from noiserobust.training.runs import Run


@runtime_checkable
class Logger(Protocol):
    """Any object with these three methods is a logger. A run that is finished already calls none of them."""

    def start(self, settings: Mapping[str, Any]) -> None:
        """Before the first epoch: the run's settings as plain values, its ``label`` and its ``folder``."""

    def epoch(self, values: Mapping[str, Any]) -> None:
        """After every epoch: a line of ``log.csv``, by its columns. A run that goes on begins with a later epoch."""

    def end(self, result: Run | None) -> None:
        """At the end: the run, or None where it broke off."""


class CSV:
    """Appends every epoch to a CSV file, with the run's label and seed: several runs in one file.

    Each run's own epochs are in its ``log.csv`` anyway, without a logger.
    """

    def __init__(self, file: str | Path = "epochs.csv") -> None:
        self.file = Path(file)

    def start(self, settings: Mapping[str, Any]) -> None:
        self.run = {"label": settings["label"], "seed": settings["seed"]}
        file_to_write(self.file)

    def epoch(self, values: Mapping[str, Any]) -> None:
        line = self.run | dict(values)
        # Runs that are trained at once share the file: one writes the heading, and lines do not mix.
        with one_line_refusals(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.file), self.file.open("r+", newline="", encoding="utf-8") as file:
                columns = next(csv.reader(file), None)
                broken = file.seek(0, os.SEEK_END) and not _ends_line(self.file)  # by a process that was killed
                writer = csv.DictWriter(file, columns or list(line), extrasaction="ignore", lineterminator="\n")
                if broken:
                    file.write("\n")
                if columns is None:
                    writer.writeheader()
                writer.writerow(line)

    def end(self, result: Run | None) -> None:
        """Nothing is left to do: the file is closed after every line."""


class TensorBoard:
    """Scalars of every epoch for TensorBoard, by ``torch.utils.tensorboard``; ``tensorboard --logdir runs`` shows them.

    - ``folder``: of the event files (default: ``tensorboard`` in the run's folder).
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        _require("tensorboard", "pip install 'noiserobust[tensorboard]'")
        self.folder = folder
        self.writer: Any = None

    def start(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self.writer = None
        if self.folder is not None:
            folder_to_write(self.folder)

    def epoch(self, values: Mapping[str, Any]) -> None:
        step = int(values["epoch"])
        if self.writer is None:  # now that the first epoch is known: later ones of a run that was cut off are replaced
            from torch.utils.tensorboard import SummaryWriter

            run = Path(self.settings["folder"])
            folder = run / "tensorboard" if self.folder is None else Path(self.folder) / run.name
            self.writer = SummaryWriter(str(folder), purge_step=step)
            text = "\n".join(f"    {name}: {value}" for name, value in self.settings.items())
            self.writer.add_text("settings", text, step)
        for name, value in values.items():
            if name != "epoch" and isinstance(value, (int, float)) and math.isfinite(value):
                self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def end(self, result: Run | None) -> None:
        if self.writer is not None:
            self.writer.close()


class WandB:
    """Every epoch to Weights & Biases: a run of theirs per run, with its settings as config.

    - ``project``: theirs. What else ``wandb.init`` takes is in ``options``, such as ``mode="offline"``.
    """

    def __init__(self, project: str = "noiserobust", **options: Any) -> None:
        _require("wandb", "pip install wandb")
        self.options = {"project": project, "resume": "allow", **options}
        self.run: Any = None

    def start(self, settings: Mapping[str, Any]) -> None:
        name = Path(settings["folder"]).name
        self.run = import_module("wandb").init(name=name, id=name, config=dict(settings), **self.options)

    def epoch(self, values: Mapping[str, Any]) -> None:
        self.run.log(dict(values), step=int(values["epoch"]))

    def end(self, result: Run | None) -> None:
        if self.run is not None:
            self.run.finish(exit_code=1 if result is None else 0)


KNOWN: dict[str, Any] = {"csv": CSV, "tensorboard": TensorBoard, "wandb": WandB}
"""Loggers that have a name; what stands behind a colon is their first argument: ``csv:all.csv``, ``wandb:project``."""


def logger_of(logger: Logger | str) -> Logger:
    """A logger by its text: ``tensorboard``, ``csv:all.csv``, ``wandb:project``, ``package.module:Name``; or itself."""
    made: Any = logger
    if isinstance(logger, str):
        name, colon, rest = logger.partition(":")
        if name in KNOWN:
            return KNOWN[name](*([rest] if colon else []))
        if not rest:
            raise UserError(f"expected a logger ({', '.join(KNOWN)}, or package.module:Name), got '{logger}'")
        try:
            made = getattr(import_module(name), rest)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"expected a logger as package.module:Name, got '{logger}': {reason_of(error)}") from None
        made = made() if isinstance(made, type) else made
    missing = [name for name in ("start", "epoch", "end") if not callable(getattr(made, name, None))]
    if missing:
        raise UserError(f"expected a logger with start, epoch and end, got {type(made).__name__} without {missing[0]}")
    return cast("Logger", made)


class Loggers:
    """Several loggers as one; only the process that ``writes`` has any."""

    def __init__(self, given: Iterable[Logger | str] | Logger | str, writes: bool) -> None:
        several = [given] if isinstance(given, str) or not isinstance(given, Iterable) else given
        made = [logger_of(one) for one in several]
        self.all = made if writes else []

    @contextmanager
    def following(self, run: Run) -> Iterator[Loggers]:
        """Inside, ``run`` is trained: each is started before and ended after, also where the training breaks off."""
        about = run.settings.described() | {"label": run.label, "folder": str(run.folder)}
        result: list[Run | None] = [None]
        with ExitStack() as ends:
            for logger in self.all:
                ends.callback(_end, logger, result)
                logger.start(about)
            yield self
            result[0] = run

    def epoch(self, values: Mapping[str, Any]) -> None:
        for logger in self.all:
            logger.epoch(dict(values))


def _end(logger: Logger, result: list[Run | None]) -> None:
    logger.end(result[0])


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _require(module: str, remedy: str) -> None:
    if find_spec(module) is None:
        raise UserError(f"expected {module} for the logger of that name, got a Python without; {remedy}")
