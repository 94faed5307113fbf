"""Puts what ``noiserobust reproduce`` made into the documentation: a page per paper and scale, pictures and rows.

    noiserobust reproduce claims --scale mini
    python experiments/publish.py reproduced/mini reproduced/small

Pages go to docs/reproduced/, pictures to figures/<paper>/<scale>/, rows to docs/results/, the verdicts on the papers'
claims to docs/claims.md.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

from noiserobust.errors import UserError
from noiserobust.papers import PAPERS
from noiserobust.papers.grid import artefacts_of
from noiserobust.papers.grid.markdown import copies_of
from noiserobust.papers.grid.reproduction_map import most_shown
from noiserobust.storage.rows import read_rows, write_rows

ROOT = Path(__file__).parent.parent
TITLES = {
    "incorruptible": "Incorruptible neural networks",
    "rwp": "Efficient generalization improvement guided by random weight perturbation",
    "saf": "Sharpness-aware training for free",
    "rst": "Randomized sharpness-aware training for boosting computational efficiency in deep learning",
    "esam": "Efficient sharpness-aware minimization for improved training of neural networks",
}


@dataclass(frozen=True)
class Arguments:
    scales: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of scales that ``noiserobust reproduce`` wrote."""


def page(paper: str, folder: Path) -> str | None:
    """The page of one paper at one scale; ``None`` where nothing of it is there."""
    scale, parts, tables = folder.name, list[str](), []
    says = ""
    for artefact in artefacts_of(paper).values():
        text = folder / paper / f"{artefact.name}.md"
        if not text.is_file():
            continue
        *body, says = text.read_text().strip().split("\n\n")
        parts.append(f"## {artefact.says.removeprefix(paper).strip().capitalize()}")
        parts += [body[0].split(": ", 1)[1].split("**")[0] + ".", *body[1:]]
        picture = text.with_suffix(".png")
        if picture.is_file():
            kept = ROOT / "figures" / paper / scale / picture.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, kept)
            parts.append(f"![{artefact.says}](../../figures/{paper}/{scale}/{picture.name})")
        tables.append(read_rows(text.with_suffix(".parquet")))
    if not tables:
        return None
    rows = pd.concat(tables, ignore_index=True).drop(columns=["noiserobust", "numpy", "python"])
    # A note speaks of one table; here are all of them.
    copies = f"- trained copies here: {copies_of(most_shown(rows))} instead of"
    says = re.sub(r"- trained copies .* instead of", copies, says)
    for name in rows:
        if pd.api.types.is_string_dtype(rows[name]):
            rows[name] = rows[name].astype("category")
    write_rows(rows, ROOT / "docs" / "results" / f"{paper}-{scale}.parquet")
    head = [
        f"# {TITLES[paper]}: scale {scale}",
        f"Made by `noiserobust reproduce {paper} --scale {scale.removesuffix('-gpu')}` and `experiments/publish.py`; "
        f"rows: [{paper}-{scale}.parquet](../results/{paper}-{scale}.parquet). In brackets: what the paper prints. "
        "What this scale changes:",
        says,
    ]
    return "\n\n".join([*head, *parts]) + "\n"


def main(arguments: Arguments) -> None:
    verdicts: dict[str, str] = {}
    for folder in arguments.scales:
        if not folder.is_dir():
            raise UserError(f"expected a folder that noiserobust reproduce wrote, got {folder}")
        for paper in PAPERS:
            text = page(paper, folder)
            if text is not None:
                path = ROOT / "docs" / "reproduced" / f"{paper}-{folder.name}.md"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                print(path)
        if (folder / "claims.md").is_file():
            rows = Path("results") / f"claims-{folder.name}.parquet"
            shutil.copyfile(folder / "claims.parquet", ROOT / "docs" / rows)
            again = f"Every one of these can be computed again from [{rows.name}]({rows}); a test does some.\n"
            verdicts[folder.name] = f"{(folder / 'claims.md').read_text().strip()}\n\n{again}"
    if verdicts:
        claims = ROOT / "docs" / "claims.md"
        # How claims are judged is written there by hand; sections of other scales stay.
        about, *sections = re.split(r"\n(?=## Scale )", claims.read_text())
        verdicts = {one.split()[2]: one for one in sections} | verdicts
        claims.write_text("\n".join([about, *verdicts.values()]))


if __name__ == "__main__":
    from start import start

    start(main)
