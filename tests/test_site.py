"""The documentation as a site: it builds without a warning, and its reference is that of the docstrings."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

import pytest
from processes import python

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    python("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder), cwd=ROOT, env=environment)
    return folder


def test_every_page_has_its_place(site: Path) -> None:
    pages = {page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    start = (site / "index.html").read_text()
    listed = set(re.findall(r'href="(?:\./)?([a-z0-9_/-]+)/" class="md-nav__link', start))
    assert pages <= listed


def test_pictures_are_there(site: Path) -> None:
    for page in site.rglob("*.html"):
        for picture in re.findall(r'<img[^>]*src="([^"]+)"', page.read_text()):
            if not picture.startswith("data:"):
                assert (page.parent / picture).resolve().is_file(), f"{picture} of {page.relative_to(site)}"


def test_no_link_leads_to_a_file_that_the_site_lacks(site: Path) -> None:
    for page in site.glob("**/index.html"):
        for target in re.findall(r'<a[^>]*href="([^":#?]+)(?=["#?])', page.read_text()):
            place = (page.parent / target).resolve()
            assert place.exists(), f"{target} of {page.relative_to(site)}"


def test_the_notebook_is_shown_with_its_outputs(site: Path) -> None:
    text = (site / "notebook" / "index.html").read_text()
    assert text.count('src="data:image/png;base64,') == 1
    assert "<td>" in text  # coverage and the run
    assert "accuracy in %: mean" in text
    assert 'href="../notebook/"' in (site / "start" / "index.html").read_text()


@pytest.mark.parametrize("package", ["noiserobust", "noiserobust.training", "noiserobust.evaluation"])
def test_reference_has_every_public_name(site: Path, package: str) -> None:
    text = (site / "reference" / package / "index.html").read_text()
    module = importlib.import_module(package)
    for name in module.__all__:
        one = getattr(module, name)
        if callable(one) and getattr(one, "__module__", "").startswith("noiserobust."):
            assert f'id="{one.__module__}.{one.__qualname__}"' in text


def test_docstrings_are_readable(site: Path) -> None:
    text = (site / "reference" / "noiserobust.noise" / "index.html").read_text()
    assert "<math" in text
    assert ":class:`" not in text
    assert ".. math::" not in text
    assert 'class="gp"' in text  # a session's prompt


def test_search_and_pages_need_nothing_from_elsewhere(site: Path) -> None:
    assert (site / "search" / "search_index.json").is_file()
    for page in (site / "index.html", site / "noise" / "index.html"):
        assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=\"https?:", page.read_text())
