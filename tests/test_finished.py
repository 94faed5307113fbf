"""Finished copies in a folder stand for their trainings, on a machine that has neither the networks nor the data."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import refused
from grids import Counting, runs
from PIL import Image

from noiserobust.cli import main
from noiserobust.errors import UserError
from noiserobust.models import DigitsNet
from noiserobust.papers import PAPERS, incorruptible
from noiserobust.papers.grid import MINI, SMALL, Bench, Cell, Grid, grid_of
from noiserobust.papers.grid.artefacts import Artefact
from noiserobust.papers.grid.finished import FOLDER, contents, keep, missing, take_up
from noiserobust.papers.grid.plan import compute_in_stages, computed, pieces_of, rows_of, write
from noiserobust.papers.grid.quantity import Accuracy, Logged
from noiserobust.storage.rows import read_rows
from noiserobust.training import TrainSettings

TINY = replace(
    MINI,
    recipe=replace(MINI.recipe or TrainSettings(), model=DigitsNet(2), epochs=2, batch_size=8, validation=0.0),
    data=dict.fromkeys(MINI.data, "subset:cifar10,per_class=3,validation=1"),
    networks=dict.fromkeys(MINI.networks, "digits:2"),
    seeds=2,
    draws=2,
    images=None,
)


def cells(at: Grid) -> list[Cell]:
    run = incorruptible.plain(at)
    shown = {"sigma 0": Accuracy(run), "sigma 0.07": Accuracy(run, at.gaussian(0.07)), "log": Logged(run, "accuracy")}
    return [Cell("SGD", column, quantity) for column, quantity in shown.items()]


TABLE = Artefact("incorruptible", "table1", "a table", cells)


def images(folder: Path, seed: int = 0) -> Path:
    """An image folder of two classes, 8 x 8 pixels."""
    generator = np.random.default_rng(seed)
    for part, count in (("train", 6), ("test", 4)):
        for name in ("one", "two"):
            place = folder / part / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(place / f"{number}.png")
    return folder


@dataclass(frozen=True)
class Machine:
    """A folder of results, and where the images lie, if they are there."""

    folder: Path
    images: Path | None = None
    kept: Path | None = None

    @property
    def at(self) -> Grid:
        nowhere = {"data_root": str(self.folder / "data")}
        return grid_of("incorruptible", TINY, nowhere | ({"cifar10": str(self.images)} if self.images else {}))

    @property
    def bench(self) -> Bench:
        return Bench(TINY, self.folder, contents=contents(self.kept) if self.kept else {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("trained")
    machine = Machine(folder, images(folder / "images"), folder / "kept")
    compute_in_stages(pieces_of(TABLE, machine.at, machine.bench), None)
    assert machine.kept is not None
    assert keep(machine.bench, pieces_of(TABLE, machine.at, machine.bench), machine.kept) == 2
    return machine


def values(machine: Machine) -> pd.DataFrame:
    return rows_of(TABLE, machine.at, machine.bench)[["row", "column", "x", "replicate", "draw", "value"]]


def test_a_machine_without_data_and_networks_has_the_table(trained: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path, kept=trained.kept)
    assert other.kept is not None
    assert len(missing(pieces_of(TABLE, other.at, other.bench))) == 6  # two copies, three files each
    take_up(other.bench, other.kept)
    counting = Counting([])
    compute_in_stages(pieces_of(TABLE, other.at, other.bench), counting)
    assert counting.pieces == []
    pd.testing.assert_frame_equal(values(other), values(trained))
    assert not [*tmp_path.rglob("*.safetensors")]


def test_what_was_not_measured_of_a_copy_needs_its_training(trained: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path, trained.images, trained.kept)
    assert other.kept is not None
    take_up(other.bench, other.kept)
    more = replace(
        TABLE, cells=lambda at: [*cells(at), Cell("SGD", "x", Accuracy(incorruptible.plain(at), at.gaussian(0.9)))]
    )
    open_ = missing(pieces_of(more, other.at, other.bench))
    assert [piece.name.split(",")[0] for piece in open_] == [
        "train plain seed 0", "train plain seed 1", "evaluate plain seed 0", "evaluate plain seed 1",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(values(other), values(trained))


def test_what_was_kept_for_other_tables_stays(trained: Machine, tmp_path: Path) -> None:
    fewer = replace(TABLE, cells=lambda at: cells(at)[:1])
    for table, pieces in ((TABLE, 2), (fewer, 2)):
        keep(trained.bench, pieces_of(table, trained.at, trained.bench), tmp_path)
        assert {read_rows(file)["piece"].nunique() for file in tmp_path.glob("*.parquet")} == {pieces}


def test_what_is_kept_names_no_place_of_the_machine(trained: Machine) -> None:
    assert trained.kept is not None
    for file in trained.kept.glob("*.parquet"):
        assert set(read_rows(file)["model"]) == {f"runs/{file.stem}/model.safetensors"}
    for file in trained.kept.iterdir():
        assert str(trained.folder).encode() not in file.read_bytes()


def test_the_packages_own_copies_name_no_place_of_a_machine() -> None:
    kept = [*FOLDER.rglob("*.parquet")]
    assert kept
    assert all(not model.startswith("/") for file in kept for model in read_rows(file)["model"])


def test_an_interrupted_training_is_no_finished_copy(trained: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path, trained.images, trained.kept)
    assert other.kept is not None
    take_up(other.bench, other.kept)
    first = pieces_of(TABLE, other.at, other.bench)[0]
    first.result.with_name("resume.pt").touch()
    assert missing(pieces_of(TABLE, other.at, other.bench)) == [first]


def test_other_images_are_other_runs(trained: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path, images(tmp_path / "images", seed=1), trained.kept)
    assert other.kept is not None
    take_up(other.bench, other.kept)
    pieces = pieces_of(TABLE, other.at, other.bench)
    assert missing(pieces) == [*dict.fromkeys(pieces)]


def test_a_table_shows_the_cells_and_copies_that_are_there(trained: Machine, tmp_path: Path) -> None:
    """Of three columns one is not computed, and another only for the first copy."""
    other = Machine(tmp_path, trained.images, trained.kept)
    assert other.kept is not None
    take_up(other.bench, other.kept)
    clean, noisy, _ = cells(other.at)
    clean.quantity.measurements(other.bench)[0].result.unlink()
    noisy.quantity.measurements(other.bench)[1].result.unlink()
    found = computed(TABLE, other.at, other.bench)
    assert [(cell.column, len(of.seeds)) for cell, of in found] == [("sigma 0.07", 1), ("log", 2)]
    rows = rows_of(TABLE, other.at, other.bench, found)
    assert rows.groupby("column")["replicate"].nunique().to_dict() == {"sigma 0.07": 1, "log": 2}
    assert "over 1 to 2 trained copies" in write(TABLE, other.at, other.bench, found)[1].read_text()


def test_what_does_not_name_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('{"digits": {"crop": 1}}')
    with pytest.raises(UserError, match="expected what names the data of finished copies"):
        contents(tmp_path)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reproduce", "incorruptible", "table1", "--only-done", "--finished", str(tmp_path / "no"), "--out"]
    assert "expected a folder of finished copies, as --keep writes it" in refused([*words, str(tmp_path)], capsys)


class TestOfThePackage:
    """The copies that the package comes with, at the scale small."""

    folder = FOLDER / "small"

    def test_each_is_a_run_of_the_papers(self) -> None:
        known = contents(self.folder)
        (content,) = known.values()
        assert set(known) == set(SMALL.data.values())
        names = {
            replace(run, seed=seed).identity(content)
            for run in set().union(*(runs(paper, SMALL) for paper in PAPERS))
            for seed in range(12)
        }
        stored = {log.stem.rpartition("-")[2] for log in self.folder.glob("*.csv")}
        assert stored
        assert stored <= names

    def test_a_fresh_folder_shows_them(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        fresh = ["--scale", "small", "--out", str(tmp_path), "--data-root", str(tmp_path / "no data"), "--only-done"]
        main(["reproduce", "incorruptible", "table1", *fresh])
        assert re.search(r"\| SGD \| \d\d\.\d\d .*\[79\.31 ± 0\.04\]", capsys.readouterr().out)
        assert not [*tmp_path.rglob("*.safetensors")]
