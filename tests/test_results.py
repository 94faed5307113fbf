"""Rows on disk: whole or not at all."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from processes import LIMIT, python

import noiserobust.storage.provenance as versions
from noiserobust.errors import UserError
from noiserobust.storage.files import write_atomically
from noiserobust.storage.provenance import provenance
from noiserobust.storage.rows import read_rows, write_rows

ROWS = pd.DataFrame(
    {
        "model": ["a.pt", "b.pt"],
        "replicate": [0, 1],
        "strength": [0.05, 0.1],
        "t": [math.nan, 25.0],
        "value": [93.1, 1 / 3],
    }
)


def test_rows_come_back_equal(tmp_path: Path) -> None:
    path = write_rows(ROWS, tmp_path / "new" / "folder" / "rows.parquet")
    pd.testing.assert_frame_equal(read_rows(path), ROWS, check_exact=True)
    assert os.listdir(path.parent) == ["rows.parquet"]


def test_index_of_a_filtered_table_is_not_stored(tmp_path: Path) -> None:
    back = read_rows(write_rows(ROWS[ROWS["replicate"] == 1], tmp_path / "rows.parquet"))
    assert list(back.columns) == list(ROWS.columns)
    assert list(back.index) == [0]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_raises_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("old")

    def half(temporary: Path) -> None:
        assert temporary.parent == tmp_path  # a rename is atomic only within one file system
        temporary.write_text("ne")
        raise error

    with pytest.raises(error):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["rows.parquet"]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("old")
    code = (
        "import os, sys; from noiserobust.storage.files import write_atomically\n"
        "def half(temporary): temporary.write_text('ne'); os.kill(os.getpid(), 9)\n"
        "write_atomically(sys.argv[1], half)"
    )
    done = python("-c", code, str(path), check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"
    assert list(tmp_path.glob("*.parquet")) == [path]  # what is left over is not taken for a result


def test_a_link_keeps_pointing_at_its_file(tmp_path: Path) -> None:
    target, link = tmp_path / "disk" / "notes.txt", tmp_path / "notes.txt"
    link.symlink_to(target)
    write_atomically(link, lambda temporary: temporary.write_text("new"))
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_files_get_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    path = write_atomically(tmp_path / "rows", lambda temporary: temporary.write_text("new"))
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="got the folder"):
        write_rows(ROWS, tmp_path)
    with pytest.raises(UserError, match=r"expected a folder that can be written for .*rows\.parquet"):
        write_rows(ROWS, tmp_path / "file" / "rows.parquet")


def test_what_is_not_a_table_of_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a file; check the name"):
        read_rows(tmp_path / "absent.parquet")
    with pytest.raises(UserError, match=r"got the folder .*evaluate makes rows of the runs in one"):
        read_rows(tmp_path)
    (tmp_path / "text.parquet").write_text("model,value\n")
    (tmp_path / "cut.parquet").write_bytes(write_rows(ROWS, tmp_path / "rows.parquet").read_bytes()[:-40])
    for name, said in {"text": "cannot be read as parquet", "cut": r"checksum differs \(damaged\)"}.items():
        with pytest.raises(UserError, match=said):
            read_rows(tmp_path / f"{name}.parquet")


def test_provenance_says_versions_and_no_machine() -> None:
    import torch

    stamp = provenance()
    assert list(stamp) == ["noiserobust", "torch", "numpy", "python", "commit"]
    assert stamp["torch"] == torch.__version__
    assert re.fullmatch(r"([0-9a-f]{40}(-dirty)?)?", stamp["commit"])
    assert os.uname().nodename not in json.dumps(stamp)
    stamp["torch"] = "changed"
    assert provenance()["torch"] == torch.__version__


def test_commit_is_that_of_the_checkout_which_tracks_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT).stdout.strip()

    package = tmp_path / "noiserobust"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert versions._commit(package) == ""
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "first")
    assert versions._commit(package) == ""  # within a checkout, as a virtual environment is, but not a part of it
    git("add", ".")
    git("commit", "--quiet", "--message", "second")
    (tmp_path / "scratch").touch()
    assert versions._commit(package) == git("rev-parse", "HEAD")
    (package / "__init__.py").write_text("changed")
    assert versions._commit(package) == git("rev-parse", "HEAD") + "-dirty"
    monkeypatch.setenv("PATH", "")
    assert versions._commit(package) == ""
