"""What a scale shows: accuracies of the finished copies beside the published ones, and effects beside their spread.

    python experiments/regime.py > tables.md    # and figures/regime.png

Reads the finished copies that come with the package (``noiserobust/papers/finished/small``) and, for comparison, the
rows of the earlier scale (docs/results/incorruptible-four-epochs.parquet). Nothing is trained. Tables: docs/regime.md.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from noiserobust.errors import UserError
from noiserobust.evaluation import summarize
from noiserobust.papers import esam, rst, rwp, saf
from noiserobust.papers import incorruptible as inc
from noiserobust.papers.grid import SMALL, Bench, Grid, grid_of, published
from noiserobust.papers.grid.claim import Contrast, Measured
from noiserobust.papers.grid.finished import FOLDER, complete, contents, take_up
from noiserobust.papers.grid.quantity import Accuracy
from noiserobust.report import robustness_table
from noiserobust.report.plots import strength_figure
from noiserobust.report.style import save
from noiserobust.report.table import as_markdown
from noiserobust.storage.rows import completed, read_rows
from noiserobust.training import TrainSettings

EARLIER = Path(__file__).parent.parent / "docs" / "results" / "incorruptible-four-epochs.parquet"
PICTURE = Path(__file__).parent.parent / "figures" / "regime.png"
STRONG = 0.07
"""The test noise under which the other papers' rules are shown, too."""
MOST = 12
"""Copies that are looked for."""
EFFECTS = (
    ("RWP sigma 0.08", "SGD", 0.07),
    ("Quadratic RWP", "SGD", 0.07),
    ("Quadratic RWP", "RWP sigma 0.08", 0.07),
    ("RWP sigma 0.08", "SAM rho 0.2", 0.07),
    ("Quadratic RWP", "SAM rho 0.2", 0.07),
    ("SAM rho 0.2", "SGD", 0.07),
    ("SAM rho 0.3", "SAM rho 0.2", 0.07),
    ("SAM rho 0.5", "SAM rho 0.2", 0.07),
    ("RWP sigma 0.08", "SAM rho 0.3", 0.07),
    ("Quadratic RWP", "SAM rho 0.3", 0.07),
    ("RWP sigma 0.08", "RWP sigma 0.05", 0.07),
    ("RWP sigma 0.08", "RWP sigma 0.05", 0.05),
    ("RWP sigma 0.05", "RWP sigma 0.03", 0.03),
    ("Quadratic RWP", "RWP sigma 0.05", 0.07),
    ("Quadratic RWP", "RWP sigma 0.05", 0.05),
    ("Quadratic RWP", "Linear RWP", 0.07),
    ("Quadratic RWP", "Off-to-On RWP", 0.07),
    ("Quadratic SAM", "Linear SAM", 0.07),
    ("Quadratic SAM", "Off-to-On SAM", 0.07),
    ("Quadratic SAM", "SAM rho 0.2", 0.07),
    ("Quadratic SAM", "SAM rho 0.2", 0.02),
    ("Quadratic SAM", "SAM rho 0.2", 0.0),
    ("Quadratic RWP", "Quadratic SAM", 0.07),
    ("RWP sigma 0.05", "SGD", 0.05),
    ("SAM rho 0.2", "SGD", 0.0),
    ("SAM rho 0.3", "SGD", 0.0),
    ("SAM rho 0.5", "SGD", 0.0),
    ("RWP sigma 0.08", "SGD", 0.0),
    ("RWP sigma 0.05", "SGD", 0.0),
    ("RWP sigma 0.03", "SGD", 0.0),
    ("Quadratic RWP", "RWP sigma 0.08", 0.0),
    ("SGD, clipped at 2.5 rms", "SGD", 0.07),
    ("aihwkit additive 0.06", "SGD", 0.07),
    ("RWP sigma 0.08", "SGD, clipped at 2.5 rms", 0.07),
    ("RWP sigma 0.08", "aihwkit additive 0.06", 0.07),
    ("Quadratic RWP", "SGD, clipped at 2.5 rms", 0.07),
    ("Quadratic RWP", "SGD, clipped at 2.5 rms", 0.0),
)
"""Pairs of rows and the test noise under which they are compared."""
DRAWN = ("SGD", "SGD, clipped at 2.5 rms", "RWP sigma 0.05", "RWP sigma 0.08", "Quadratic RWP", "SAM rho 0.2")
"""Rows of the picture."""


def runs(at: Grid) -> dict[str, TrainSettings]:
    """The runs by the names of their rows in tables 1 to 3, and our comparators."""
    rows = inc.constant(at, (0.2, 0.3, 0.5), (0.03, 0.05, 0.08))
    ramps = {f"{ramp} RWP": inc.ramped_rwp(at, ramp) for ramp in inc.RAMPS}
    ours = {
        "SGD, clipped at 2.5 rms": at.run(inc.DATA, inc.NETWORK, "plain", weight_clip=2.5),
        "aihwkit additive 0.06": at.run(inc.DATA, inc.NETWORK, inc.additive()),
    }
    return rows | ramps | {f"{ramp} SAM": inc.ramped_sam(at, ramp) for ramp in inc.RAMPS} | ours


