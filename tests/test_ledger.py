"""Rows of several processes in one file: none is lost, none is there twice, and what a person does to it counts."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import sqlite3
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from ledger_worker import DATA, net, work
from processes import LIMIT

from noiserobust import UserError, evaluate
from noiserobust.storage import ledger as module
from noiserobust.storage.ledger import Ledger
from noiserobust.storage.rows import OPERATION, read_rows, write_rows
from noiserobust.tasks.scoring import score

ABOUT = {
    "model": "plain[0]",
    "method": "plain",
    "replicate": 0,
    "images": 60,
    "analog": "",
    "precision": "fp32",
    "weights": "a" * 16,
    "answer": "1 2 3 4",
    "data": "b" * 16,
    "device": "cpu",
    "torch": "2.0",
    "commit": "",
    "seed": 0,
    "semantics": 2,
    "noise": "gaussian:0.1",
    "strength": 0.1,
    "read": 0,
    "t": math.nan,
    **OPERATION,
}


def unit(draw: int, **others: object) -> dict[str, Any]:
    return {**ABOUT, "draw": draw, **others}


def filled(path: Path, draws: Iterable[int], **others: object) -> None:
    """A file with a row per draw, whose value is the draw."""
    ledger = Ledger(path)
    for draw in draws:
        ledger.add(unit(draw, **others), {"loss": float(draw)})
    ledger.close()


def losses(path: Path) -> dict[int, float]:
    rows = read_rows(path)
    assert not rows.duplicated(["method", "weights", "noise", "draw", "metric"]).any()
    return dict(zip(rows["draw"], rows["value"], strict=True))


def known(path: Path, draw: int, **others: object) -> float | None:
    ledger = Ledger(path)
    values = ledger.find(unit(draw, **others))
    ledger.close()
    return values and values["loss"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.parquet"


class TestRows:
    def test_come_back_with_every_value(self, path: Path) -> None:
        values = {"loss": 1 / 3, "accuracy": math.inf, "perplexity": math.nan}
        ledger = Ledger(path, columns={"severity": np.int64(3)})
        for draw, t in ((0, math.nan), (0, 0.1), (1, 60.0)):
            ledger.add(unit(draw, t=t, strength=np.float64(0.1)), values)
        table = ledger.table()
        ledger.close()
        in_order = table.sort_values(["draw", "t"], kind="stable", ignore_index=True, na_position="first")
        pd.testing.assert_frame_equal(read_rows(path), in_order)
        assert table["draw"].tolist() == [0] * 6 + [1] * 3
        assert set(table["severity"]) == {3}
        assert "x" not in table
        ledger = Ledger(path)
        found = ledger.find(unit(0, t=float("nan"), strength=0.1))
        assert found is not None
        assert list(found) == list(values)
        assert str(found) == str(values)
        assert ledger.find(unit(0, t=0.1), ["top5"]) is None
        assert ledger.find(unit(0, t=0.2)) is None

    def test_a_number_is_known_by_its_value(self, path: Path) -> None:
        filled(path, range(1), recalibration=0, t=60.0)
        assert known(path, 0, recalibration=np.int64(0), t=60) == 0.0
        assert known(path, 0, recalibration=0.0, t=np.float64(60)) == 0.0
        assert known(path, 0, recalibration="0", t=60) is None

    def test_what_was_computed_by_another_version_says_so(self, path: Path) -> None:
        filled(path, range(2))
        ledger = Ledger(path)
        values = ledger.find(unit(0, torch="2.1"))
        ledger.add(unit(0, torch="2.1"), values or {})
        ledger.add(unit(1, torch="2.1"), {"loss": 5.0})  # computed anew without asking
        ledger.close()
        assert read_rows(path)["torch"].tolist() == ["2.0", "2.1"]

    def test_further_metrics_join_those_that_are_there(self, path: Path) -> None:
        filled(path, range(2))
        one, other = Ledger(path), Ledger(path)
        one.add(unit(0), {"loss": 0.0, "top5": 5.0})
        other.add(unit(0), {"loss": 0.0, "perplexity": 7.0})
        one.close()
        other.close()
        rows = read_rows(path)
        assert rows[rows["draw"] == 0].set_index("metric")["value"].to_dict() == {"loss": 0, "top5": 5, "perplexity": 7}

    def test_without_a_file_are_kept_in_memory(self) -> None:
        ledger = Ledger(None)
        assert ledger.table().empty
        ledger.add(unit(0), {"loss": 1.0})
        assert ledger.find(unit(0)) == {"loss": 1.0}
        ledger.close()
        assert ledger.table()["value"].tolist() == [1.0]


class TestFile:
    def test_nothing_new_leaves_it_alone(self, path: Path) -> None:
        filled(path, range(3))
        before = path.stat()
        filled(path, range(3))
        assert path.stat() == before

    def test_of_an_older_version_is_taken_in(self, path: Path) -> None:
        filled(path, range(2))
        Path(f"{path}.ledger").unlink()
        write_rows(read_rows(path).drop(columns=list(OPERATION)), path)
        with pytest.raises(UserError, match="table without t"):
            Ledger(write_rows(read_rows(path).drop(columns="t"), path.with_name("foreign.parquet")))
        assert not path.with_name("foreign.parquet.ledger").exists()
        assert known(path, 1) == 1.0
        assert known(path, 2) is None
        filled(path, range(1, 3))
        assert losses(path) == {0: 0, 1: 1, 2: 2}

    def test_rows_without_a_network_are_all_kept(self, path: Path) -> None:
        filled(path, range(1))
        rows = read_rows(path)
        foreign = rows.assign(weights=None, method="foreign")
        write_rows(pd.concat([rows, foreign, foreign], ignore_index=True), path)
        filled(path, range(1, 2))
        assert read_rows(path)["method"].tolist() == ["plain", "foreign", "foreign", "plain"]

    def test_that_was_replaced_counts(self, path: Path) -> None:
        filled(path, range(3))
        write_rows(read_rows(path).query("draw != 1").assign(value=9.0), path)
        assert [known(path, draw) for draw in range(3)] == [9.0, None, 9.0]

    def test_that_was_deleted_is_begun_anew(self, path: Path) -> None:
        filled(path, range(3))
        path.unlink()
        assert known(path, 0) is None
        filled(path, range(3, 4))
        assert losses(path) == {3: 3.0}

    def test_that_was_moved_with_its_ledger_or_without(self, path: Path) -> None:
        filled(path, range(2))
        shutil.copy(path, path.with_name("alone.parquet"))
        for name in ("rows.parquet", "rows.parquet.ledger"):
            shutil.copy(path.with_name(name), path.with_name(name.replace("rows", "both")))
        assert known(path.with_name("alone.parquet"), 1) == known(path.with_name("both.parquet"), 1) == 1.0

    def test_behind_a_link_is_one_file(self, path: Path) -> None:
        link = path.with_name("link.parquet")
        filled(path, range(1))
        link.symlink_to(path)
        filled(link, range(1, 2))
        assert link.is_symlink()
        assert losses(path) == {0: 0, 1: 1}
        assert not Path(f"{link}.ledger").exists()

    def test_a_change_of_what_names_a_unit_keeps_the_rows(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        filled(path, range(2))
        OPERATION["clipping"] = "none"
        try:
            monkeypatch.setattr(module, "UNIT", [*module.UNIT, "clipping"])
            assert known(path, 1, clipping="none") == 1.0
            assert known(path, 1, clipping="2 rms") is None
        finally:
            del OPERATION["clipping"]


class TestRefusals:
    def test_in_one_line(self, path: Path) -> None:
        path.write_text("model,value\n")
        with pytest.raises(UserError, match="cannot be read as parquet"):
            Ledger(path)
        assert os.listdir(path.parent) == ["rows.parquet"]
        with pytest.raises(UserError, match=r"expected a folder that can be written for .*deeper\.parquet"):
            Ledger(path / "deeper.parquet")

    def test_a_folder_that_cannot_be_written(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*arguments: object, **options: object) -> None:
            raise sqlite3.OperationalError("attempt to write a readonly database")

        monkeypatch.setattr(sqlite3, "connect", refuse)
        with pytest.raises(UserError, match=r"a folder that can be written for .*: attempt to write a readonly"):
            Ledger(path)

    def test_what_is_no_file_stays_what_it_is(self, path: Path) -> None:
        """A pipe here, as a device is (never tried on /dev/null: where the test fails, the machine loses it)."""
        os.mkfifo(path)
        with pytest.raises(UserError, match=r"got .*rows\.parquet, a device or pipe"):
            Ledger(path)
        with pytest.raises(UserError, match=r"got .*rows\.parquet, a device or pipe"):
            write_rows(pd.DataFrame({"a": [1]}), path)
        assert path.is_fifo()
        assert os.listdir(path.parent) == ["rows.parquet"]
        with pytest.raises(UserError, match="expected the name of a file to write, got the folder"):
            Ledger(path.parent)

    def test_one_that_another_process_keeps(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        filled(path, range(1))
        monkeypatch.setattr("noiserobust.storage.database.WAIT", 0.0)
        monkeypatch.setattr("noiserobust.storage.database.PATIENCE", 0.01)
        holder = sqlite3.connect(f"{path}.ledger", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="that another process keeps locked"):
            Ledger(path)
        holder.close()


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


class TestDamage:
    """Nothing damaged is taken for a row; what is set aside is said in one line, and nothing else is lost."""

    @pytest.mark.parametrize("how", ["text", "cut", "empty page"])
    def test_a_ledger_is_begun_anew_from_the_file(self, path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
        filled(path, range(3))
        ledger = Path(f"{path}.ledger")
        content = ledger.read_bytes()
        broken = {"text": b"no database " * 500, "cut": content[:-5000], "empty page": content[:4096] + bytes(4096)}
        ledger.write_bytes(broken[how] + content[len(broken[how]) :] if how == "empty page" else broken[how])
        filled(path, range(3, 4))
        assert losses(path) == {draw: draw for draw in range(4)}
        (line,) = [record.getMessage() for record in caplog.records]
        assert "kept as rows.parquet.ledger.corrupt, begun anew from rows.parquet" in line
        assert Path(f"{ledger}.corrupt").is_file()

    def test_no_value_of_a_ledger_is_taken_wrong(self, path: Path) -> None:
        """Every byte of a row's value."""
        filled(path, range(1), t=0.1)
        ledger = Path(f"{path}.ledger")
        content = ledger.read_bytes()
        at = content.rindex(struct.pack(">d", 0.1))
        for byte in range(8):
            flipped(ledger, at + byte)
            assert known(path, 0, t=0.1) == 0.0
            pd.testing.assert_series_equal(read_rows(path)["t"], pd.Series([0.1], name="t"))
            assert Path(f"{ledger}.corrupt").is_file()
            Path(f"{ledger}.corrupt").unlink()
            ledger.write_bytes(content)

    def test_while_it_is_used(self, path: Path) -> None:
        """Its own rows are put again."""
        filled(path, range(2))
        ledger = Ledger(path)
        ledger.add(unit(2), {"loss": 2.0})
        ledger.save()
        sqlite3.connect(f"{path}.ledger", isolation_level=None).execute("UPDATE results SET value = 7 WHERE draw = 1")
        ledger.add(unit(3), {"loss": 3.0})
        assert ledger.find(unit(1)) == {"loss": 1.0}
        ledger.close()
        assert losses(path) == {draw: draw for draw in range(4)}

    def test_a_file_is_written_again_from_its_ledger(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        filled(path, range(3))
        content = path.read_bytes()
        for at in range(7, len(content), len(content) // 9):
            flipped(path, at)
            assert known(path, 1) == 1.0
            assert losses(path) == {0: 0, 1: 1, 2: 2}
            path.write_bytes(content)
        path.write_bytes(content[:1000])
        assert known(path, 2) == 2.0
        assert losses(path) == {0: 0, 1: 1, 2: 2}
        assert all("damaged; kept as" in record.getMessage() for record in caplog.records)

    def test_a_file_without_a_ledger_is_refused_or_computed_anew(self, path: Path) -> None:
        filled(path, range(3))
        Path(f"{path}.ledger").unlink()
        flipped(path, 40)
        with pytest.raises(UserError, match="whose checksum differs"):
            read_rows(path)
        assert known(path, 1) is None
        assert path.with_name("rows.parquet.corrupt").is_file()

    def test_ledgers_of_older_versions_have_no_checksums(self, path: Path) -> None:
        filled(path, range(2))
        older = sqlite3.connect(f"{path}.ledger", isolation_level=None)
        for table in ("results", "conditions"):
            older.execute(f"ALTER TABLE {table} DROP COLUMN checksum")
        older.close()
        assert known(path, 1) == 1.0
        filled(path, range(2, 3))
        assert losses(path) == {0: 0, 1: 1, 2: 2}


class TestAtOnce:
    def test_what_one_has_finished_the_other_takes_over(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "COMMIT_EVERY", 0.0)
        one, other = Ledger(path), Ledger(path)
        one.add(unit(0), {"loss": 1.0})
        assert other.find(unit(0)) == {"loss": 1.0}
        other.add(unit(1), {"loss": 2.0})
        one.close()
        other.close()
        assert losses(path) == {0: 1.0, 1: 2.0}

    @pytest.mark.parametrize("first", [0, 1])
    def test_either_may_end_first(self, path: Path, first: int) -> None:
        filled(path, range(2))
        ledgers = [Ledger(path), Ledger(path)]
        for draw, ledger in enumerate(ledgers, 2):
            ledger.add(unit(draw), {"loss": float(draw)})
        ledgers[first].close()
        ledgers[1 - first].close()
        assert losses(path) == {draw: draw for draw in range(4)}

    @pytest.mark.parametrize("replaced", [True, False])
    def test_a_file_that_goes_while_one_is_at_work(self, path: Path, replaced: bool) -> None:
        """Its own rows are written; of the others there are those that the new file holds."""
        filled(path, range(2))
        one = Ledger(path)
        one.add(unit(2), {"loss": 2.0})
        one.save()
        rows = read_rows(path)
        path.unlink()
        if replaced:
            write_rows(rows.query("draw == 0"), path)
        filled(path, range(3, 4))  # it sees that the file went
        one.add(unit(4), {"loss": 4.0})
        one.close()
        assert losses(path) == ({0: 0} if replaced else {}) | {2: 2, 3: 3, 4: 4}

    @pytest.mark.parametrize("again", [True, False])
    def test_a_ledger_that_goes_while_one_is_at_work(self, path: Path, again: bool) -> None:
        """Nothing is lost, whether or not another process has begun a new one."""
        filled(path, range(2))
        one = Ledger(path)
        one.add(unit(2), {"loss": 2.0})
        Path(f"{path}.ledger").unlink()
        if again:
            filled(path, range(3, 4))
        one.add(unit(4), {"loss": 4.0})
        one.close()
        assert losses(path) == {0: 0, 1: 1, 2: 2, 4: 4} | ({3: 3} if again else {})

    def test_the_file_is_brought_up_to_date_meanwhile(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "EXPORT_EVERY", 0.0)
        ledger = Ledger(path)
        ledger.add(unit(0), {"loss": 0.0})
        assert losses(path) == {0: 0}
        ledger.close()


def started(*arguments: Any) -> multiprocessing.Process:
    """A fork, which finds everything imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads
        process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
        process.start()
    return process  # type: ignore[return-value]


def test_two_processes_write_one_file(path: Path) -> None:
    """Both have computed their first draw before either goes on; two draws are wanted by both, and computed once."""
    one, other = path.with_name("one"), path.with_name("other")
    processes = [started(path, 0, 4, one, other), started(path, 2, 4, other, one)]
    for process in processes:
        process.join(LIMIT)
        assert process.exitcode == 0
    assert sum(int(mine.read_text()) for mine in (one, other)) == 6
    assert sorted(os.listdir(path.parent)) == ["one", "other", "rows.parquet", "rows.parquet.ledger"]
    rows = read_rows(path)
    expected = evaluate(net(), DATA, "gaussian:0.3", draws=6).rows
    columns = ["draw", "metric", "value"]
    stored = rows[rows["metric"] != "images"].sort_values(["draw", "metric"], ignore_index=True)
    pd.testing.assert_frame_equal(stored[columns], expected[columns])
    assert len(rows) == 3 * 6


def test_after_a_process_was_killed_the_next_goes_on(path: Path) -> None:
    there = path.with_name("there")
    killed = started(path, 0, 4, there, there, 2)
    killed.join(LIMIT)
    assert killed.exitcode == -signal.SIGKILL
    assert not path.exists()
    scores = []

    def counting(*arguments: Any) -> Any:
        scores.append(score(*arguments))
        return scores[-1]

    with patch("noiserobust.evaluation.on_chips.score", counting):
        rows = evaluate(net(), DATA, "gaussian:0.3", draws=4, out=path).rows
    assert len(scores) == 2
    assert len(rows) == 4 * 2 + 2
    stored, found = (one.sort_values(["draw", "metric"], ignore_index=True) for one in (read_rows(path), rows))
    pd.testing.assert_frame_equal(stored.sort_index(axis=1), found.sort_index(axis=1))


@pytest.mark.parametrize("before", [True, False])
def test_killed_while_the_file_is_written(path: Path, before: bool) -> None:
    """Before or after the new file is in its place: no row is lost, none is there twice."""
    replace = os.replace

    def kill(source: str, target: str) -> None:
        if not before:
            replace(source, target)
        raise KeyboardInterrupt

    filled(path, range(2))
    with patch("noiserobust.storage.files.os.replace", kill), pytest.raises(KeyboardInterrupt):
        filled(path, range(2, 4))
    assert losses(path) == {draw: draw for draw in range(2 if before else 4)}
    assert known(path, 3) == 3.0
    assert losses(path) == {draw: draw for draw in range(4)}
