"""Which recipe for which chip: training recipes, each at its best strength, on seven kinds of chip.

Data: scikit-learn's digits (1,297 images to train on, a tenth held out; 500 to test on); a small convolutional network
with batch norm, 30 epochs, batch 64, SGD momentum 0.9, learning rate .05 cosine. Every run keeps its last epoch. A
recipe's strength is the one with the best accuracy under Gaussian noise of sigma .2 on the held-out images, mean over
three copies and ten draws. The recipe is then trained anew in ten copies that the choice did not see, and all
are compared on the same copies and draws: clean; Gaussian noise of sigma .1, .2, .3; PCM a day after programming with
global drift compensation; one cell in a hundred stuck; converters of 6 bits with output noise, under Gaussian noise of
sigma .1.

    python experiments/which_recipe.py [--only plain RWP] [--data cifar10]    # makes this page

About 320 runs of some seconds each on one core. Rows of a finished copy are not made again, nor are finished runs, so
that it can be stopped at any moment, and copies added elsewhere. ``--data cifar10`` takes the runs of ``noiserobust
reproduce incorruptible --scale small`` (the papers' regime, docs/regime.md) at the strengths that the paper prints,
from its folder or trained there, ten minutes of a core a run, and writes files of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from noiserobust.data import Labelled, load
from noiserobust.evaluation import Chips, Compute, evaluate, paired, summarize
from noiserobust.papers import PAPERS
from noiserobust.papers import incorruptible as inc
from noiserobust.papers.grid import SMALL, grid_of
from noiserobust.papers.grid import Bench as PapersBench
from noiserobust.papers.grid.artefacts import artefacts_of
from noiserobust.papers.grid.bench import with_logs
from noiserobust.papers.grid.plan import quantities
from noiserobust.report.table import as_markdown
from noiserobust.rng import Stream
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.storage.files import write_atomically
from noiserobust.storage.rows import completed, read_rows, write_rows
from noiserobust.sweep import Training
from noiserobust.sweep.executors import compute
from noiserobust.sweep.pieces import mean_cost
from noiserobust.training import TrainSettings, fit

AROUND: dict[str, dict[str, Any]] = {
    "PCM, 1 day": {"times": ["1d"], "compensation": "global"},
    "6 bits, sigma .1": {"converters": "io:dac=6,adc=6,noise=0.06"},
    "6 bits, sigma .03": {"converters": "io:dac=6,adc=6,noise=0.06"},
}
"""Name of a chip -> what happens around its noise."""

PLAIN = "plain"
"""Stands for the path of a plainly trained network, the teacher of others."""
CHOICE = "held-out"
"""Stands where rows of the choice have no chip."""


def clips(*times: float, per: str = "", **others: Any) -> list[dict[str, Any]]:
    """Clipping at each of these multiples of the rms."""
    return [{"weight_clip": f"rms({one},per={per})" if per else str(one)} | others for one in times]


def rules(text: str, *strengths: float) -> list[dict[str, Any]]:
    """A rule at each of these strengths."""
    return [{"method": text.format(one)} for one in strengths]


NOISY: dict[str, Any] = {"method": "rwp:gaussian(0.3)"}
TAUGHT: dict[str, Any] = {"teacher": PLAIN}
DIGITS: dict[str, list[dict[str, Any]]] = {
    "plain": [{}],
    "clipped by layer": clips(1.1, 1.25, 1.5, 2.0, 2.5),
    "clipped by column": clips(1.1, 1.25, 1.5, 2.0, per="column"),
    "RWP": rules("rwp:gaussian({})", 0.1, 0.2, 0.3, 0.4),
    "RWP, clipped by column": clips(1.1, 1.25, 1.5, per="column", **NOISY)
    + clips(1.25, per="column", method="rwp:gaussian(0.15)"),
    "SAM": rules("sam:{}", 0.2, 0.5, 1.0),
    "RWP, clipped by layer": clips(1.25, 1.5, 2.0, **NOISY),
    "RWP, ramp": rules("rwp:gaussian({}),schedule=quadratic(1.0)", 0.2, 0.3, 0.4, 0.5),
    "SAM, clipped by column": [one | clips(1.25, per="column")[0] for one in rules("sam:{}", 0.1, 0.2, 0.5)],
    "RWP, clipped by column, distilled": [
        clips(1.25, per="column", **NOISY)[0] | TAUGHT | {"teacher_weight": weight} for weight in (0.5, 0.9)
    ],
    "ARWP": rules("arwp:{}", 0.02, 0.05, 0.1),
    "ASAM": rules("asam:{}", 1.0, 2.0, 4.0, 8.0),
    "F-SAM": rules("f-sam:{}", 0.2, 0.5, 1.0, 2.0),
    "SAMSON": rules("samson:{}", 0.2, 0.5, 1.0, 2.0, 4.0),
    "EMA": [{"average": f"ema:{decay}"} for decay in (0.9, 0.98, 0.995, 0.998, 0.999)],
    "aihwkit's additive": rules("rwp:gaussian({},reference=layer)", 0.05, 0.1, 0.2, 0.3),
}
"""Name of a recipe -> what it is at each of its strengths."""

REGIME = grid_of(inc.PAPER, SMALL)
"""The first paper in its regime, whose runs are trained once for its tables and for this page."""
RAMP = str(inc.ramped_rwp(REGIME, "Quadratic").method)
CIFAR10: dict[str, list[dict[str, Any]]] = {
    "plain": [{}],
    "clipped by layer": clips(2.5),
    "clipped by layer at 1.5": clips(1.5),
    "clipped by column": clips(2.5, per="column"),
    "RWP": [{"method": str(inc.rwp(REGIME, 0.08).method)}],
    "RWP, ramp": [{"method": RAMP}],
    "RWP, ramp, clipped by layer": clips(2.5, method=RAMP),
    "RWP, ramp, clipped by layer at 1.5": clips(1.5, method=RAMP),
    "RWP, ramp, clipped by layer, distilled": clips(2.5, method=RAMP, teacher_weight=0.9, **TAUGHT),
    "RWP, ramp, clipped by layer at 1.5, distilled": clips(1.5, method=RAMP, teacher_weight=0.9, **TAUGHT),
    "SAM": [{"method": str(inc.sam(REGIME, 0.2).method)}],
    "ASAM": rules("asam:{}", 1.0),
    "F-SAM": rules("f-sam:{}", 0.1),
    "SAMSON": rules("samson:{}", 0.1),
    "ARWP": rules("arwp:{}", 0.02),
    "EMA": [{"average": "ema:0.998"}],
    "aihwkit's additive": [{"method": str(inc.additive())}],
}
"""The same in the papers' regime: one strength each, since a run takes minutes."""


