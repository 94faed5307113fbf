"""Every training rule on digits: clean and noisy accuracy, the difference from plain, the time of a step.

Data: scikit-learn's digits (8 x 8 pixels; 1,297 to train on, of which a tenth is held out to choose on; 500 to test
on). Each rule trains the small convolutional net for the demo's budget (30 epochs, batch 64, SGD momentum 0.9, lr 0.05
cosine) with three or more strengths and three seeds; the epoch of a run and the strength of a rule are those with the
best accuracy on the held-out data under Gaussian noise of sigma 0.15 (mean over seeds). The chosen strength is
evaluated on the test data, 10 draws per network at sigma 0, .1, .2, .3. The time of a step is measured afterwards:
blocks of steps of plain training and of the rule take turns in one process, and the median of the paired ratios is
given, so that a busy machine slows both.

    python experiments/rules_on_digits.py [--out FOLDER] [--table docs/rules_on_digits.md]

About 180 runs of a few seconds each on one core; stopped at any moment it goes on from there.
"""

from __future__ import annotations

import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from noiserobust.data import Batches, Splits, load
from noiserobust.evaluation import evaluate
from noiserobust.models import DigitsNet
from noiserobust.noise import Gaussian
from noiserobust.report.table import as_markdown
from noiserobust.rng import Stream
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.storage.files import write_atomically
from noiserobust.training import Engine, Method, Progress, Run, TrainSettings, fit

SIGMAS = (0.0, 0.1, 0.2, 0.3)
RULES: dict[str, tuple[str, tuple[float, ...]]] = {
    "plain": ("plain", (0.0,)),
    "SAM": ("sam:{}", (0.2, 0.5, 1.0, 2.0)),
    "ASAM": ("asam:{}", (1.0, 2.0, 4.0, 8.0)),
    "GSAM": ("gsam:{}", (0.2, 0.5, 1.0, 2.0)),
    "SSAM (Fisher, half)": ("ssam:{}", (0.2, 0.5, 1.0, 2.0)),
    "LookSAM (k 5)": ("looksam:{}", (0.2, 0.5, 1.0, 2.0)),
    "ESAM (.6, .5)": ("esam:{}", (0.1, 0.2, 0.5, 1.0)),
    "ESAM, SWP alone (.6)": ("esam:{},gamma=1.0", (0.1, 0.2, 0.5, 1.0)),
    "ESAM, SDS alone (.5)": ("esam:{},beta=1.0", (0.1, 0.2, 0.5, 1.0)),
    "SAF": ("saf:{}", (1.0, 3.0, 10.0, 30.0)),
    # The paper's decay of 0.9995 spans 2,000 steps; these runs have 570.
    "MESA (beta .98)": ("mesa:{},beta=0.98", (0.3, 0.8, 2.0, 5.0)),
    "RST (SAM, p .5)": ("rst:sam({}),p=0.5", (0.2, 0.5, 1.0, 2.0)),
    "G-RST (SAM, p .5, a 2)": ("g-rst:sam({}),p=0.5", (0.1, 0.2, 0.5, 1.0)),
    "RWP mixed, filter-wise": ("rwp-mixed:{}", (0.02, 0.05, 0.1, 0.2)),
    "RWP, max-magnitude": ("rwp:gaussian({})", (0.1, 0.2, 0.3, 0.4)),
    "RWP, two draws": ("rwp:gaussian({}),draws=2", (0.1, 0.2, 0.3, 0.4)),
}
"""Name -> text of the method with a place for its strength, and the strengths to choose from."""


@dataclass
class Settings:
    """Train every rule on digits, choose its strength on validation, tabulate."""

    out: Path = Path("runs/rules_on_digits")
    """Folder for runs and rows; what is finished there is not done again."""
    table: Path = Path("docs/rules_on_digits.md")
    """The table."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Trained copies of each network."""
    epochs: int = 30
    """Passes over the training data."""
    draws: int = 10
    """Noise draws per copy and sigma."""
    rounds: int = 60
    """Paired measurements of the time of a step."""


def main(settings: Settings) -> None:
    torch.set_num_threads(1)  # a step is too small to share out
    splits = load("digits")
    chosen: dict[str, list[Run]] = {}
    tried: dict[str, dict[str, float]] = {}
    for rule, (template, strengths) in RULES.items():
        methods = [str(Method.parse(template.format(strength))) for strength in strengths]
        runs = {method: [_train(settings, splits, method, seed) for seed in settings.seeds] for method in methods}
        tried[rule] = {method: statistics.mean(map(_validation, copies)) for method, copies in runs.items()}
        chosen[rule] = runs[max(methods, key=lambda method: tried[rule][method])]
        print(f"{rule}: " + ", ".join(f"{method} {score:.2f} %" for method, score in tried[rule].items()), flush=True)
    result = evaluate(
        {rule: [read_checkpoint(run.checkpoint) for run in runs] for rule, runs in chosen.items()},
        splits.test,
        [Gaussian(sigma) for sigma in SIGMAS],
        settings.draws,
        out=settings.out / "rows.parquet",
        progress=True,
    )
    summary = result.summary()
    summary = summary[summary["metric"] == "accuracy"].set_index(["method", "strength"])
    differences = {rule: result.paired(rule, "plain").set_index("strength") for rule in RULES if rule != "plain"}
    times = _times({rule: runs[0].settings.method for rule, runs in chosen.items()}, splits, settings.rounds)
    text = _text(settings, chosen, tried, summary, differences, times)
    print(f"table: {write_atomically(settings.table, lambda file: file.write_text(text))}")


