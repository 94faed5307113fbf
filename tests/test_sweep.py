"""Grids: typed, resumable, the same rows whoever computes them, and nothing lost when a machine dies."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
from commands import TINY, refused
from grids import Counting
from processes import LIMIT

from noiserobust import UserError, evaluate
from noiserobust.cli import main
from noiserobust.evaluation import summarize
from noiserobust.models import DigitsNet
from noiserobust.noise import Gaussian, NoiseModel
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.storage.rows import read_rows
from noiserobust.sweep import Evaluating, Local, OnRay, Piece, Training, evaluations, runs_of, sweep
from noiserobust.sweep.executors import _go_to
from noiserobust.training import SAM, Plain, TrainSettings

BASE = TrainSettings(model=DigitsNet(4), epochs=1, batch_size=400, select_draws=1)
VARY = {"method": ["plain", "rwp:gaussian(0.2)"], "seed": [0, 1]}
NOISES: list[NoiseModel] = [Gaussian(0.1), Gaussian(0.2)]
OPTIONS = {"images": 60}


class TestWorkers:
    """That they leave the same rows is held by test_references.py and test_reproduce.py."""

    def test_bad_input_of_a_piece_is_one_line_here(self, tmp_path: Path) -> None:
        runs = runs_of(replace(BASE, data=str(tmp_path / "nowhere")), {"seed": [0, 1]}, tmp_path)
        with pytest.raises(UserError, match="nowhere"):
            list(Local(2).run(runs))

    def test_a_worker_that_is_killed_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="expected every worker to live"):
            list(Local(2).run([Killed(tmp_path / "a"), Killed(tmp_path / "b")]))

    def test_none_is_refused(self) -> None:
        with pytest.raises(UserError, match="expected workers >= 1, got 0"):
            Local(0)


@dataclass(frozen=True)
class Killed:
    """A piece whose process dies."""

    result: Path
    name: str = "killed"

    def run(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class TestGrid:
    def test_values_are_typed_and_the_last_varies_fastest(self) -> None:
        runs = runs_of(BASE, {"method": ["sam:0.1", Plain()], "lr": ["0.1", 0.2], "weight_clip": ["none", "2.5"]})
        assert len(runs) == 8
        assert runs[0].settings.method == SAM(0.1)
        assert [run.settings.weight_clip for run in runs[:2]] == [None, 2.5]
        assert [run.settings.lr for run in runs[::2]] == [0.1, 0.2, 0.1, 0.2]

    def test_none_is_no_text(self) -> None:
        runs = runs_of(BASE, {"teacher": ["none", "plain"], "lr_schedule": ["none"], "average": ["None"]})
        assert [run.settings.teacher for run in runs] == [None, "plain"]
        assert runs[0].settings == BASE

    def test_one_combination_twice_is_one_run(self) -> None:
        assert len(runs_of(BASE, {"method": ["plain", "plain"], "lr": ["0.1", "1e-1"]})) == 1
        assert len(runs_of(BASE, {"method": [SAM(1), "sam:1", "sam:1.0"]})) == 1  # type: ignore[arg-type]

    def test_a_step_is_not_all_of_training(self) -> None:
        assert len(runs_of(BASE, {"lr_warmup": ["1", "1.0", 1]})) == 2
        ramps = [f"sam:{ramp}(1.0,warmup={warmup})" for ramp in ("linear", "cosine") for warmup in ("1", "1.0")]
        names = {piece.result for piece in runs_of(BASE, {"method": ramps})}
        assert len(names) == 4

    def test_any_cut_covers_every_draw_once(self) -> None:
        runs = runs_of(BASE, {"seed": [0, 1]})
        pieces = evaluations(runs, NOISES, 7, "out", shard=3)
        assert len(pieces) == 2 * 2 * 3
        drawn = [(piece.first_draw + k) for piece in pieces[:3] for k in range(piece.draws)]
        assert drawn == list(range(7))
        assert len({piece.result for piece in pieces}) == len(pieces)

    def test_a_noise_is_one_piece_however_it_is_spelled(self) -> None:
        runs = runs_of(BASE, {"seed": [0]})
        spellings = ["gaussian:0.1", "gaussian:sigma=1e-1", "gaussian(.1)", Gaussian(0.1)]
        assert len({piece.result for piece in evaluations(runs, spellings, 2, "out")}) == 1
        with pytest.raises(UserError, match="sigma"):
            evaluations(runs, ["gaussian:much"], 2, "out")

    @pytest.mark.parametrize(
        ("vary", "fragment"),
        [
            ({"metod": ["plain"]}, "expected a training setting to vary (data, data_root,"),
            ({"method": []}, "expected at least one value of method to vary, in a list, got none"),
            ({"method": ["sgd"]}, "expected a method"),
            ({"lr": ["fast"]}, "expected a number, got 'fast'"),
            ({"epochs": [0]}, "expected epochs >= 1, got 0"),
        ],
    )
    def test_refusals(self, vary: dict[str, list[object]], fragment: str) -> None:
        with pytest.raises(UserError) as caught:
            runs_of(BASE, vary)
        assert fragment in str(caught.value)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("sweep")
    return folder, sweep(BASE, VARY, NOISES, draws=5, out=folder, options=OPTIONS, shard=2)


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a.drop(columns="commit"), b.drop(columns="commit"))


class TestSweep:
    def test_rows_are_those_of_one_evaluation(self, local: tuple[Path, pd.DataFrame]) -> None:
        folder, rows = local
        runs = [run.result for run in runs_of(BASE, VARY, folder / "runs")]
        whole = evaluate(runs, None, NOISES, draws=5, images=60).rows
        whole["model"] = whole["model"].map(lambda path: Path(path).parent.name)
        order = ["method", "model", "noise", "draw", "metric"]
        same(rows.sort_values(order, ignore_index=True), whole.sort_values(order, ignore_index=True))
        same(rows, read_rows(folder / "rows.parquet"))

    def test_a_finished_sweep_computes_nothing(self, local: tuple[Path, pd.DataFrame]) -> None:
        folder, rows = local
        counting = Counting([])
        again = sweep(BASE, VARY, NOISES, draws=5, out=folder, options=OPTIONS, shard=2, executor=counting)
        assert counting.pieces == []
        same(rows, again)

    def test_paths_stay_as_they_were_given(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Messages name them; whoever runs a piece elsewhere goes to the folder of the command first."""
        seen: list[Path] = []

        class Seeing:
            def run(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
                for piece in pieces:
                    seen.append(piece.result)
                    piece.run()
                    yield piece

        monkeypatch.chdir(tmp_path)
        sweep(BASE, {"seed": [0]}, NOISES[:1], 1, "relative", options=OPTIONS, executor=Seeing())
        assert [path.parts[:2] for path in seen] == [("relative", "runs"), ("relative", "pieces")]
        assert (tmp_path / "relative" / "rows.parquet").is_file()

    def test_a_piece_of_own_code_that_changed_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Finished or not: its run looks at the code."""
        code = (
            "from dataclasses import dataclass\n"
            "from noiserobust.training.rules.base import Method\n"
            "@dataclass(frozen=True)\nclass Own(Method):\n    size: float = 0.5\n"
        )
        (tmp_path / "rule_of_mine.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr("sys.dont_write_bytecode", True)
        grid = (BASE, {"method": ["rule_of_mine:Own(0.25)"]}, NOISES[:1], 1, tmp_path / "grid")
        try:
            sweep(*grid, options=OPTIONS)
            sweep(*grid, options=OPTIONS)
            (tmp_path / "rule_of_mine.py").write_text(f"{code}    more: float = 0.0\n")
            importlib.reload(sys.modules["rule_of_mine"])
            with pytest.raises(UserError, match="another rule_of_mine:Own: its code has changed"):
                sweep(*grid, options=OPTIONS)
        finally:
            sys.modules.pop("rule_of_mine", None)

    def test_only_what_is_missing_is_computed(self, local: tuple[Path, pd.DataFrame]) -> None:
        folder, rows = local
        pieces = evaluations(runs_of(BASE, VARY, folder / "runs"), NOISES, 5, folder / "pieces", OPTIONS, shard=2)
        pieces[4].result.unlink()
        counting = Counting([])
        same(rows, sweep(BASE, VARY, NOISES, draws=5, out=folder, options=OPTIONS, shard=2, executor=counting))
        assert counting.pieces == [pieces[4].name]

    def test_another_setting_is_another_piece(self, local: tuple[Path, pd.DataFrame]) -> None:
        run = runs_of(BASE, {"seed": [0]}, local[0] / "runs")[0]
        other = runs_of(BASE, {"seed": [0], "lr": [0.1]}, local[0] / "runs")[0]
        piece = Evaluating(run, NOISES[0], 0, 2, local[0])
        others = [
            Evaluating(other, NOISES[0], 0, 2, local[0]),
            Evaluating(run, NOISES[1], 0, 2, local[0]),
            Evaluating(run, NOISES[0], 2, 2, local[0]),
            Evaluating(run, NOISES[0], 0, 2, local[0], (("images", 60),)),
        ]
        assert piece.result not in {one.result for one in others}

    def test_no_noise_is_evaluated_once_per_piece(self, local: tuple[Path, pd.DataFrame]) -> None:
        rows = sweep(BASE, VARY, [Gaussian(0.0)], draws=4, out=local[0], options=OPTIONS, shard=2)
        assert (rows[rows["metric"] == "accuracy"].groupby("model")["value"].nunique() == 1).all()


def test_runs_of_one_rule_are_told_apart_by_what_is_varied(tmp_path: Path) -> None:
    rows = sweep(BASE, {"lr": ["0.05", "0.1"], "method": ["plain"]}, NOISES[:1], 1, tmp_path, options=OPTIONS)
    assert set(rows["method"]) == {"plain, lr 0.05", "plain, lr 0.1"}
    assert len(summarize(rows).query("metric == 'accuracy'")) == 2


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", *TINY, "--vary", "method=plain|sam:0.1", "--draws", "2", "--images", "60"]
    command += ["--out", str(tmp_path / "sweep")]
    main([*command, "--dry-run"])
    assert "2 of 2 missing\n  train plain seed 0\n  train sam:0.1 seed 0\n" in capsys.readouterr().out
    assert not (tmp_path / "sweep").exists()
    main([*command, "--plot", str(tmp_path / "a.png")])
    assert "sam:0.1" in capsys.readouterr().out
    main([*command, "--dry-run"])
    assert "0 of 2 missing\n0 of 2 missing\n" in capsys.readouterr().out
    assert "expected --vary setting=value|value, got 'method'" in refused([*command, "--vary", "method"], capsys)


def test_without_ray_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'noiserobust\[ray\]', or use local"):
        list(OnRay().run([Training(BASE, tmp_path)]))


def test_where_no_cluster_answers_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")

    def init(**options: object) -> None:
        os.write(2, b"a line of a compiled part for every attempt")
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        at = f"127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(UserError, match=f"a Ray cluster at {at}, got none in 0 s: Failed to connect"):
            list(OnRay(at).run([Training(BASE, tmp_path)]))
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"


@dataclass(frozen=True)
class Slow:
    """A piece that says on which node it starts, and ends when it is told to."""

    number: int
    out: Path

    @property
    def name(self) -> str:
        return f"slow {self.number}"

    @property
    def result(self) -> Path:
        return self.out / f"{self.number}.done"

    def run(self) -> None:
        import ray

        node = ray.get_runtime_context().get_node_id()
        (self.out / f"{self.number}.{os.getpid()}.started").write_text(node)
        assert _comes(lambda: (self.out / "go").exists())
        with self.result.open("x") as file:  # a second completion would fail
            file.write(node)


@dataclass(frozen=True)
class Wrong(Slow):
    def run(self) -> None:
        raise UserError("expected something else")


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A real cluster on this machine, whose workers find this module."""
    ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
    from ray.cluster_utils import Cluster

    tests = str(Path(__file__).parent)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(tests).parent), tests, before]))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