def printed(row: str, sigma: float) -> float:
    """What the paper prints in that row of tables 1 to 3."""
    cells = published("incorruptible")
    places = [(table, row, f"sigma {sigma:g}", "accuracy") for table in ("table1", "table2", "table3")]
    return next((cells[place].value for place in places if place in cells), math.nan)


def accuracy(at: Grid, row: str, sigma: float) -> Accuracy:
    return Accuracy(runs(at)[row], inc.noise(at, sigma))


def finished(bench: Bench, quantities: Sequence[Accuracy]) -> Bench | None:
    """The bench of the copies of which all ``quantities`` are computed."""
    return complete(bench.with_seeds(MOST), lambda of: [piece for one in quantities for piece in one.pieces(of)])


def accuracies(at: Grid, bench: Bench) -> Iterator[list[str]]:
    """A line per run: its copies, its accuracies, and the shares of clean accuracy that it keeps, beside published."""
    yield ["", "copies", *(f"sigma {sigma:g}" for sigma in inc.TEST)]
    for row in runs(at):
        cells = [accuracy(at, row, sigma) for sigma in inc.TEST]
        if (of := finished(bench, cells)) is None:
            continue
        n = len(of.seeds)
        means = [cell.values(of).groupby("replicate")["value"].mean() for cell in cells]
        spread = [f" ± {mean.std(ddof=1):.1f}" if n > 1 else "" for mean in means]
        shown = [f"{mean.mean():.1f}{half}" for mean, half in zip(means, spread, strict=True)]
        kept = [f" ({mean.mean() / means[0].mean():.3f})" if index else "" for index, mean in enumerate(means)]
        beside = [_beside(printed(row, sigma), printed(row, 0.0) if sigma else math.nan) for sigma in inc.TEST]
        yield [row, str(n), *("".join(parts) for parts in zip(shown, kept, beside, strict=True))]


def _beside(value: float, clean: float) -> str:
    """A published accuracy in brackets, with its share of the clean one where that is printed."""
    share = "" if math.isnan(clean) else f" ({value / clean:.3f})"
    return "" if math.isnan(value) else f" [{value:.1f}{share}]"


def before(a: str, b: str, sigma: float) -> str:
    """The same difference at the earlier scale: mean ± std over its copies."""
    rows = read_rows(EARLIER)
    rows = rows[rows["artefact"].isin(["table1", "table2", "table3"]) & (rows["column"] == f"sigma {sigma:g}")]
    means = rows.groupby(["row", "replicate"], observed=True)["value"].mean()
    try:
        difference = (means[a] - means[b]).dropna()
    except KeyError:
        return ""
    return f"{difference.mean():+.1f} ± {difference.std(ddof=1):.1f} ({len(difference)})"


def effects(at: Grid, bench: Bench) -> Iterator[list[str]]:
    """A line per pair: the difference copy by copy, and how many copies would show the published one."""
    yield ["difference (points)", "published", "here: mean [95 %] (copies)", "std", "copies needed", "four epochs"]
    for a, b, sigma in EFFECTS:
        shown = printed(a, sigma) - printed(b, sigma)
        known = None if math.isnan(shown) else shown
        contrast = Contrast("", accuracy(at, a, sigma), accuracy(at, b, sigma), published=known)
        of = finished(bench, [accuracy(at, a, sigma), accuracy(at, b, sigma)])
        words = ["", "", ""] if of is None else in_words(contrast.measured(of))
        where = f"under sigma {sigma:g}" if sigma else "clean"
        yield [f"{a} minus {b}, {where}", "" if known is None else f"{known:+.1f}", *words, before(a, b, sigma)]


def in_words(measured: Measured) -> list[str]:
    """Mean and interval, the standard deviation between copies, the copies that would show the published effect."""
    if measured.n < 2:
        return [f"{measured.mean:+.1f} (1)", "", ""]
    needed = f"{measured.needed:g}" if measured.needed < math.inf else "none would"
    interval = f"{measured.mean:+.1f} [{measured.low:+.1f}, {measured.high:+.1f}] ({measured.n})"
    return [interval, f"{measured.std:.1f}", needed]