def _train(settings: Settings, splits: Splits, method: str, seed: int) -> Run:
    return fit(
        TrainSettings(
            method=Method.parse(method),
            epochs=settings.epochs,
            batch_size=64,
            lr=0.05,
            select_noise=Gaussian(0.15),
            seed=seed,
        ),
        settings.out,
        splits=splits,
    )


def _validation(run: Run) -> float:
    """Perturbed accuracy on the held-out data of the epoch kept."""
    return float(read_checkpoint(run.checkpoint).about["log"]["perturbed_accuracy"])


def _times(methods: dict[str, Method], splits: Splits, rounds: int, block: int = 10) -> dict[str, tuple[float, ...]]:
    """Per rule: median milliseconds of a plain step and of the rule's, and the median of their paired ratios."""
    batch = next(Batches(splits.train, 64, stream=Stream(0, "time"), channels_last=True).epoch(0))

    def seconds(method: Method, engine: Engine, first: int, steps: int) -> float:
        started = time.perf_counter()
        for step in range(first, first + steps):
            # Far into the run: schedules are up, SAF and MESA are past their start.
            method.step(engine, batch, Progress(step, 10**6, 10 + step, 10**6))
        return time.perf_counter() - started

    def engine() -> Engine:
        model = DigitsNet().build(1, 10).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
        return Engine(model, optimizer, samples=len(splits.train), classes=10)

    times = {}
    for rule, method in methods.items():
        engines, pairs = {"plain": engine(), "rule": engine()}, []
        for round_ in range(-2, rounds):
            # Takes turns at going first, so that what favours the second is shared.
            order = [("plain", methods["plain"]), ("rule", method)][:: 1 if round_ % 2 else -1]
            pair = {name: seconds(rule_, engines[name], (round_ + 2) * block, block) for name, rule_ in order}
            if round_ >= 0:
                pairs.append((pair["plain"], pair["rule"]))
        times[rule] = (
            1000 * statistics.median(plain for plain, _ in pairs) / block,
            1000 * statistics.median(timed for _, timed in pairs) / block,
            statistics.median(timed / plain for plain, timed in pairs),
        )
    return times


def _text(
    settings: Settings,
    chosen: dict[str, list[Run]],
    tried: dict[str, dict[str, float]],
    summary: pd.DataFrame,
    differences: dict[str, pd.DataFrame],
    times: dict[str, tuple[float, ...]],
) -> str:
    sigmas = [f"sigma {sigma:g}" for sigma in SIGMAS]
    accuracies, comparisons = [["rule", "chosen", *sigmas]], [["rule", *sigmas, "ms plain", "ms rule", "times plain"]]
    for rule, runs in chosen.items():
        cells = [_cell(summary.loc[(rule, sigma)]) for sigma in SIGMAS]
        accuracies.append([rule, f"`{runs[0].settings.method}`", *cells])
        cells = ["–"] * len(SIGMAS) if rule == "plain" else [_difference(differences[rule].loc[s]) for s in SIGMAS]
        comparisons.append([rule, *cells, *(f"{value:.2f}" for value in times[rule])])
    scores = "\n".join(
        f"- {rule}: " + ", ".join(f"`{method}` {score:.2f}" for method, score in methods.items())
        for rule, methods in tried.items()
    )
    paragraphs = [
        "# Every training rule on digits",
        "How much each training rule helps a small network under weight noise, and what its step costs.",
        (__doc__ or "").split("\n\n")[1].replace("\n", " "),
        f"    python experiments/rules_on_digits.py    # makes this page; {_machine()}",
        "Accuracy on test in %: mean ± std over noise draws ± std over trained networks "
        f"({len(settings.seeds)} networks x {settings.draws} draws; sigma 0 has no noise).",
        as_markdown(accuracies),
        "Difference from plain in points, on the same seeds and draws, with its 95 % interval over networks; and the "
        f"time of a step ({settings.rounds} pairs of blocks of 10 steps, one thread; the ratio is the median of the "
        "paired ratios).",
        as_markdown(comparisons),
        "What the strengths were chosen by (perturbed accuracy on validation, mean over seeds, in %):",
        scores,
    ]
    return "\n\n".join(paragraphs) + "\n"


def _cell(line: pd.Series) -> str:
    noise = [] if line.name[1] == 0 else [line["noise_std"]]
    return " ± ".join(f"{value:.2f}" for value in (line["mean"], *noise, line["weight_std"]))


def _difference(line: pd.Series) -> str:
    return f"{line['mean']:+.2f} [{line['low']:+.2f}, {line['high']:+.2f}]"


def _machine() -> str:
    return f"torch {torch.__version__} on one core of a {platform.machine()} machine"


if __name__ == "__main__":
    from start import start

    start(main)