class TestOnRay:
    def test_it_gives_the_same_rows(self, cluster: object, local: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
        told: list[str] = []
        rows = sweep(
            *(BASE, VARY, NOISES, 5, tmp_path),
            options=OPTIONS,
            shard=5,
            executor=OnRay(),
            on_piece=lambda piece, done, of: told.append(f"{piece.name} {done}/{of}"),
        )
        same(rows, local[1])
        assert len(told) == 4 + 8

    def test_code_beside_the_program_is_found(
        self, cluster: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "beside.py").write_text(
            "from dataclasses import dataclass\n"
            "from noiserobust.training.rules.base import Method\n"
            "@dataclass(frozen=True)\nclass Own(Method):\n    size: float = 0.5\n"
        )
        monkeypatch.chdir(tmp_path)
        try:
            (run,) = runs_of(BASE, {"method": ["beside:Own(0.25)"]}, tmp_path / "runs")
            assert list(OnRay().run([run])) == [run]
        finally:
            sys.modules.pop("beside", None)
        assert read_checkpoint(run.result).about["label"] == "beside:Own(0.25)"

    def test_paths_are_seen_from_the_folder_of_the_command(
        self, cluster: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those of results, and of what is read: the cluster's processes began elsewhere."""
        monkeypatch.chdir(tmp_path)
        (first,) = runs_of(BASE, {"seed": [0]}, "runs")
        (second,) = runs_of(replace(BASE, initial=str(first.result)), {"seed": [0]}, "runs")
        for run in (first, second):
            assert list(OnRay().run([run])) == [run]
            assert (tmp_path / run.result).is_file()

    def test_relative_paths_need_the_folder_of_the_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        _go_to(str(tmp_path / "nowhere"), Slow(0, tmp_path))
        with pytest.raises(UserError, match=r"expected the folder .*nowhere on every machine"):
            _go_to(str(tmp_path / "nowhere"), Slow(0, Path("relative")))
        (tmp_path / "there").mkdir()
        _go_to(str(tmp_path / "there"), Slow(0, Path("relative")))
        assert Path.cwd() == tmp_path / "there"

    def test_a_node_that_dies_loses_nothing(self, cluster: object, tmp_path: Path) -> None:
        node = cluster.add_node(num_cpus=1)  # type: ignore[attr-defined]
        pieces = [Slow(number, tmp_path) for number in range(6)]

        def begun() -> dict[str, list[int]]:
            """Node -> processes that began a piece there."""
            processes: dict[str, list[int]] = {}
            for path in tmp_path.glob("*.started"):
                processes.setdefault(path.read_text(), []).append(int(path.name.split(".")[1]))
            processes.pop("", None)  # just being written
            return processes

        def kill_when_both_are_at_work() -> bool:
            try:
                both = _comes(lambda: len(begun()) == 2)
                for process in begun().get(node.node_id, []):
                    os.kill(process, signal.SIGKILL)
                cluster.remove_node(node, allow_graceful=False)  # type: ignore[attr-defined]
            finally:
                (tmp_path / "go").touch()
            return both

        with ThreadPoolExecutor(1) as background:
            killed = background.submit(kill_when_both_are_at_work)
            finished = sorted(piece.name for piece in OnRay().run(pieces))
            assert killed.result()
        assert finished == [piece.name for piece in pieces]
        assert all(piece.result.is_file() for piece in pieces)
        # What the dead node was at was begun again elsewhere, and finished once.
        assert len(list(tmp_path.glob("*.started"))) > len(pieces)

    def test_bad_input_on_a_worker_is_one_line_here(self, cluster: object, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="expected something else"):
            list(OnRay().run([Wrong(0, tmp_path)]))


def _comes(condition: Callable[[], bool]) -> bool:
    """Whether ``condition`` comes true before this counts as hung."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
