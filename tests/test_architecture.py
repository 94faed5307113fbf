"""The shape of the package: imports point one way, importing it is light, files stay readable."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from pathlib import Path

from processes import python

import noiserobust

PACKAGE = Path(noiserobust.__file__).parent
LAYERS = [
    {"errors"},
    {"limits", "file_kinds"},
    {"rng", "spec", "seals", "endings", "memory", "bars"},
    {"noise", "data"},
    {"models"},
    {"tasks"},
    {"storage"},
    {"analog"},
    {"minima"},
    {"report"},
    {"training", "evaluation"},
    {"sweep", "doctor"},
    {"papers", "page"},
    {"__init__", "cli"},
    {"integrations"},
    {"__main__"},
]
"""The rooms, from the ground up: a room knows only those below it."""
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(file: Path) -> set[str]:
    """The parts of the package that ``file`` imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "noiserobust" else [f"noiserobust.{n.name}" for n in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("noiserobust.")}
    return found


def test_every_part_has_its_place() -> None:
    assert {part_of(file) for file in PACKAGE.rglob("*.py")} == set(LEVEL)


def test_the_page_on_the_design_lists_every_part() -> None:
    page = (PACKAGE.parent / "docs" / "design.md").read_text()
    listed = re.findall(r"^  (\w+)(?:/|\.py) ", page.split("```")[1], re.MULTILINE)
    assert set(listed) == set(LEVEL) - {"__init__", "__main__"}
    assert [LEVEL[part] for part in listed] == sorted(LEVEL[part] for part in listed)


def test_imports_point_one_way() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)} imports {other}"
        for file in PACKAGE.rglob("*.py")
        for other in imported_parts(file)
        if other in LEVEL and other != part_of(file) and LEVEL[other] >= LEVEL[part_of(file)]
    ]
    assert not wrong


def outside(file: Path) -> set[str]:
    """The top-level packages of this repository that ``file`` imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[0] for name in names}
    return found & {"noiserobust", "experiments", "figures"}


def test_nothing_in_the_package_knows_of_the_experiments() -> None:
    assert not [file for file in PACKAGE.rglob("*.py") if outside(file) & {"experiments", "figures"}]


def test_no_module_is_shadowed_by_what_its_package_exports() -> None:
    names = [m.name for m in pkgutil.walk_packages(noiserobust.__path__, "noiserobust.") if "__main__" not in m.name]
    modules = {name: importlib.import_module(name) for name in names}
    parents = {name: importlib.import_module(name.rpartition(".")[0]) for name in names}
    shadowed = [name for name in names if getattr(parents[name], name.rpartition(".")[2]) is not modules[name]]
    assert not shadowed


def test_nobody_imports_the_integrations() -> None:
    """Each is imported by the person who uses it, and imports its library."""
    outsiders = [file for file in PACKAGE.rglob("*.py") if part_of(file) != "integrations"]
    assert not [file for file in outsiders if "integrations" in imported_parts(file)]


HEAVY = {"aihwkit", "matplotlib", "ray", "scipy", "sklearn", "torchvision"}
"""Loaded where they are used."""


LIGHT = {
    "import noiserobust": HEAVY | {"torch", "numpy", "pandas"},
    "from noiserobust.evaluation.settings import Chips": HEAVY | {"torch", "numpy", "pandas"},
    "from noiserobust.training.settings import TrainSettings": HEAVY | {"torch", "numpy", "pandas"},
    "noiserobust.noise.parse('measured:example')": HEAVY | {"pandas"},
    "noiserobust.perturbed, noiserobust.coverage": HEAVY | {"pandas"},
    "noiserobust.evaluate": HEAVY,
    "noiserobust.training.fit, noiserobust.training.Engine, noiserobust.data.load": HEAVY,
    "noiserobust.report": HEAVY,
}
"""What is imported, one after the other in one process, and what is absent then."""


def named_in_pages() -> list[str]:
    """What the documentation names inside the package, without what needs another library."""
    pages = [PACKAGE.parent / "README.md", *(PACKAGE.parent / "docs").glob("*.md")]
    found = {name for page in pages for name in re.findall(r"\bnoiserobust(?:\.[A-Za-z_]\w*)+", page.read_text())}
    return sorted(name for name in found if ".integrations." not in name)


def test_importing_is_light() -> None:
    script = "import sys\n" + "\n".join(f"{code}; print(*sys.modules)" for code in LIGHT)
    script += "\n" + "\n".join(named_in_pages())  # nothing else needs to be imported first
    for (code, absent), loaded in zip(LIGHT.items(), python("-c", script).stdout.splitlines(), strict=True):
        assert any(name.startswith("noiserobust") for name in loaded.split()), code
        assert not absent & set(loaded.split()), code


def test_files_stay_readable() -> None:
    lengths = {str(f.relative_to(PACKAGE)): len(f.read_text().splitlines()) for f in PACKAGE.rglob("*.py")}
    assert not {name: length for name, length in lengths.items() if length > 400}
    assert lengths["__init__.py"] < 40
