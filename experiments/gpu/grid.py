"""The incorruptible paper's runs at full width on 500 images a class, several at once, most decisive first.

Runs, evaluations and their names are those of ``noiserobust reproduce incorruptible --scale small --device cuda``. What
is finished lies afterwards in ``OUT/finished.tar.gz``, logs and rows without networks; unpacked into a folder, its
``--finished FOLDER`` takes it up anywhere.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from experiments.gpu import crowd
from experiments.gpu.images import Decoded, decode
from experiments.gpu.rows import Options, OutOfTimeError, Rows
from noiserobust.data.subset import Subset
from noiserobust.papers import PAPERS
from noiserobust.papers import incorruptible as inc
from noiserobust.papers.grid import Bench, Grid, Scale, grid_of
from noiserobust.papers.grid.finished import keep
from noiserobust.papers.grid.plan import logs_of
from noiserobust.papers.grid.quantity import Accuracy
from noiserobust.papers.grid.scale import REGIME, SETS, SMALL_GPU
from noiserobust.storage.rows import read_rows
from noiserobust.sweep import Local, Piece
from noiserobust.training import TrainSettings


def runs(at: Grid) -> dict[str, TrainSettings]:
    """Rows of tables 1 to 3 of the paper, those that decide its claims first."""
    return {
        "SGD": inc.plain(at),
        "RWP sigma 0.08": inc.rwp(at, 0.08),
        "Quadratic RWP": inc.ramped_rwp(at, "Quadratic"),
        "SAM rho 0.2": inc.sam(at, 0.2),
        "Quadratic SAM": inc.ramped_sam(at, "Quadratic"),
        "RWP sigma 0.05": inc.rwp(at, 0.05),
        "SAM rho 0.3": inc.sam(at, 0.3),
        "Linear RWP": inc.ramped_rwp(at, "Linear"),
        "Off-to-On RWP": inc.ramped_rwp(at, "Off-to-On"),
        "RWP sigma 0.03": inc.rwp(at, 0.03),
        "SAM rho 0.5": inc.sam(at, 0.5),
    }


def scale_of(options: Options) -> Scale:
    """The scale ``small`` on a GPU, its images read from those that were decoded."""
    images = Decoded(str(Path(options.work) / "images"))
    data = replace(Subset.parse(REGIME), of=images)
    scale = replace(SMALL_GPU, seeds=options.seeds)
    if options.tiny:
        assert scale.recipe is not None
        data = replace(data, per_class=8, validation=2)
        recipe = replace(scale.recipe, epochs=1, precision="fp32")
        networks = dict.fromkeys(scale.networks, "digits:4")
        scale = replace(scale, recipe=recipe, networks=networks, draws=2, seeds=1)
    return replace(scale, data=dict.fromkeys(SETS, str(data)))


@cache
def bench_of(options: Options) -> tuple[Grid, Bench]:
    """The paper at that scale; its runs are logged for all tables and figures, as ``reproduce`` logs them."""
    scale, place = scale_of(options), {"device": options.device}
    data = scale.data[SETS[0]]
    # What is logged follows from all papers, which know the size of data by their name.
    named = replace(scale, data=dict.fromkeys(SETS, REGIME))
    logs = logs_of({paper: grid_of(paper, named, place) for paper in PAPERS}, named)
    ours = {replace(bare, data=data): replace(logged, data=data) for bare, logged in logs.items()}
    return grid_of(inc.PAPER, scale, place), Bench(scale, Path(options.work) / "small-gpu", ours)


@dataclass(frozen=True)
class Copy:
    """A trained copy of a run and its accuracies under every test noise: what one process does."""

    row: str
    seed: int
    options: Options

    @property
    def name(self) -> str:
        return f"{self.row}, copy {self.seed}"

    @property
    def result(self) -> Path:
        """No file says that it is done: :meth:`run` looks at the rows."""
        return Path(self.options.work) / "none"

    def quantities(self, at: Grid) -> dict[float, Accuracy]:
        tested = inc.TEST[::4] if self.options.tiny else inc.TEST
        return {sigma: Accuracy(runs(at)[self.row], inc.noise(at, sigma)) for sigma in tested}

    def pieces(self) -> Iterator[tuple[float, Piece, Piece]]:
        """Per test noise: the training and the evaluation of this copy."""
        at, bench = bench_of(self.options)
        for sigma, quantity in self.quantities(at).items():
            yield sigma, bench.training(quantity.run, self.seed), quantity.measurements(bench)[self.seed]

    def run(self) -> None:
        rows = Rows(self.options, "grid", f"-{self.seed}-{self.row}")
        pieces = list(self.pieces())
        names = {sigma: f"{self.name}, sigma {sigma:g}" for sigma, _, _ in pieces}
        if rows.met >= set(names.values()):
            return
        training, ended = pieces[0][1], f"{self.name}, training"
        if not training.result.is_file():
            rows.forget(ended)
        taken = [float(str(row["took"])) for row in rows.read() if row["ok"] and "epochs" in row]
        if taken and min(taken) > self.options.left:
            raise OutOfTimeError  # it would not end in time, by what such a training took here
        rows.each(ended, partial(self._train, training))
        if training.result.is_file():
            for sigma, _, evaluating in pieces:
                rows.each(names[sigma], partial(self._accuracy, evaluating, sigma))

    def _train(self, training: Piece) -> dict[str, object]:
        training.run()
        settings = training.settings  # type: ignore[attr-defined]
        return {"method": str(settings.method), "model": str(settings.model), "epochs": settings.epochs}

    def _accuracy(self, evaluating: Piece, sigma: float) -> dict[str, object]:
        evaluating.run()
        rows = read_rows(evaluating.result)
        values = rows[rows["metric"] == "accuracy"]["value"]
        about = {"row": self.row, "copy": self.seed, "sigma": sigma, "draws": len(values)}
        return about | {"accuracy": float(values.mean())}


def run(rows: Rows) -> None:
    options = rows.options
    if not options.images and not options.tiny:
        rows.add("images", ok=False, error="expected --images FILE for trainings, got none: they are left out")
        crowd.run(rows)
        return
    if not (Path(options.work) / "images" / "done").is_file():
        rows.forget("images")
    rows.each("images", partial(decode, options.images, Path(options.work) / "images"))
    at_once = options.trainings or crowd.run(rows)
    names = list(runs(bench_of(options)[0]))[: 2 if options.tiny else None]
    copies = [Copy(name, seed, options) for seed in range(scale_of(options).seeds) for name in names]
    if options.left < threading.TIMEOUT_MAX:
        # A training under way does not look at the clock; what is finished is kept by then.
        clock = threading.Timer(options.left, lambda: os._exit(0))
        clock.daemon = True
        clock.start()
    for _ in Local(workers=at_once).run(copies):
        pack(options, copies)


def pack(options: Options, copies: list[Copy]) -> None:
    """What is finished of ``copies`` as ``OUT/finished.tar.gz``."""
    _, bench = bench_of(options)
    folder = Path(options.work) / "finished"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    done = [piece for copy in copies for _, *pieces in copy.pieces() for piece in pieces if piece.result.is_file()]
    keep(bench, done, folder)
    data = folder / "data.json"
    if data.is_file():
        # The same images, by the name that everybody's have.
        data.write_text(data.read_text().replace(str(scale_of(options).data[SETS[0]]), REGIME))
    temporary = Path(options.out) / ".finished"
    with tarfile.open(temporary, "w:gz") as archive:
        archive.add(folder, arcname="small-gpu")
    temporary.rename(Path(options.out) / "finished.tar.gz")
