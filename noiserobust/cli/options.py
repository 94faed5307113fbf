"""The flags that commands share, by the same names everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from noiserobust.cli.flags import Command, Groups
from noiserobust.cli.output import Part
from noiserobust.errors import UserError, printable
from noiserobust.evaluation.settings import Chips, Compute, Where

if TYPE_CHECKING:
    from noiserobust.evaluation.result import Result
    from noiserobust.page.live import LivePage
    from noiserobust.storage.checkpoints import Checkpoint
    from noiserobust.sweep import Executor, Piece

RARE: Groups = {
    "networks and data": ("model", "task", "images", "data_root", "image_size"),
    "chips": ("reads", "compensation", "converters", "ranges", "recalibration", "backend"),
    "which weights are analog": ("include", "exclude", "layers"),
    "inputs": ("mean", "std"),
    "computing": ("precision", "batch_size", "channels_last", "fold", "compile", "reuse"),
}
"""Groups of rare flags, where a command has them."""


@dataclass(frozen=True)
class Networks(Command):
    """A command about trained networks: which ones, on what device, and where its answer goes."""

    positional = ("checkpoints",)
    hidden: ClassVar[tuple[str, ...]] = ("reuse",)  # of use to studies of layers only
    rare = RARE
    study: ClassVar[str]
    """What the rows are of, in the name of their file."""

    checkpoints: tuple[str, ...] = ()
    """Runs' folders, folders of runs, or files of weights (.safetensors, .pt, .pth); LABEL=PATH gives a method another
    name."""
    seed: int = 0
    """Seed of all that is drawn at random."""
    images: int | None = None
    """Number of images: a random sample, stratified by class (default: all)."""
    task: str | None = None
    """What outputs mean: classification, tokens, regression, multilabel, binary, segmentation, or
    score:package.module:function (default: what the network was trained for)."""
    model: str | None = None
    """Network of checkpoints that do not name theirs, such as resnet18:width=16, or one of your own:
    package.module:function(depth=3), or factory:package.module:function."""
    compute: Compute = field(default_factory=Compute)
    out: Path | None = None
    """File for the rows (.parquet, .csv, .jsonl), kept and added to (default: named by command and data)."""
    plot: Path | None = None
    """File for the picture (.png, .pdf, .svg)."""
    table: Path | None = None
    """File for the table (.md, .csv, .tex)."""
    wide: Path | None = None
    """File for this answer's rows with a column per metric (.parquet, .csv, .jsonl)."""

    @cached_property
    def rows(self) -> Path:
        """Where the rows go: one file per command, data and task."""
        if self.out is not None:
            return self.out
        about = self._about()
        data, task = about.get("data", ""), self.task or ""
        words = [re.sub(r"[^\w.=]+", "-", str(word)).strip("-.")[-60:] for word in (self.study, data, task)]
        return Path("-".join(filter(None, words)) + ".parquet")

    @cached_property
    def found(self) -> list[Checkpoint]:
        """The checkpoints, read once, so that what there is to say of them is said once."""
        from noiserobust.storage.checkpoints import find_checkpoints

        return find_checkpoints(self.checkpoints)

    def _about(self) -> dict[str, Any]:
        """What the first checkpoint was trained with."""
        return dict(self.found[0].about.get("settings", {}))

    def options(self) -> dict[str, Any]:
        """The shared flags as the functions of :mod:`noiserobust.evaluation` take them."""
        if self.out is None and self.rows in (self.plot, self.table, self.wide):
            raise UserError(f"expected files of their own, got {self.rows}, where the rows go; name another or --out")
        names = ("model", "task", "images", "seed", "compute")
        shared = {"models": self.found, "out": self.rows, "progress": not self.quiet}
        return shared | {name: getattr(self, name) for name in names}

    def show(self, result: Result, **options: Any) -> Part:
        """The result's table, and where things are; files that were asked for are written."""
        shown = answer(result, self.table, self.plot, self.wide, table=options, plot=options)
        notes = [*shown.notes, *(f"inputs: {line}" for line in dict.fromkeys(result.inputs.values()))]
        values = {**shown.values, "inputs": result.inputs, "rows": self.rows}
        return replace(shown, notes=[*notes, f"rows: {self.rows}"], values=values)


@dataclass(frozen=True)
class OnData(Networks):
    """A command about networks on data that have a name."""

    data: str | None = None
    """Data: a name, an image folder or stream:FOLDER (default: what the first checkpoint was trained on)."""
    data_root: str | None = None
    """Where named data lie or are downloaded to (default: data)."""
    image_size: int | None = None
    """Resize the images of a folder to this many pixels a side."""
    where: Where = field(default_factory=Where)

    def _about(self) -> dict[str, Any]:
        return super()._about() if self.data is None else {"data": self.data}

    def options(self) -> dict[str, Any]:
        return super().options() | {"data": self._splits(), "where": self.where}

    def _splits(self) -> Any:
        if self.data is None:
            if (self.data_root, self.image_size) != (None, None):
                raise UserError("expected --data beside --data-root and --image-size, got none; name the data")
            return None
        from noiserobust.data import load

        return load(self.data, self.data_root or "data", self.image_size)


