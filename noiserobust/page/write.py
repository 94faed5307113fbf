"""The page as one file."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import noiserobust
from noiserobust.errors import UserError
from noiserobust.evaluation.statistics.components import Design
from noiserobust.page.parts import Asked
from noiserobust.page.results import Results
from noiserobust.report.colours import colours_of
from noiserobust.storage.files import write_atomically

FOLDER = Path(__file__).parent
LARGEST = 4_000_000
"""Bytes of a page at most: what still opens at once on a phone."""


def write_page(
    results: Sequence[str | Path],
    path: str | Path,
    *,
    baseline: str | None = None,
    confidence: float = 0.95,
    design: Design = "nested",
    where: str | None = None,
    model: str | None = None,
) -> Path:
    """Write what ``results`` hold, files of rows and folders of runs, as one HTML file that needs no network.

    Every other method is compared with ``baseline`` (``plain`` where there is one, else the first); ``design`` is that
    of :func:`~noiserobust.evaluation.summarize`, and only rows are shown of which ``where`` holds. Runs whose network
    is code of your own (``package.module:Name``) are shown where ``model`` names it. Tables sort, charts tell their
    values on hover, the page prints, follows the reader's dark mode, and can be used by keyboard and screen
    reader. Raises :class:`~noiserobust.UserError` where there is nothing to show, or too much for one page.
    """
    require_packages()
    return write_results(Results.read(results, where, model), path, Asked(baseline, confidence, design))


def write_results(held: Results, path: str | Path, asked: Asked) -> Path:
    """:func:`write_page` of results that were read."""
    from noiserobust.page.sections import sections_of

    sections = sections_of(held, asked)
    if not sections:
        raise UserError(
            "expected rows of evaluate or finished runs, got nothing to show; name files or folders of them"
        )
    text = _render(held, sections)
    if len(text.encode()) > LARGEST:
        raise UserError(
            f"expected a page of at most {LARGEST / 1e6:g} MB, got {len(text.encode()) / 1e6:.1f}; give it fewer files"
        )
    return write_atomically(Path(path), lambda file: file.write_text(text, encoding="utf-8"))


def _render(results: Results, sections: Sequence[Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    palettes = {
        ground: list(colours_of(results.methods, dark=ground == "dark").values()) for ground in ("light", "dark")
    }
    charts = [panel.spec for section in sections for panel in section.panels]
    # What a specification holds must not end the script that it stands in.
    as_script = json.dumps({"charts": charts, "palettes": palettes}, allow_nan=False).replace("<", "\\u003c")
    rows = results.rows
    about = [
        f"{len(rows):,} rows" if len(rows) else "",
        f"{len(results.runs)} trained networks" if results.runs else "",
    ]
    return environment.get_template("page.html").render(
        sections=sections,
        methods=results.methods,
        palettes=palettes,
        about=", ".join(filter(None, about)),
        version=noiserobust.__version__,
        date=datetime.date.today().isoformat(),
        bundle=_bundle() if charts else "",
        data=as_script,
    )


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script (BSD licences)."""
    import vl_convert

    script = vl_convert.javascript_bundle(
        "window.vegaEmbed = vegaEmbed;", vl_version=vl_convert.get_vegalite_versions()[-1]
    )
    return str(script).replace("</script", "<\\/script")


def require_packages() -> None:
    try:
        for name in ("altair", "jinja2", "vl_convert"):
            import_module(name)
    except ImportError as error:
        raise UserError(
            f"expected what pages are made with, got a Python without {error.name}; pip install 'noiserobust[page]'"
        ) from None
