"""Finished copies in a folder stand for their trainings, on a machine that has neither the networks nor the data."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from noiserobust.storage.locks import alone
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
    assert all(not model.startswith("/") for file in kept for model in read_rows(file)["model"].dropna())


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
    """Of three columns one lacks the first copy, another the second, and a third is nowhere."""
    other = Machine(tmp_path, trained.images, trained.kept)
    assert other.kept is not None
    take_up(other.bench, other.kept)
    clean, noisy, _ = cells(other.at)
    clean.quantity.measurements(other.bench)[0].result.unlink()
    noisy.quantity.measurements(other.bench)[1].result.unlink()
    more = other.bench.with_copies([0, 1, 3])
    found = computed(TABLE, other.at, more)
    there = {cell.column: [*of.seeds] for cell, of in found}
    assert there == {clean.column: [1], "sigma 0.07": [0], "log": [0, 1]}
    rows = rows_of(TABLE, other.at, other.bench, found)
    assert rows.groupby("column")["replicate"].unique().map(list).to_dict() == there
    clean.quantity.measurements(other.bench)[1].result.unlink()
    found = computed(TABLE, other.at, other.bench)
    assert [cell.column for cell, _ in found] == ["sigma 0.07", "log"]
    assert "over 1 to 2 trained copies" in write(TABLE, other.at, other.bench, found)[1].read_text()
    text = write(TABLE, other.at, other.bench.with_seeds(3), found)[1].read_text()
    assert "- trained copies here: 1 to 2 instead of 2" in text


def test_what_was_measured_of_a_copy_since_is_taken_up_too(trained: Machine, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    other = Machine(tmp_path / "other", kept=kept)
    for table in (replace(TABLE, cells=lambda at: cells(at)[:1]), TABLE):
        keep(trained.bench, pieces_of(table, trained.at, trained.bench), kept)
        take_up(other.bench, kept)
    assert missing(pieces_of(TABLE, other.at, other.bench)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"digits": {"crop": 1}}', "expected fingerprints in 'digits' in "),
        ('{"digits": 3}', "expected 'digits' in .* as names with values, got int 3"),
        ("[]", "expected what names the data of finished copies by name, got "),
        ("[" * 100_000, "expected what names the data of finished copies .* as JSON"),
        (
            '{"a": {"fingerprints": ["x"], "mean": ["x"], "std": [1], "crop": 1, "flip": true}}',
            r"expected list\[float\] as mean",
        ),
        (b"\xff", "which is no text"),
    ],
)
def test_what_does_not_name_data_is_refused(text: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        contents(tmp_path)


class TestOfSomebodyElse:
    """Names in a folder of finished copies become names of files, and what lies there is copied."""

    @pytest.fixture
    def kept(self, trained: Machine, tmp_path: Path) -> Path:
        assert trained.kept is not None
        return Path(shutil.copytree(trained.kept, tmp_path / "kept"))

    def taken_up(self, kept: Path, message: str) -> None:
        other = Machine(kept.parent / "a" / "b", kept=kept)
        with pytest.raises(UserError, match=message):
            take_up(other.bench, kept)
        places = {path.parent for path in kept.parent.rglob("*") if path.is_file()}
        assert places <= {kept, *other.folder.rglob("*")}

    @pytest.mark.parametrize("name", ["../../../x", "/x", "", ".", "x" * 300, "a\0b", None, 3, "0123456789ABCDEF"])
    def test_pieces_with_names_of_their_own(self, name: object, kept: Path) -> None:
        path = next(kept.glob("*.parquet"))
        rows = pd.read_parquet(path)
        path.unlink()
        rows.assign(piece=name).to_parquet(path)
        self.taken_up(kept, "expected 16 hex digits as the name of every piece in ")

    @pytest.mark.parametrize("column", ["piece", "metric", "value"])
    def test_rows_without_a_column(self, column: str, kept: Path) -> None:
        for path in kept.glob("*.parquet"):
            rows = pd.read_parquet(path).drop(columns=column)
            path.unlink()
            rows.to_parquet(path)
        self.taken_up(kept, f"expected the rows of a finished copy, got .* without {column}")

    @pytest.mark.parametrize(
        "spoil",
        [
            os.mkfifo,
            Path.mkdir,
            Path.touch,
            lambda path: path.symlink_to("/dev/zero"),
            lambda path: path.write_text("epoch\nx\n"),
            lambda path: path.write_bytes(b"\xff\0" * 100),
        ],
        ids=["pipe", "folder", "empty", "zeros", "texts", "bytes"],
    )
    def test_logs_that_are_none(self, spoil: Callable[[Path], object], kept: Path) -> None:
        path = min(kept.glob("*.csv"))
        path.unlink()
        spoil(path)
        self.taken_up(kept, "expected the log of a run, got ")

    def test_two_that_keep_lose_nothing(self, trained: Machine, kept: Path) -> None:
        """The second waits, and adds to what the first has kept."""
        parts = [Artefact("incorruptible", "table1", "a table", lambda at, n=n: cells(at)[n : n + 1]) for n in (0, 1)]
        for path in kept.iterdir():
            path.unlink()
        with alone(kept / ".lock", "keeping"), ThreadPoolExecutor() as threads:
            pieces = [pieces_of(part, trained.at, trained.bench) for part in parts]
            both = [threads.submit(keep, trained.bench, [*part], kept) for part in pieces]
            time.sleep(0.5)
            assert not [*kept.glob("*.parquet")]
            kept.joinpath(".lock").unlink()
        assert [one.result() for one in both] == [2, 2]
        assert trained.kept is not None
        measured = {path.name: set(pd.read_parquet(path)["piece"]) for path in kept.glob("*.parquet")}
        assert measured == {path.name: set(pd.read_parquet(path)["piece"]) for path in trained.kept.glob("*.parquet")}


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
