"""Puts what ``noiserobust reproduce`` made into the documentation: a page per paper and scale, pictures and rows.

    noiserobust reproduce claims --scale mini
    python experiments/publish.py reproduced/mini reproduced/small

Pages go to docs/reproduced/, pictures to figures/<paper>/<scale>/, rows to docs/results/, the verdicts on the papers'
claims to docs/claims.md.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

from noiserobust.papers import PAPERS
from noiserobust.papers.grid import artefacts_of
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


CLAIMS = """# What the papers claim, judged

Each claim is written as differences that must be positive if it holds (or lie within a margin, where it says that
two things are equal), in [noiserobust/papers/claims.py](../noiserobust/papers/claims.py). Two methods are compared
copy by copy: the same training seed, the same noise draws. Intervals are two-sided t intervals over trained copies,
widened so that all of one claim's hold together with 95 % (Bonferroni). A "best" strength is chosen by the first third
of the copies and compared on the others, so that the choice does not flatter and the copies compared stay independent.

- **holds**: every interval lies on the claimed side;
- **does not hold here**: some interval lies on the other side;
- **cannot tell**: otherwise; then the line says which difference so many copies would have shown with a power of
  80 %, and how many copies would show the published difference (or the measured one, where none is printed); of two
  things that shall be equal, how many copies would show that.

Costs are medians of steps timed in turn with plain ones on this machine, with quartiles, judged by the paper's own
words (ESAM 40 % more, MESA 15 %), a little rounded up. A verdict is about the scale it was measured at: digits and
short trainings can show that an effect exists, hardly that it does not.

How the numbers came about, where it bears on the verdicts:

- The claims were judged before, on runs since thrown away: from three copies, then from ten. Afterwards a review, not
  a verdict, changed these: the epoch kept (then the best of noisy looks at 144 images, now the last), gamma at mini
  (four times the published one), the update gradient (then measured with frozen batch statistics, which made it ten
  times too large), the choice of best strengths (then each copy's by all others, which makes intervals too narrow),
  and the contrasts of some claims, which now say what their papers' sentences say (rising test sharpness and falling
  training sharpness apart; a falling cosine and a level one apart; gradient norms over all epochs; equal shares of
  SAM's steps early and late; WRN-16-15; the subset's gradient at w + e).
- Ramps are those that the paper found best for the quadratic one under sigma 0.07. This favours ramps under large
  noise, the quadratic one most, and handicaps them under small noise: only large effects mean anything there.
- mini's factors on sigma and gamma were set by where the plain network falls and by the filters' sizes, small's on rho
  by an earlier 8-epoch SAM run; none by a verdict. Costs at mini are of steps of milliseconds;
  [those of a full-width network](speed.md) are lower.
"""


def main(arguments: Arguments) -> None:
    verdicts = []
    for folder in arguments.scales:
        for paper in PAPERS:
            text = page(paper, folder)
            if text is not None:
                path = ROOT / "docs" / "reproduced" / f"{paper}-{folder.name}.md"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                print(path)
        if (folder / "claims.md").is_file():
            verdicts.append((folder / "claims.md").read_text())
    if verdicts:
        (ROOT / "docs" / "claims.md").write_text("\n".join([CLAIMS, *verdicts]))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