@dataclass(frozen=True)
class Bench:
    """A data set with what is trained and tested on it."""

    base: TrainSettings
    recipes: dict[str, list[dict[str, Any]]]
    chips: dict[str, str]
    """Name of a chip -> its noise."""
    choice: str
    """Noise under which strengths are chosen."""
    test: int | None = None
    """Test images (default: all)."""
    compute: Compute = Compute()
    """How they are evaluated."""


def _chips(sigmas: tuple[str, ...], low: str, **reading: str) -> dict[str, str]:
    options = "".join(f",{name}={value}" for name, value in reading.items())
    gaussian = {f"sigma {sigma}": f"gaussian:0{sigma}{options}" for sigma in sigmas}
    devices = {"PCM, 1 day": "pcm", "stuck 1 %": "stuck:0.01", f"6 bits, sigma {low}": f"gaussian:0{low}{options}"}
    return {"clean": "gaussian:0"} | gaussian | devices


BENCHES = {
    "digits": Bench(
        TrainSettings(epochs=30, batch_size=64, select_on="none", select_draws=1),
        DIGITS,
        _chips((".1", ".2", ".3"), ".1"),
        "gaussian:0.2",
    ),
    "cifar10": Bench(
        inc.plain(REGIME),
        CIFAR10,
        _chips((".03", ".05", ".07"), ".03", reading="literal"),
        "gaussian:0.05,reading=literal",
        test=1000,
        compute=Compute(precision="bf16"),
    ),
}


