"""The examination of an installation: what is well, what is not, and what to do."""

import json
import os
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
from processes import python

from noiserobust import doctor, memory
from noiserobust.cli.app import main


def test_this_installation_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    findings = {one["name"]: one for one in told["findings"]}
    assert told["well"]
    assert set(doctor.TESTS) | set(doctor.PACKAGES) | set(doctor.OPTIONAL) <= set(findings)
    assert "reach" in findings["training"]["found"]
    assert int(findings["cpu"]["found"].split()[0]) >= 1


def test_a_failed_self_test_is_named_with_a_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "KNOWN_DRAW", (0.0, 0.0, 0.0))
    monkeypatch.setattr(doctor, "TESTS", {"random numbers": doctor._draws})
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert "!!  random numbers" in told.out
    assert "-> reinstall" in told.out
    assert "problems with random numbers" in told.err


def test_a_compiled_part_that_does_not_load_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: undefined symbol: _ZN5torch\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(doctor, "_version", lambda package: "1.1.0")
    finding = doctor._optional("aihwkit", "tiles")
    assert "undefined symbol" in finding.found
    assert "torch 2.11" in finding.remedy
    assert not finding.serious


def test_missing_packages_little_room_and_locked_folders_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert doctor._optional("surely-not-installed", "nothing").remedy == ""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage(1, 1, 2**20))
    assert "make room" in doctor._disk(tmp_path).remedy

    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    assert "Read-only" in doctor._disk(tmp_path).found
    assert doctor._disk(tmp_path).remedy == "work in another folder"


def test_free_memory_stays_unless_somebody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that asks for and frees 64 MiB again and again faults its pages in once, not every time."""
    code = (
        "import resource, numpy\n"
        "from noiserobust.memory import keep_memory\n"
        "print(keep_memory())\n"
        "faults = lambda: (numpy.ones(2**23), resource.getrusage(resource.RUSAGE_SELF).ru_minflt)[1]\n"
        "for _ in range(4): first = faults()\n"
        "for _ in range(4): last = faults()\n"
        "print(last - first)"
    )
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_TUN"))}
    kept, given = (python("-c", code, env=own | {memory.SWITCH: switch}).stdout.splitlines() for switch in "10")
    assert given[0].startswith("given back")
    if kept[0].startswith("kept"):  # glibc
        assert int(kept[1]) < 0.1 * int(given[1])
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert memory.keep_memory() == "as MALLOC_ARENA_MAX says"