@dataclass(frozen=True)
class OnChips(OnData):
    """A command about networks on chips whose weights are noisy."""

    hidden: ClassVar[tuple[str, ...]] = ("calibration", "reuse")

    draws: int = 10
    """Noise draws (chips) per network."""
    chips: Chips = field(default_factory=Chips)

    def options(self) -> dict[str, Any]:
        texts: Any = self.chips.times  # a flag of several words
        times = [time for text in texts if text for time in str(text).split(",")]
        chips = replace(self.chips, times=times) if times else self.chips
        return super().options() | {"draws": self.draws, "chips": chips}


@dataclass(frozen=True)
class Workers:
    """Who computes the pieces of a grid."""

    executor: Literal["local", "ray"] = "local"
    """local: on this machine; ray: as tasks of a Ray cluster."""
    workers: int = 1
    """Pieces computed at once on this machine (executor local), in as many processes."""
    address: str | None = None
    """Address of the Ray cluster (auto: the one around this process; default: one on this machine)."""
    cpus: float = 1
    """CPU cores that one piece occupies, hence threads on which it computes: another number rounds otherwise."""
    gpus: float = 0
    """GPUs that one piece occupies on Ray, such as 0.25."""
    retries: int = 3
    """How often a piece whose machine dies is run again."""

    def chosen(self) -> Executor:
        from noiserobust.sweep import Local, OnRay

        ray = OnRay(self.address, self.cpus, self.gpus, self.retries)
        return ray if self.executor == "ray" else Local(self.workers, max(1, int(self.cpus)))


@contextmanager
def progress_of_pieces(quiet: bool) -> Iterator[Callable[[Piece, int, int], None]]:
    """A progress bar, as the function that is called for every finished piece."""
    from noiserobust.bars import Bar

    # No bar where the grid is refused; pieces are few, so that a line for each is not too much of a file either.
    with Bar(unit="piece", delay=0.1, mininterval=0.1, miniters=1, disable=quiet) as bar:

        def tell(piece: Piece, done: int, of: int) -> None:
            bar.total = of
            bar.set_description(printable(piece.name), refresh=False)
            bar.update(done - bar.n)  # a bar that is only refreshed ends without a new line

        yield tell


def live_page(path: Path) -> LivePage:
    """A page that is written as work goes on."""
    from noiserobust.page.live import LivePage

    return LivePage(path)


def swept(noises: Sequence[str], strengths: Sequence[float]) -> list[Any]:
    """Every noise at each of the strengths, where some are given."""
    if not strengths:
        return list(noises)
    from noiserobust.noise import NoiseModel

    models = [NoiseModel.parse(text) for text in noises]
    if not all(model.strength for model in models):
        raise UserError("expected a noise with a strength to sweep, got one of 0; write its unit, as in gaussian:1")
    return [model.scaled(strength / model.strength) for model in models for strength in strengths]


def answer(
    result: Result,
    table_file: Path | None,
    plot_file: Path | None,
    wide_file: Path | None = None,
    *,
    table: Mapping[str, Any] = MappingProxyType({}),
    plot: Mapping[str, Any] = MappingProxyType({}),
) -> Part:
    """A result's table as text and its summary as values; its files are written where they were asked for.

    ``table`` and ``plot`` are further arguments of the methods of these names.
    """
    from noiserobust.storage.files import write_text

    summary = result.summary(**{name: value for name, value in table.items() if name == "confidence"})
    if table_file is not None:
        if table_file.suffix.lower() == ".csv":
            text = summary.to_csv(index=False, lineterminator="\n")
        else:
            text = result.table(markdown=True, **table).rstrip() + "\n"
            from noiserobust.report.tex import as_tex

            text = as_tex(text) if table_file.suffix.lower() == ".tex" else text
        write_text(table_file, text)
    if plot_file is not None:
        result.plot(plot_file, **plot)
    if wide_file is not None:
        from noiserobust.storage.rows import write_rows

        write_rows(result.wide(), wide_file)
    files = {"table": table_file, "picture": plot_file, "wide rows": wide_file}
    notes = [f"{name}: {file}" for name, file in files.items() if file is not None]
    values: dict[str, Any] = {
        "summary": summary,
        "files": {name: file for name, file in files.items() if file is not None},
    }
    text = result.table(**table)
    if missing := result.nan_answers:
        values["nan_answers"] = missing
        notes = notes if missing in text else [*notes, missing]
    return Part(text, notes, values)