def rules(folder: dict[str, str]) -> dict[str, tuple[TrainSettings, str]]:
    """Runs of the other four papers on ResNet-18, each with the paper whose table 1 or 3 prints it for CIFAR-100."""
    of = {paper: grid_of(paper, SMALL, folder) for paper in ("esam", "rst", "rwp", "saf")}
    known, network, at = "CIFAR-100", "ResNet-18", of["rst"]
    return {
        "SGD": (esam.plain(of["esam"], known, network), ""),
        "SAM": (esam.sam(of["esam"], known, network), "esam"),
        "ESAM": (esam.esam(of["esam"], known, network), "esam"),
        **{f"RST p {p:g}": (rst.run(at, network, known, rst.rst(at, p)), "") for p in (0.2, 0.5, 0.8)},
        "G-RST p 0.5": (rst.run(at, network, known, rst.g_rst(at)), ""),
        **{name: (saf.trained(of["saf"], network, known, name), "saf") for name in ("SAF", "MESA")},
        **{f"mixed RWP, alpha {a:g}": (rwp.rwp(of["rwp"], known, network, alpha=a), "rwp") for a in (0, 0.2, 0.5, 0.8)},
        "mixed RWP, same batch": (rwp.rwp(of["rwp"], known, network, batches="same"), ""),
        "SAM, twice the radius": (rwp.sam(of["rwp"], known, network), "rwp"),
        "the same, different batches": (rwp.sam(of["rwp"], known, network, batches="different"), ""),
    }


def of_rules(at: Grid, of_paper: dict[str, tuple[TrainSettings, str]], bench: Bench) -> Iterator[list[str]]:
    """A line per rule of the other papers: clean, and under noise, with what it gains over plain training and SAM."""
    against = ("SGD", "SAM")
    heads = [word for other in against for word in (f"minus {other}", "published")]
    yield ["rule", "copies", "clean", *heads, f"under sigma {STRONG:g}", "minus SGD"]
    for name, (run, paper) in of_paper.items():
        if (of := finished(bench, [Accuracy(run)])) is None:
            continue
        words = []
        for other in against:
            cells = [Accuracy(one) for one in (run, of_paper[other][0])]
            words += [difference(bench, cells) if name not in (other, "SGD") else "", gain(paper, name, other)]
        noisy = [Accuracy(one, inc.noise(at, STRONG)) for one in (run, of_paper["SGD"][0])]
        shown = finished(bench, noisy[:1])
        words += [level(noisy[0], shown) if shown else "", difference(bench, noisy) if name != "SGD" else ""]
        yield [name, str(len(of.seeds)), level(Accuracy(run), of), *words]


def level(cell: Accuracy, of: Bench) -> str:
    """Mean and standard deviation over copies."""
    means = cell.values(of).groupby("replicate")["value"].mean()
    return f"{means.mean():.1f}" + (f" ± {means.std(ddof=1):.1f}" if len(means) > 1 else "")


def difference(bench: Bench, cells: Sequence[Accuracy]) -> str:
    """The first less the second over the copies that have both."""
    of = finished(bench, cells)
    return in_words(Contrast("", *cells).measured(of))[0] if of else ""


def gain(paper: str, name: str, other: str) -> str:
    """What ``paper`` prints for a rule less what it prints for another, on ResNet-18 and CIFAR-100."""
    cells = published(paper) if paper and name != other else {}
    table = "table3" if paper == "saf" else "table1"
    row_of = {"mixed RWP, alpha 0.5": "RWP", "SAM, twice the radius": "SAM"}
    a, b = (cells.get((table, f"ResNet-18, {row_of.get(row, row)}", "CIFAR-100", "accuracy")) for row in (name, other))
    return f"{a.value - b.value:+.2f}" if a and b else ""


def picture(at: Grid, folder: Path) -> str:
    """Draw accuracy against sigma of what has several finished copies; the table of the same numbers."""
    rows = pd.concat([completed(read_rows(file)) for file in sorted(folder.glob("*.parquet"))], ignore_index=True)
    rows = rows[(rows["metric"] == "accuracy") & rows["noise"].str.startswith("gaussian")]
    names = {run.label: row for row, run in runs(at).items() if row in DRAWN}
    rows = rows[rows["method"].isin(names)].assign(method=rows["method"].map(names))
    rows = rows[rows.groupby("method")["replicate"].transform("nunique") > 1]  # one copy says too little
    clean = rows["noise"] == "gaussian:0.0"  # that has no reading
    summary = summarize(rows.assign(noise=rows["noise"].mask(clean, "gaussian:0.0,reading=literal")))
    save(strength_figure(summary, "CIFAR-10, 500 images a class, 60 epochs"), PICTURE)
    return robustness_table(summary)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        nowhere = {"data_root": f"{folder}/data"}
        at, known = grid_of("incorruptible", SMALL, nowhere), contents(FOLDER / SMALL.name)
        if not known:
            raise UserError(f"expected finished copies in {FOLDER / SMALL.name}, got none")
        bench = Bench(SMALL, Path(folder), contents=known)
        take_up(bench, FOLDER / SMALL.name)
        for lines in (accuracies(at, bench), effects(at, bench), of_rules(at, rules(nowhere), bench)):
            print(as_markdown(list(lines)) + "\n")
        print(picture(at, FOLDER / SMALL.name))


if __name__ == "__main__":
    from start import start

    start(main)