ABOUT_CIFAR10 = """Data: 500 images of each of CIFAR-10's classes (as JPEGs of quality 75), ResNet-18 of width 16, 60
epochs: [the papers' regime](regime.md), whose runs these are. One strength of each recipe (two limits of clipping),
the one that the paper prints as best there or near it, half of the published radius for SAM; no choice was made on
held-out images. Tested on 1,000 test images (stratified), ten draws, in bf16. Gaussian noise in the literal
[reading](reading_of_the_noise.md)."""
READINGS = Path(__file__).parent / "readings"
"""What the tables say, in words: a file a page."""


@dataclass
class Settings:
    """Train every recipe, choose its strength, compare all on seven kinds of chip."""

    data: Literal["digits", "cifar10"] = "digits"
    """What is trained on."""
    cifar10: Path | None = None
    """Folder of CIFAR-10's images, as ``reproduce --data`` takes it (default: the original files)."""
    out: Path | None = None
    """Folder for runs; those finished there are not trained again (default: runs/which_recipe, or reproduced/small)."""
    only: tuple[str, ...] = ()
    """Recipes to train (default: all)."""
    rows: Path | None = None
    """Rows of all recipes; those there are not made again (default: docs/results/which_recipe.parquet)."""
    table: Path | None = None
    """The page (default: docs/which_recipe.md)."""
    copies: int = 10
    """Trained copies of each chosen recipe."""
    only_done: bool = False
    """With ``--data cifar10``: only copies that are finished on this machine, or that the rows have."""
    draws: int = 10
    """Noise draws per copy and chip."""

    def __post_init__(self) -> None:
        name = "which_recipe" if self.data == "digits" else f"which_recipe_{self.data}"
        self.out = self.out or Path("runs/which_recipe" if self.data == "digits" else "reproduced/small")
        self.rows = self.rows or Path("docs/results") / f"{name}.parquet"
        self.table = self.table or Path("docs") / f"{name}.md"


def main(settings: Settings) -> None:
    torch.set_num_threads(1)  # a step is too small to share out
    assert settings.rows is not None
    assert settings.table is not None
    bench = BENCHES[settings.data]
    rows = pd.DataFrame(columns=["method", "replicate", "chip"])
    if settings.rows.is_file():
        rows = completed(read_rows(settings.rows))
    copies = rows[rows["chip"] == "clean"].groupby("method")["replicate"].nunique().to_dict()
    wanted = [one for one in settings.only or bench.recipes if copies.get(one, 0) < settings.copies]
    if wanted:
        trainer = Trainer(bench, settings)
    for recipe in wanted:
        found = trainer.compared(recipe, rows)
        if found is None:
            continue
        rows = pd.concat([rows[rows["method"] != recipe], found], ignore_index=True)
        write_rows(rows, settings.rows)
        write_page(bench, rows, settings.table)
    if not wanted:
        write_page(bench, rows, settings.table)


def logged(place: dict[str, str]) -> dict[TrainSettings, TrainSettings]:
    """What ``reproduce`` logs of each run: whatever any artefact of any paper wants."""
    grids = {paper: grid_of(paper, SMALL, place) for paper in PAPERS}
    wanted = [q for paper, grid in grids.items() for one in artefacts_of(paper).values() for q in quantities(one, grid)]
    return with_logs([run for one in wanted for run in one.runs], SMALL.log_images, SMALL.log_every)


@dataclass(frozen=True)
class Trained:
    """A trained copy."""

    settings: TrainSettings
    folder: Path


