"""What the site has beside the pages of ``docs``: the README as its start, the figures, a reference from docstrings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = ("noiserobust", "noiserobust.training", "noiserobust.evaluation", "noiserobust.noise", "noiserobust.tasks")
"""Packages whose public names the reference lists, a page each."""
PREPRINT = re.compile(r"(?<![\[`/])\barXiv (\d{4}\.\d{4,5})(?![\]`])")
OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./(?!(?:\.\./)*figures/)([^)#]+)[^)]*\)")
FIGURE = re.compile(r"\]\(\.\./((?:\.\./)*figures/)")
"""A figure's place as a page of ``docs`` or of a folder in it says it: on the site ``docs`` is the root."""


def on_config(config: Any) -> Any:
    pages = [{name: f"reference/{name}.md"} for name in PUBLIC]
    config.nav.append({"Reference": pages})
    config.nav.append({"What changed": "changelog.md"})
    return config


def on_files(files: Files, config: Any) -> Files:
    for figure in sorted((ROOT / "figures").rglob("*.*")):
        place = figure.relative_to(ROOT).as_posix()
        files.append(File.generated(config, place, abs_src_path=str(figure)))
    index = _from_docs((ROOT / "README.md").read_text())
    files.append(File.generated(config, "index.md", content=_without_outside(index)))
    files.append(
        File.generated(config, "notebook.md", content="\n\n".join(_notebook(ROOT / "docs" / "notebook.ipynb")))
    )
    changes = _from_docs((ROOT / "CHANGELOG.md").read_text())
    files.append(File.generated(config, "changelog.md", content=_without_outside(changes)))
    for package in PUBLIC:
        files.append(File.generated(config, f"reference/{package}.md", content="\n".join(_reference(package))))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Files of the repository that are no pages are named, not linked: the site has none. Preprints are linked."""
    markdown = PREPRINT.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", markdown)
    markdown = markdown.replace("](notebook.ipynb)", "](notebook.md)")
    return FIGURE.sub(r"](\1", OUTSIDE.sub(r"`\2`", markdown))


def _notebook(file: Path) -> Iterator[str]:
    """The executed notebook as a page: its cells and what they gave."""
    for cell in json.loads(file.read_text())["cells"]:
        source = "".join(cell["source"])
        yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for output in cell.get("outputs", []):
            data = {kind: "".join(parts) for kind, parts in output.get("data", {}).items()}
            if "image/png" in data:
                picture = data["image/png"].replace("\n", "")
                yield f'<img alt="picture of the cell above" src="data:image/png;base64,{picture}">'
            elif "text/html" in data:
                html = re.sub(
                    r"<style.*?</style>| border=\"1\" class=\"dataframe\"", "", data["text/html"], flags=re.DOTALL
                )
                yield "<div>{}</div>".format(re.sub(r"\n\s*", "", html))
            else:
                yield "```text\n{}\n```".format(("".join(output.get("text", "")) or data["text/plain"]).rstrip())


def _from_docs(text: str) -> str:
    """Links of a file beside ``docs``, as the site has them."""
    return text.replace("](docs/", "](")


def _without_outside(text: str) -> str:
    return re.sub(
        r"(?<!!)\[([^\]]+)\]\((?!https?:|#)((?:experiments|noiserobust|tests|CHANGELOG|LICENSE)[^)]*)\)",
        r"\1 (`\2`)",
        text,
    )


def _reference(package: str) -> Iterator[str]:
    import importlib

    module = importlib.import_module(package)
    yield f"# {package}\n\n{(module.__doc__ or '').strip()}\n"
    for name in sorted(module.__all__):
        one = getattr(module, name)
        place = f"{one.__module__}.{one.__qualname__}" if hasattr(one, "__qualname__") else ""
        if place.startswith("noiserobust."):
            yield f"::: {place}\n"
