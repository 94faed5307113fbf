"""Papers' grids: a tiny slice end to end, nothing computed twice, and what makes a piece another piece."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands import refused
from grids import NOWHERE, Counting, every_scale, keys, printed, runs, value
from PIL import Image
from scipy import stats

from noiserobust.cli import main
from noiserobust.data import DataSource, load
from noiserobust.errors import UserError
from noiserobust.models import DigitsNet
from noiserobust.noise import Gaussian, NoiseModel
from noiserobust.papers import PAPERS, incorruptible
from noiserobust.papers.grid import MINI, PAPER, SMALL, Artefact, Bench, Cell, Grid, Scale, artefacts_of, grid_of
from noiserobust.papers.grid.bench import unlogged, with_logs
from noiserobust.papers.grid.derived import Best, Drawn, Passes, gain
from noiserobust.papers.grid.estimate import here, in_words, seconds_of
from noiserobust.papers.grid.measured import step_time
from noiserobust.papers.grid.plan import compute_in_stages, pieces_of, quantities, rows_of, write
from noiserobust.papers.grid.quantity import Accuracy, Logged, logging
from noiserobust.papers.grid.scale import SMALL_GPU, unplaced
from noiserobust.storage.rows import read_rows
from noiserobust.sweep import Local, Piece, Training
from noiserobust.sweep import pieces as sweep_pieces
from noiserobust.training import SAM, TrainSettings
from noiserobust.training import identity as training_identity

assert MINI.recipe is not None
TINY = replace(
    MINI,
    recipe=replace(MINI.recipe, model=DigitsNet(4), epochs=2, batch_size=400),
    networks=dict.fromkeys(MINI.networks, "digits:4"),
    seeds=2,
    draws=3,
    images=60,
    log_images=50,
)


def grid(scale: Scale = TINY) -> Grid:
    return grid_of("incorruptible", scale)


def some(name: str, rows: Sequence[str], columns: Sequence[str] = ()) -> Artefact:
    """The named artefact of incorruptible, only those rows (and columns) of it."""
    whole = artefacts_of("incorruptible")[name]

    def cells(at: Grid) -> Iterator[Cell]:
        for cell in whole.cells(at):
            if cell.row in rows and (not columns or cell.column in columns):
                yield cell

    return replace(whole, cells=cells)


TABLE = some("table1", ["SGD", "RWP sigma 0.05"], ["sigma 0", "sigma 0.07"])
FIGURE = some("figure3", ["SGD", "SAM rho 0.3"])


@dataclass(frozen=True)
class Plan:
    """Artefacts of incorruptible, and where they are computed."""

    bench: Bench
    artefacts: Sequence[Artefact] = (TABLE, FIGURE)

    @property
    def pieces(self) -> list[Piece]:
        at = grid(self.bench.scale)
        return [*dict.fromkeys(piece for one in self.artefacts for piece in pieces_of(one, at, self.bench))]

    @property
    def missing(self) -> list[Piece]:
        return [piece for piece in self.pieces if not here(piece)]


def plan(folder: Path, scale: Scale = TINY, artefacts: Sequence[Artefact] = (TABLE, FIGURE)) -> Plan:
    runs = [run for one in artefacts for quantity in quantities(one, grid(scale)) for run in quantity.runs]
    return Plan(Bench(scale, folder, with_logs(runs, scale.log_images)), artefacts)


def trainings(pieces: Sequence[Piece]) -> list[Piece]:
    return [piece for piece in pieces if isinstance(piece, Training)]


def measurements(pieces: Sequence[Piece]) -> list[Piece]:
    return [piece for piece in pieces if not isinstance(piece, Training)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    made = plan(tmp_path_factory.mktemp("reproduced"))
    compute_in_stages(made.pieces, Local())
    return made


class TestOneSliceEndToEnd:
    def test_the_table_stands_beside_what_is_published(self, finished: Plan) -> None:
        written = write(TABLE, grid(), finished.bench)
        assert [path.name for path in written] == ["table1.parquet", "table1.md"]
        text = written[1].read_text()
        rows = read_rows(written[0])
        clean = rows[(rows["row"] == "SGD") & (rows["column"] == "sigma 0")]
        assert f"| SGD | {clean['value'].mean():.2f} ± {clean['value'].std():.2f} [79.31 ± 0.04]" in text
        assert "[56.55 ± 3.29 ± 0.35] |" in text
        assert all(line in text for line in TINY.says)
        assert "trained copies of every run here" not in text

    def test_another_number_of_copies_is_said(self, finished: Plan) -> None:
        text = write(TABLE, grid(), finished.bench.with_seeds(1))[1].read_text()
        assert "- trained copies of every run here: 1 instead of 2" in text

    def test_its_rows_are_those_of_evaluate(self, finished: Plan) -> None:
        rows = rows_of(TABLE, grid(), finished.bench)
        noisy = rows[(rows["row"] == "RWP sigma 0.05") & (rows["column"] == "sigma 0.07")]
        assert noisy.groupby("replicate")["draw"].nunique().tolist() == [3, 3]
        assert (noisy["published"] == 56.55).all()
        assert (noisy["published_noise_std"] == 3.29).all()
        assert rows["value"].between(0, 100).all()
        assert {"paper", "scale", "commit", "torch"} <= set(rows)

    def test_the_figure_is_a_picture(self, finished: Plan) -> None:
        picture = write(FIGURE, grid(), finished.bench)[-1]
        pixels = np.asarray(Image.open(picture).convert("L"))
        assert pixels.shape[0] > 300
        assert (pixels < 200).mean() > 0.005  # lines and letters, not an empty page

    def test_nothing_is_computed_twice(self, finished: Plan) -> None:
        counting = Counting([])
        compute_in_stages(finished.pieces, counting)
        assert counting.pieces == finished.missing == []

    def test_an_interrupted_grid_goes_on_where_it_was(self, finished: Plan) -> None:
        lost = measurements(finished.pieces)[0]
        lost.result.unlink()
        counting = Counting([])
        compute_in_stages(finished.pieces, counting)
        assert counting.pieces == [lost.name]

    def test_runs_that_artefacts_share_are_trained_once_with_the_logs_of_both(self, finished: Plan) -> None:
        plain = [piece for piece in finished.pieces if piece.name == "train plain seed 0"]
        assert len(plain) == 1
        log = pd.read_csv(plain[0].result.parent / "log.csv")
        assert "train/gradient_norm:training" in log

    @pytest.mark.slow
    def test_two_workers_give_the_same_rows(self, finished: Plan, tmp_path: Path) -> None:
        """Of the same trained weights; trainings by workers are held by test_references.py."""
        noisy = some("table1", ["RWP sigma 0.05"], ["sigma 0.07"])
        twin = plan(Path(shutil.copytree(finished.bench.folder, tmp_path / "twin")), artefacts=[noisy])
        for piece in measurements(twin.pieces):
            piece.result.unlink()
        assert len(twin.missing) == len(measurements(twin.pieces)) > 1
        compute_in_stages(twin.pieces, Local(2))
        columns = ["row", "column", "replicate", "draw", "value"]
        one, two = (rows_of(noisy, grid(), p.bench)[columns] for p in (finished, twin))
        pd.testing.assert_frame_equal(one, two)


class TestWhatMakesAPieceAnother:
    def all_missing(self, changed: Plan) -> bool:
        return changed.missing == changed.pieces

    def test_a_setting(self, finished: Plan) -> None:
        recipe = replace(TINY.recipe or TrainSettings(), lr=0.04)
        assert self.all_missing(plan(finished.bench.folder, replace(TINY, recipe=recipe)))

    def test_the_data(self, finished: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
        splits = load("digits")
        labels = splits.train.labels.clone()  # type: ignore[union-attr]
        labels[0] = (labels[0] + 1) % 10
        other = replace(splits, train=replace(splits.train, labels=labels))
        monkeypatch.setattr(sweep_pieces, "_load", lambda *_: other)
        assert self.all_missing(plan(finished.bench.folder))

    def test_the_semantics_of_training(self, finished: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(training_identity, "SEMANTICS", training_identity.SEMANTICS + 1)
        assert self.all_missing(plan(finished.bench.folder))

    def test_the_semantics_of_evaluation_leave_the_runs_alone(
        self, finished: Plan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sweep_pieces, "SEMANTICS", sweep_pieces.SEMANTICS + 1)
        missing = plan(finished.bench.folder).missing
        assert (trainings(missing), len(missing)) == ([], len(measurements(finished.pieces)))

    def test_the_draws_leave_the_runs_alone(self, finished: Plan) -> None:
        missing = plan(finished.bench.folder, replace(TINY, draws=4)).missing
        noisy = [piece for piece in measurements(finished.pieces) if "gaussian:0.0," not in piece.name]
        assert (trainings(missing), len(missing)) == ([], len(noisy))


ARTEFACTS = {
    "incorruptible": {"comparators", *(f"table{n}" for n in range(1, 10)), *(f"figure{n}" for n in range(1, 13))},
    "rwp": {*(f"table{n}" for n in range(1, 11)), *(f"figure{n}" for n in range(2, 12))},
    "saf": {"table1", "table2", "table3", "figure1", "figure2", "figure4", "figure5"},
    "rst": {"text", *(f"table{n}" for n in range(1, 14)), *(f"figure{n}" for n in range(1, 6))},
    "esam": {"table1", "table2", "table3", "figure1", "figure3", "figure4", "figure5", "figure6"},
}
"""All tables and the figures that show data."""


@pytest.mark.parametrize("paper", PAPERS)
class TestEveryPaper:
    def test_has_all_its_artefacts_at_every_scale(self, paper: str) -> None:
        assert set(artefacts_of(paper)) == ARTEFACTS[paper]
        for scale in (MINI, SMALL, SMALL_GPU, PAPER):
            for artefact in artefacts_of(paper).values():
                assert list(artefact.cells(grid_of(paper, scale))), (scale.name, artefact.name)

    @every_scale
    def test_tables_have_the_printed_cells_once(self, paper: str, scale: Scale) -> None:
        """Beyond them comparators, RWP on one processor, SAF's memory on CIFAR and RST's formulas, which are ours; at
        smaller scales some strengths are left out."""
        cells = keys(paper, scale)
        assert len(cells) == len(set(cells))
        quoted = {
            (name, row, column, quantity)
            for name, row, column, quantity in cells
            if name != "comparators"
            and not row.endswith("on one processor")
            and (column, quantity) != ("CIFAR-100", "memory")
            and (paper, name) != ("rst", "table2")
        }
        wanted = {key for key in printed(paper) if not key[0].startswith("figure")}
        assert quoted <= wanted
        if scale is PAPER or paper not in ("incorruptible", "rst"):
            assert quoted == wanted

    def test_mini_trains_no_more_than_it_may(self, paper: str) -> None:
        limits = {"incorruptible": 75, "rwp": 90, "saf": 40, "rst": 135, "esam": 30}
        assert len(runs(paper, MINI)) <= limits[paper]


class TestIncorruptible:
    def test_the_published_setting(self) -> None:
        run = incorruptible.ramped_sam(grid(PAPER), "Quadratic")
        assert str(run.method) == "sam:quadratic(1.0,warmup=0.256)"
        assert (run.epochs, run.lr, run.weight_decay, run.label_smoothing) == (200, 0.05, 5e-4, 0.1)
        assert (run.data, str(run.model), run.select_on) == ("cifar100", "resnet18:64", "test")

    def test_what_a_scale_changes(self) -> None:
        assert str(incorruptible.rwp(grid(MINI), 0.08).method) == "rwp:gaussian(0.12,reading=literal)"
        small = incorruptible.sam(grid(SMALL), 0.3)
        assert (str(small.method), small.epochs, str(small.model)) == ("sam:0.15", 60, "resnet18:16")
        assert {cell.row for cell in artefacts_of("incorruptible")["table2"].cells(grid(SMALL))} == {
            "SGD", "SAM rho 0.2", "SAM rho 0.3", "SAM rho 0.5",
        }  # fmt: skip
        assert str(incorruptible.sam(grid(SMALL_GPU), 0.3).method) == "sam:0.3"

    @pytest.mark.parametrize("scale", [MINI, SMALL, SMALL_GPU], ids=["mini", "small", "small-gpu"])
    def test_smaller_scales_choose_no_epoch_and_still_watch_held_out_images(self, scale: Scale) -> None:
        run = incorruptible.plain(grid(scale))
        assert run.select_on == "none"
        beside = getattr(DataSource.parse(run.data), "validation", 0)  # images that are not trained on anyway
        assert run.validation > 0 or beside > 0
        assert run.select_noise == grid(scale).gaussian(0.05, reading="literal")


class TestGridOfAPaper:
    def test_settings_of_a_run_that_a_smaller_scale_keeps(self) -> None:
        at = grid(MINI)
        changes = {"weight_clip": 2.5, "cutout": 16, "lr": 0.3, "optimizer": "Adam", "batch_size": 7}
        run = at.run("CIFAR-10", "ViT", "plain", 0.5, **changes)
        assert (run.weight_clip, run.cutout, run.optimizer, run.lr) == (2.5, 4, "Adam", MINI.adam_lr)
        assert (run.epochs, run.batch_size) == (10, 64)
        as_published = grid(PAPER).run("CIFAR-10", "ViT", "plain", 0.5, **changes)
        assert (as_published.lr, as_published.batch_size, as_published.epochs) == (0.3, 7, 100)

    def test_where_cifar_lies_is_no_part_of_a_paper(self) -> None:
        at = grid_of("incorruptible", SMALL, {"cifar10": "/somewhere/else", "device": "cpu"})
        run = incorruptible.plain(at)
        assert run.data == "subset:folder(/somewhere/else),per_class=500,validation=50"
        assert unplaced(run.data) == SMALL.data["CIFAR-10"] == incorruptible.plain(grid(SMALL)).data
        whole = Grid(replace(SMALL, data={"CIFAR-100": "cifar10"}), at.recipe, at.place)
        assert incorruptible.plain(whole).data == "/somewhere/else"
        assert unplaced("digits") == "digits"

    def test_unknown_networks_are_named(self) -> None:
        with pytest.raises(Exception, match="expected a network of the scale"):
            grid().run("CIFAR-10", "ResNet-19")


class TestQuantities:
    def test_logs_are_joined_by_bare_settings(self) -> None:
        run = incorruptible.plain(grid())
        joined = with_logs([logging(run, "loss"), logging(run, "path_length", on=("test",)), run], 50)
        (only,) = joined.values()
        assert [str(one) for one in only.log] == ["loss", "path_length"]
        assert (only.log_on, only.log_images) == (("train", "test"), 50)
        assert list(joined) == [unlogged(run)]

    def test_passes_are_counted(self) -> None:
        at = grid()

        def passes(method: str) -> float:
            return value(Passes(at.run("CIFAR-10", "ResNet-18", method)))

        assert passes("plain") == 1
        assert passes("sam:0.1") == 2
        assert passes("rst:sam(0.1),p=0.5") == pytest.approx(1.5)

    def test_a_drawn_function_is_its_points(self) -> None:
        values = Drawn(((0.0, 1.0), (0.5, 2.0))).values(NOWHERE)
        assert values[["x", "value"]].to_numpy().tolist() == [[0, 1], [0.5, 2]]

    def test_gain_is_copy_by_copy(self, finished: Plan) -> None:
        at = grid()
        a = Accuracy(incorruptible.rwp(at, 0.05), incorruptible.noise(at, 0.07))
        b = Accuracy(incorruptible.plain(at), incorruptible.noise(at, 0.07))
        values = gain(a, b).values(finished.bench)
        apart = a.values(finished.bench)["value"].mean() - b.values(finished.bench)["value"].mean()
        assert values["value"].mean() == pytest.approx(apart)

    def test_the_log_against_a_loss(self, finished: Plan) -> None:
        run = incorruptible.plain(grid())
        values = Logged(run, "train/gradient_norm:training", "train/loss").values(finished.bench)
        assert len(values) == 2 * 2
        assert values["epoch"].tolist() == [0, 1, 0, 1]

    def test_a_step_is_timed_beside_a_plain_one(self, tmp_path: Path) -> None:
        bench = Bench(TINY, tmp_path)
        run = grid().run("CIFAR-10", "ResNet-18", SAM(0.1))
        times = step_time(run, "time")
        (piece,) = times.measurements(bench)
        piece.run()
        rows = read_rows(piece.result)
        assert (rows["low"] <= rows["high"]).all()
        assert times.values(bench)["value"].iloc[0] == pytest.approx((rows["seconds"] / rows["plain_seconds"]).iloc[0])
        assert not times.runs


class TestBest:
    """Copies that are pure noise: what the choice itself gains."""

    @dataclass(frozen=True)
    class Made(Accuracy):
        salt: int = 0
        copies: int = 4

        def values(self, bench: Bench) -> pd.DataFrame:
            value = np.random.default_rng(self.salt).normal(0, 1, self.copies)
            return pd.DataFrame({"replicate": range(self.copies), "draw": 0, "x": np.nan, "value": value})

    def test_a_choice_on_the_shown_values_flatters_and_one_on_other_copies_does_not(self) -> None:
        run, shown, apart = grid().run("CIFAR-10", "ResNet-18"), [], []
        for trial in range(120):
            choices = tuple(self.Made(run, salt=10 * trial + k) for k in range(5))
            for flag, means in ((False, shown), (True, apart)):
                means.append(Best(choices, apart=flag).values(NOWHERE)["value"].mean())
        # Of four copies one chooses and three are shown: a mean of 120 means of 3 values, standard error 0.053.
        assert abs(np.mean(apart)) < 0.16
        # The best of five means of four values is 1.16 / 2 = 0.58 high.
        assert np.mean(shown) > 0.4

    def test_intervals_over_the_copies_shown_cover(self) -> None:
        """Of ten copies three choose and seven are shown, independent of each other and of the choice."""
        run, missed, trials = grid().run("CIFAR-10", "ResNet-18"), 0, 200
        for trial in range(trials):
            choices = tuple(self.Made(run, salt=10 * trial + k, copies=10) for k in range(5))
            values = Best(choices, apart=True).values(NOWHERE)
            assert values["replicate"].tolist() == list(range(3, 10))
            half = stats.t.ppf(0.975, 6) * values["value"].std(ddof=1) / np.sqrt(7)
            missed += abs(values["value"].mean()) > half
        # Binomial: 10 expected, standard deviation 3.1. Chosen copy by copy by all others it would be about 40.
        assert missed < 22


class TestEstimate:
    def test_grows_with_the_work(self, tmp_path: Path) -> None:
        at, bench = grid(), Bench(TINY, tmp_path)
        short, long = (
            seconds_of(bench.training(at.run("CIFAR-10", "ResNet-18", "plain", length), 0)) for length in (1, 20)
        )
        assert 5 * short < long
        plain, sam = (seconds_of(bench.training(at.run("CIFAR-10", "ResNet-18", m, 50), 0)) for m in ("plain", "sam:1"))
        assert 1.6 * plain < sam < 2.1 * plain

    def test_watching_and_logging_cost(self, tmp_path: Path) -> None:
        run, bench = grid().run("CIFAR-10", "ResNet-18", "plain", 20), Bench(TINY, tmp_path)

        def seconds(**changes: Any) -> float:
            return seconds_of(bench.training(replace(run, **changes), 0))

        blind = seconds(validation=0.0, epochs=20)
        for watched in ({"select_on": "none"}, {"select_on": "validation"}, {"select_on": "test"}):
            assert seconds(**watched, select_draws=50, epochs=20) > 1.2 * blind
        logs: dict[str, Any] = {"log": ("loss",), "log_images": 10_000, "validation": 0.0, "epochs": 20}
        often, seldom = (seconds(**logs, log_every=epochs) - blind for epochs in (1, 10))
        assert often / seldom == pytest.approx(20 / 3)  # of 20 epochs the first, the tenth and the last

    def test_of_data_that_are_not_here(self) -> None:
        at = grid(PAPER)
        small = replace(incorruptible.plain(at), model=DigitsNet(4))
        assert seconds_of(Bench(PAPER, Path("nowhere")).training(small, 0)) > 1

    @pytest.mark.parametrize(
        ("seconds", "words"), [(3, "3 s"), (119, "119 s"), (600, "10 min"), (7200, "2 h"), (10**6, "11.6 d")]
    )
    def test_words(self, seconds: float, words: str) -> None:
        assert in_words(seconds) == words


class TestCommand:
    def test_lists_what_is_missing(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        main(["reproduce", "incorruptible", "table2", "--dry-run", "--out", str(tmp_path)])
        printed = capsys.readouterr().out
        assert "15 of 15 trainings missing" in printed
        assert "train sam:0.8 seed 2" in printed
        assert "on this machine (cpu)" in printed
        assert not list(tmp_path.iterdir())

    def test_says_what_is_not_computed_yet(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        main(["reproduce", "incorruptible", "table1", "--only-done", "--out", str(tmp_path)])
        assert "incorruptible table 1: not all of it is computed yet" in capsys.readouterr().out

    def test_what_a_gpu_computed_is_read_without_one(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Full-width runs of the scale small, named by the GPU that they were trained on; nothing is downloaded."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(sweep_pieces, "load", lambda *given: pytest.fail(f"{given} are loaded"))
        monkeypatch.chdir(tmp_path)
        out = ["--out", str(tmp_path)]
        main(["reproduce", "incorruptible", "table1", "--scale", "small", "--device", "cuda", "--only-done", *out])
        assert "incorruptible table 1: not all of it is computed yet" in capsys.readouterr().out

    def test_claims_without_runs_are_listed_as_not_computed(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        main(["reproduce", "claims", "--only-done", "--out", str(tmp_path)])
        printed = capsys.readouterr().out
        assert "Not computed at this scale: incorruptible: RWP trained harder" in printed
        assert (tmp_path / "mini" / "claims.md").is_file()

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["nothing"], "expected incorruptible, rwp, saf"),
            (["incorruptible", "table99"], "expected a table or figure of incorruptible"),
            (["incorruptible", "table1", "--workers", "0"], "expected workers >= 1"),
            (["claims", "table1"], "expected papers or claims"),
            (["incorruptible", "table1", "--dry-run", "--device", "cuda:99"], "expected a device that is there"),
        ],
    )
    def test_bad_input_is_one_line(self, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert said in refused(["reproduce", *words], capsys)


def test_gaussian_of_a_published_sigma_has_a_short_text() -> None:
    assert grid(MINI).gaussian(0.07, reading="literal") == Gaussian(0.105, reading="literal")


def test_a_run_that_did_not_log_what_is_asked_for_is_named(finished: Plan) -> None:
    run = incorruptible.plain(grid())
    with pytest.raises(UserError, match=r"expected train/loss_of_time in the log of .*remove the folder"):
        Logged(run, "train/loss_of_time").values(finished.bench)


def test_a_grid_with_another_noise_and_an_own_network(capsys: pytest.CaptureFixture[str]) -> None:
    laplace = NoiseModel.parse("laplace:2,reference=layer")
    at = replace(grid_of("incorruptible", MINI), networks={"ResNet-18": "vgg16-bn:width=4"}, noise=laplace)
    run = incorruptible.rwp(at, 0.02)
    assert (str(run.model), str(run.method)) == ("vgg16-bn:4", "rwp:laplace(0.03,reference=layer)")
    assert str(incorruptible.noise(at, 0.05)) == "laplace:0.075,reference=layer"
    assert at.says[-2:] == [
        "varied: vgg16-bn:width=4 in place of ResNet-18",
        "varied: laplace:2.0,reference=layer, at the strengths of the papers' Gaussian",
    ]
    assert "expected NAME=MODEL" in refused(["reproduce", "rwp", "--network", "ResNet18=digits"], capsys)
    assert "expected a noise with a strength" in refused(["reproduce", "rwp", "--noise", "gaussian:0"], capsys)