class Trainer:
    """Trains and evaluates recipes."""

    def __init__(self, bench: Bench, settings: Settings) -> None:
        assert settings.out is not None
        self.bench, self.settings, self.out, self.papers = bench, settings, settings.out, None
        base = bench.base
        if settings.data == "cifar10":
            place = {"cifar10": str(settings.cifar10)} if settings.cifar10 else {}
            base = inc.plain(grid_of(inc.PAPER, SMALL, place))
            self.papers = PapersBench(SMALL, self.out, logged(place))
        self.base = base
        self.splits = load(base.data, base.data_root)
        held_out = self.splits.validation or self.splits.train.split(bench.base.validation, Stream(0, "validation"))[1]
        assert held_out is not None
        self.held_out: Labelled = held_out
        test = self.splits.test
        self.test = test if bench.test is None else test.sample(bench.test, Stream(0, "test"))

    def runs(self, variant: dict[str, Any], seeds: Iterable[int]) -> list[Trained]:
        """Trained copies."""
        if self.papers is not None:
            pieces = [piece for seed in seeds if (piece := self.piece(self.papers, variant, seed))]
            compute(pieces)
            return [Trained(piece.settings, piece.result.parent) for piece in pieces]
        if "teacher" in variant:
            (teacher,) = self.runs({}, range(200, 201))
            variant = variant | {"teacher": str(teacher.folder)}
        settings = replace(self.base, **variant)
        runs = [fit(replace(settings, seed=seed), self.out, splits=self.splits) for seed in seeds]
        return [Trained(run.settings, run.folder) for run in runs]

    def piece(self, papers: PapersBench, variant: dict[str, Any], seed: int) -> Training | None:
        """A run of the papers' regime; ``None`` where it is not finished, and only those are wanted. A copy's teacher
        is the plain one of its seed."""
        if "teacher" in variant:
            teacher = self.piece(papers, {}, seed)
            if teacher is None:
                return None
            compute([teacher])
            variant = variant | {"teacher": str(teacher.result.parent)}
        piece = papers.training(replace(self.base, **variant), seed)
        return piece if piece.result.is_file() or not self.settings.only_done else None

    def compared(self, recipe: str, rows: pd.DataFrame) -> pd.DataFrame | None:
        """Rows of a recipe: those of the choice of its strength, and those of the chosen one on every chip; ``None``
        where it has no copy. Copies of it that ``rows`` have on every chip are not trained again."""
        variants, parts, chosen = self.bench.recipes[recipe], [], 0
        if len(variants) > 1:
            for variant in variants:
                runs = self.runs(variant, range(100, 103))
                parts.append(self._rows(recipe, runs, self.held_out, CHOICE, self.bench.choice, self.settings.draws))
            scores = [part.loc[part["metric"] == "accuracy", "value"].mean() for part in parts]
            chosen = scores.index(max(scores))
            named = zip((part["recipe"].iloc[0] for part in parts), scores, strict=True)
            print(f"{recipe}: " + ", ".join(f"{name} {score:.2f} %" for name, score in named), flush=True)
        told = _text(replace(self.base, **variants[chosen]))
        before = rows[(rows["method"] == recipe) & rows["chip"].isin([*self.bench.chips])]
        before = before[before["recipe"] == told] if len(before) else before
        chips = before.groupby("replicate")["chip"].nunique()
        finished = {*chips[chips == len(self.bench.chips)].index}
        parts.append(before[before["replicate"].isin(finished)])
        runs = self.runs(variants[chosen], [seed for seed in range(self.settings.copies) if seed not in finished])
        for chip, noise in self.bench.chips.items() if runs else ():
            draws = 1 if chip == "clean" else self.settings.draws
            parts.append(self._rows(recipe, runs, self.test, chip, noise, draws))
        return pd.concat(parts, ignore_index=True) if runs or finished else None

    def _rows(self, recipe: str, runs: list[Trained], on: Labelled, chip: str, noise: str, draws: int) -> pd.DataFrame:
        models = {recipe: [read_checkpoint(run.folder) for run in runs]}
        around = Chips(**AROUND.get(chip, {}))
        # A pass over larger networks takes seconds: what is done stays, also when copies are added.
        out = None if self.papers is None else self.out / "which_recipe" / f"{recipe}, {chip}.parquet"
        rows = evaluate(models, on, noise, draws, chips=around, compute=self.bench.compute, out=out).rows
        rows["model"] = rows["model"].map(lambda path: Path(path).parent.name)  # where it lies is the machine's matter
        return rows.assign(chip=chip, recipe=_text(runs[0].settings), cost=mean_cost(runs[0].settings))


