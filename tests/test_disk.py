"""The one way to disk: checksums, places that can be written, what is left behind; and output that cannot show all."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from commands import refused
from safetensors.torch import load_file

from noiserobust import UserError
from noiserobust.endings import plain_output
from noiserobust.seals import BLANK, NAME, is_sound
from noiserobust.storage.files import file_to_write, folder_is_whole, folder_written_atomically, write_atomically
from noiserobust.storage.locks import locked
from noiserobust.storage.states import read_state, write_state
from noiserobust.storage.tensors import DTYPES, write_tensors
from noiserobust.sweep import Local


def sealed(path: Path) -> Path:
    text = f'{{"value": 1, "{NAME}": "{BLANK}"}}'
    return write_atomically(path, lambda temporary: temporary.write_text(text))


class TestSeals:
    def test_every_bit_counts(self, tmp_path: Path) -> None:
        """But those of the seal itself: a flip there takes it away, and changes nothing that is read."""
        path = sealed(tmp_path / "a.json")
        content = path.read_bytes()
        own = range(content.index(NAME.encode()), len(content) - 2)
        assert is_sound(path)
        assert BLANK.encode() not in content
        for at in set(range(len(content))) - set(own):
            for bit in range(8):
                flipped = bytearray(content)
                flipped[at] ^= 1 << bit
                path.write_bytes(flipped)
                assert not is_sound(path), (at, bit)

    def test_what_has_none_is_taken_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"")
        assert is_sound(tmp_path / "a")

    def test_in_a_large_file(self, tmp_path: Path) -> None:
        state = {"weights": torch.arange(10**6), "epoch": 3}
        path = write_state(tmp_path / "state.pt", state)
        assert read_state(path)["epoch"] == 3
        with path.open("r+b") as file:
            file.seek(4_000_000)
            file.write(b"\x07")
        with pytest.raises(UserError, match=r"state.pt as it was written, got one whose checksum differs \(damaged\)"):
            read_state(path)


class TestTensors:
    def test_are_what_safetensors_reads(self, tmp_path: Path) -> None:
        tensors = {str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in DTYPES}
        tensors |= {"none": torch.zeros(0, 3), "one": torch.tensor(2.5), "turned": torch.arange(6.0).reshape(2, 3).T}
        path = write_tensors(tmp_path / "a.safetensors", tensors, {"b": "µ", "a": "1"})
        read = load_file(path)
        assert read.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name].to(torch.complex64), tensor.to(torch.complex64)), name
        assert write_tensors(tmp_path / "b", tensors, {"a": "1", "b": "µ"}).read_bytes() == path.read_bytes()


class TestPlaces:
    def test_a_name_may_have_255_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / ("µ" * 127 + "x")
        assert sealed(path).is_file()
        with pytest.raises(UserError, match="got: File name too long; name another"):
            file_to_write(tmp_path / ("x" * 256))

    @pytest.mark.parametrize(
        ("words", "fragment"),
        [
            (["train", "--out", "x" * 256], "File name too long"),
            (["sweep", "--out", "file/runs"], "Not a directory"),
            (["sweep", "--out", "file"], "a folder to write into, got file, a file"),
            (["reproduce", "saf", "--out", "file"], "a folder to write into, got file, a file"),
            (["program", "nowhere", "--out", "file"], "a folder to write into, got file, a file"),
            (["evaluate", "nowhere", "--table", "pipe"], "got pipe, a device or pipe"),
            (["evaluate", "nowhere", "--plot", "a.jpg"], "a picture that ends in .png, .pdf or .svg"),
            (["evaluate", "nowhere", "--out", "a", "--table", "./a"], "files of their own for out and table"),
            (["evaluate", "nowhere", "--out", "a\0b"], "embedded null byte"),
            (["keep-digital", "nowhere", "--layers-out", "."], "got the folder ."),
        ],
    )
    def test_are_looked_at_before_the_work(
        self, words: list[str], fragment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        here = Path.cwd()
        (tmp_path / "file").touch()
        os.mkfifo(tmp_path / "pipe")
        os.chdir(tmp_path)
        try:
            assert fragment in refused(words, capsys)
        finally:
            os.chdir(here)
        assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]

    def test_folders_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a user, to whom the system says so; as root nothing is refused."""
        monkeypatch.setattr(os, "access", lambda *arguments: False)
        with pytest.raises(UserError, match="got: Permission denied; name another"):
            file_to_write(tmp_path / "a")

    def test_only_temporary_files_of_the_dead_are_removed(self, tmp_path: Path) -> None:
        names = [f".a.{digit * 12}.tmp" for digit in "ab"]
        for name in [*names, ".other.tmp"]:
            (tmp_path / name).touch()
        with locked(tmp_path / names[0]):
            sealed(tmp_path / "a")
        assert sorted(os.listdir(tmp_path)) == [names[0], ".other.tmp", "a"]

    def test_a_folder_has_its_checksums(self, tmp_path: Path) -> None:
        with folder_written_atomically(tmp_path / "a") as folder:
            (folder / "one").write_text("1")
        assert folder_is_whole(tmp_path / "a")
        assert not folder_is_whole(tmp_path / "b")
        with pytest.raises(KeyboardInterrupt), folder_written_atomically(tmp_path / "b"):
            raise KeyboardInterrupt
        assert os.listdir(tmp_path) == ["a"]
        (tmp_path / "a" / "one").write_text("2")
        assert not folder_is_whole(tmp_path / "a")


@pytest.mark.parametrize("refusal", [OSError(28, "No space left on device"), RuntimeError("pos 64"), "safetensors"])
def test_a_full_disk_is_one_line_from_every_library(tmp_path: Path, refusal: Exception | str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text("a part of it")
        if isinstance(refusal, str):
            raise OSError(28, "No space left on device")
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise refusal  # noqa: B904 - as torch does

    path = sealed(tmp_path / "a")
    before = path.read_bytes()
    with pytest.raises(UserError, match="got: No space left on device; make room and start the same again"):
        write_atomically(path, write)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "10 +/- 1 sigma \\u732b"), ("latin-1", "10 ± 1 sigma \\u732b")]
)
def test_signs_that_output_lacks(encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    plain_output()
    print("10 ± 1 σ 猫", end="", flush=True)
    assert written.getvalue().decode(encoding) == shown


@dataclass(frozen=True)
class Threads:
    """A piece that says on how many threads it computes."""

    result: Path
    name: str = "threads"

    def run(self) -> None:
        self.result.write_text(str(torch.get_num_threads()))


@pytest.mark.parametrize(("executor", "count"), [(Local(), 1), (Local(threads=2), 2), (Local(threads=None), 3)])
def test_threads_do_not_depend_on_the_process(
    executor: Local, count: int, tmp_path: Path, threads: Callable[[int], None]
) -> None:
    threads(3)
    list(executor.run([Threads(tmp_path / "a")]))
    assert (tmp_path / "a").read_text() == str(count)
    assert torch.get_num_threads() == 3


@pytest.fixture
def threads() -> object:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
