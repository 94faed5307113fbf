"""Draws again the pictures whose rows are in docs/results: CIFAR-10, devices, design, measures, papers; trains nothing.

    python experiments/redraw.py

The others: regime.png is drawn by regime.py and incorruptible/small by ``noiserobust reproduce incorruptible --scale
small --only-done``, both from the finished copies in the package;
speed_training.png and evaluation_scaling.png by the benchmarks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from noiserobust.evaluation import summarize
from noiserobust.evaluation.design.crossing import Range
from noiserobust.evaluation.design.noise_budget import Axis, Budget
from noiserobust.evaluation.training_logs import Trajectories
from noiserobust.papers import PAPERS
from noiserobust.papers.grid import artefacts_of
from noiserobust.papers.grid.pictures import draw
from noiserobust.report.design_plots import sensitivity_figure
from noiserobust.report.plots import strength_figure, time_figure
from noiserobust.report.style import save
from noiserobust.storage.rows import read_rows

ROOT = Path(__file__).parent.parent
ROWS, FIGURES = ROOT / "docs" / "results", ROOT / "figures"
NETWORK = "CIFAR-10, ResNet-18 of width 16"


def figures() -> Iterator[tuple[str, Figure]]:
    """Name and picture."""
    yield (
        "cifar10",
        strength_figure(summarize(read_rows(ROWS / "cifar10.parquet")), f"{NETWORK}: 3 networks x 10 draws"),
    )
    for name, title in {"digits": "digits", "cifar10": NETWORK}.items():
        summary = summarize(read_rows(ROWS / f"devices_{name}.parquet"))
        shown = summary[(summary["recalibration"] == 0) & (summary["noise"] == "pcm")]
        yield f"devices_{name}", time_figure(shown, f"PCM chips over time: {title}")
    budget = Budget(read_rows(ROWS / "noise_budget.parquet"), "gaussian:{x}", Axis(), Range(0.0, 0.5), 2.0)
    yield "noise_budget", budget.plot()
    yield "layer_sensitivity", sensitivity_figure(read_rows(ROWS / "layer_sensitivity_effects.csv"))
    logs = Trajectories(read_rows(ROWS / "measures.parquet"))
    yield "measures", logs.plot(y=list(dict.fromkeys(logs.rows["metric"])))
    for paper in PAPERS:
        for file in sorted(ROWS.glob(f"{paper}-*.parquet")):
            scale, rows = file.stem.removeprefix(f"{paper}-"), read_rows(file)
            for artefact in artefacts_of(paper).values():
                own = rows[rows["artefact"] == artefact.name].dropna(axis="columns", how="all")
                if artefact.kind == "table" or own.empty:
                    continue
                for name in own.select_dtypes("category"):
                    own[name] = own[name].astype(str)
                title = f"{artefact.says}: {artefact.title} ({scale.replace('-', ' ')})"
                yield f"{paper}/{scale}/{artefact.name}", draw(own, artefact.kind, title, artefact.x, artefact.y)


def main() -> None:
    for place, picture in figures():
        print(save(picture, FIGURES / f"{place}.png").relative_to(ROOT))


if __name__ == "__main__":
    from start import start

    start(main)