def _text(settings: TrainSettings) -> str:
    """What a recipe is, beyond what all share."""
    usual, given = TrainSettings().described(), settings.described()
    given |= {"teacher": PLAIN} if given["teacher"] else {}
    own = ("weight_clip", "average", "teacher", "teacher_weight")
    further = [f"{name} {value}" for name in own if (value := given[name]) != usual[name]]
    return ", ".join([f"`{settings.method}`", *further])


def _cell(mean: float, std: float) -> str:
    return f"{mean:.1f}" if math.isnan(std) else f"{mean:.1f} ± {std:.1f}"


def _difference(line: pd.Series, bare: bool) -> str:
    return f"{line['mean']:+.1f}" + ("" if bare else f" [{line['low']:+.1f}, {line['high']:+.1f}]")


def write_page(bench: Bench, rows: pd.DataFrame, page: Path) -> None:
    """The page that the rows make."""
    recipes = [recipe for recipe in bench.recipes if recipe in set(rows["method"])]
    rows = rows[rows["metric"] == "accuracy"]
    tables = {chip: rows[rows["chip"] == chip] for chip in bench.chips}
    means = {chip: summarize(table).set_index("method") for chip, table in tables.items()}
    first = tables["clean"].drop_duplicates("method").set_index("method")
    levels = [["recipe", "chosen", "passes", "copies", *tables]]
    copies = tables["clean"].groupby("method")["replicate"].nunique().to_dict()
    gains = [["recipe - plain", *tables]]
    for recipe in recipes:
        cells = [_cell(mean.loc[recipe, "mean"], mean.loc[recipe, "weight_std"]) for mean in means.values()]
        levels.append(
            [recipe, str(first["recipe"][recipe]), f"{first['cost'][recipe]:.2f}", str(copies[recipe]), *cells]
        )
        if recipe != "plain" and "plain" in recipes:
            lines = [paired(table, recipe, "plain").iloc[0] for table in tables.values()]
            one_copy = min(copies[recipe], copies["plain"]) < 2  # its interval would be over draws
            gains.append([recipe, *(_difference(one, one_copy) for one in lines)])
    tried = rows[rows["chip"] == CHOICE].groupby(["method", "recipe"], sort=False, as_index=False)["value"].mean()
    choices = [
        f"- {recipe}: " + ", ".join(f"{one['recipe']} {one['value']:.1f}" for one in group.to_dict("records"))
        for recipe, group in tried.groupby("method", sort=False)
    ]
    missing = [recipe for recipe in bench.recipes if recipe not in recipes]
    about = " ".join((__doc__ or "").split("\n\n")[1].split())
    digits = bench is BENCHES["digits"]
    title = "# Which recipe for which chip" + ("" if digits else ": few images of CIFAR-10, trained to the end")
    text = "\n\n".join(
        [
            title,
            "What the training recipes of the field give on the same small network, on seven kinds of chip.",
            (READINGS / f"which_recipe{'' if digits else '_cifar10'}.txt").read_text().strip(),
            "## What was measured",
            about if digits else ABOUT_CIFAR10,
            f"    python experiments/which_recipe.py{'' if digits else ' --data cifar10'}    # makes this page",
            *([f"Not measured yet: {', '.join(missing)}."] if missing else []),
            "Test accuracy in %, mean ± std over trained copies; passes: a step's cost beside plain's.",
            as_markdown(levels),
            "Difference from plain in points, on the same copies and draws, with its 95 % interval over copies, each "
            "interval on its own.",
            as_markdown(gains),
            *(["What the strengths were chosen by (held-out accuracy in %):", "\n".join(choices)] if choices else []),
        ]
    )
    write_atomically(page, lambda file: file.write_text(text + "\n"))
    print(f"page: {page}")


if __name__ == "__main__":
    from start import start

    start(main)
