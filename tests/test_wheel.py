"""The wheel holds the package alone, and what it installs works from any folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from processes import LIMIT
from safetensors.torch import load_file

from noiserobust.papers import PAPERS

ROOT = Path(__file__).parents[1]
SOURCES = ["pyproject.toml", "README.md", "LICENSE", "noiserobust", "tests", "experiments", "figures"]
SHORT = ["--seeds", "0", "--epochs", "1", "--draws", "1"]
TAG = "7.8.9"
COMMIT = ["-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "--no-verify", "-m", "one"]
COMMON = ["-m", "pip", "--disable-pip-version-check", "--quiet"]

pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path) -> str:
    """What a command prints, run in ``folder`` without any setting of ours."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=clean, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, since a build leaves its folders beside the sources; without git so far."""
    copy = tmp_path_factory.mktemp("wheel") / "checkout"
    copy.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
        else:
            shutil.copyfile(source, copy / name)
    return copy


@pytest.fixture(scope="module")
def without_tags(checkout: Path) -> list[str]:
    """The versions of a copy without git and of a clone that has no tags."""
    versions = [run(sys.executable, "-m", "setuptools_scm", folder=checkout)]
    for words in (["init", "--quiet"], ["add", "."], COMMIT):
        run("git", *words, folder=checkout)
    return [*versions, run(sys.executable, "-m", "setuptools_scm", folder=checkout)]


@pytest.fixture(scope="module")
def wheel(checkout: Path, without_tags: list[str]) -> Path:
    """The wheel of the source distribution of a tagged commit."""
    folder = checkout.parent
    run("git", "tag", f"v{TAG}", folder=checkout)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", code, folder=checkout)
    (sources,) = folder.glob("*.tar.gz")
    run(sys.executable, *COMMON, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, sources, folder=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment with the wheel, and the packages of others from this one.

    A folder named in a .pth file is searched, its own .pth files are not read: so the checkout that is installed here
    as editable stays out of sight.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, *COMMON, "--python", python, "install", "--no-deps", "--no-index", wheel, folder=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    others = [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    (packages / "others.pth").write_text("\n".join(others) + "\n")
    return folder / "bin"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names if ".dist-info/" not in name} == {"noiserobust"}
    assert not [name for name in names if {"tests", "experiments", "figures"} & set(name.split("/"))]
    assert "noiserobust/py.typed" in names


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    kinds = (".py", ".pyi", ".csv", ".json", ".parquet", ".typed")
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "noiserobust").rglob("*") if path.suffix in kinds]
    assert not set(files) - set(names)


def test_the_installed_package_is_the_wheels_own(environment: Path, tmp_path: Path) -> None:
    code = (
        "import noiserobust, noiserobust.papers.grid as g; from noiserobust.noise import NoiseModel\n"
        f"print(noiserobust.__file__, NoiseModel.parse('measured:example'), *(len(g.published(p)) for p in {PAPERS!r}))"
    )
    place, example, *cells = run(environment / "python", "-c", code, folder=tmp_path).split()
    assert Path(place).is_relative_to(environment.parent)
    assert example.startswith("measured:")
    assert all(int(count) > 10 for count in cells)


def test_a_table_of_a_paper_is_planned_from_any_folder(environment: Path, tmp_path: Path) -> None:
    command = [environment / "noiserobust", "reproduce", "incorruptible", "table1"]
    printed = run(*command, "--dry-run", "--scale", "mini", folder=tmp_path)
    assert "21 of 21 trainings missing" in printed
    assert not list(tmp_path.iterdir())


def test_the_version_is_that_of_the_tag(environment: Path, without_tags: list[str], tmp_path: Path) -> None:
    assert run(environment / "python", "-m", "noiserobust", "--version", folder=tmp_path) == f"noiserobust {TAG}\n"
    fallback = re.search('__version__ = "(.*)"', (ROOT / "noiserobust" / "__init__.py").read_text())
    assert fallback is not None
    assert without_tags[0].strip() == fallback[1]
    assert without_tags[1].startswith(f"{fallback[1]}+g")


def test_the_main_job_runs_from_any_folder(environment: Path, tmp_path: Path) -> None:
    printed = run(environment / "noiserobust", "demo", *SHORT, folder=tmp_path)
    assert "rwp:gaussian(0.3), clip 1.25 rms - plain" in printed
    assert (tmp_path / "runs" / "demo" / "demo.png").is_file()


def test_a_fresh_installation_computes_the_same(environment: Path, tmp_path: Path) -> None:
    """The same bytes of weights and the same rows as from this checkout."""
    few = ["--model", "digits:2", "--epochs", "2", "--batch-size", "800", "--method", "sam:0.1"]
    rows, weights = [], []
    for name, python in {"installed": environment / "python", "checkout": Path(sys.executable)}.items():
        place = tmp_path / name
        place.mkdir()
        call = [python, "-m", "noiserobust"]
        if name == "checkout":  # whatever is installed here
            code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from noiserobust.cli import main; main()"
            call = [python, "-c", code]
        run(*call, "train", *few, "--out", "runs", folder=place)
        run(*call, "evaluate", "runs", "--draws", "3", "--out", "rows.parquet", folder=place)
        (checkpoint,) = place.glob("runs/*/model.safetensors")
        weights.append({key: value.numpy().tobytes() for key, value in load_file(checkpoint).items()})
        rows.append(pd.read_parquet(place / "rows.parquet")[["draw", "metric", "value", "weights", "data"]])
    assert weights[0] == weights[1]
    pd.testing.assert_frame_equal(*rows, check_exact=True)
