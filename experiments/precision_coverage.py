"""Accuracy to a stated precision, checked: does ± 0.5 points at 95 % cover, what does it cost, and against what?

Claim: on the 10,000 test images of CIFAR-10, narrow ResNet-18, accuracy under noise to ± 0.5 points takes one clean
pass and less than 1.5 N image passes where the noise has a standard deviation of about 2 points (full passes: 60 N or
more), and the interval covers in at least 94 % of 400 repetitions under mild, medium and severe noise.

``record`` writes down which images a network gets right under each of many draws. ``simulate`` then evaluates to a
precision again and again, with ``noiserobust.evaluation``'s own code, taking its draws (with replacement) from the
recorded ones: their mean is the truth, known exactly. ``clock`` runs the real thing beside full passes and counts
seconds of one core, the making of noise included. docs/precision.md shows the results.

    python experiments/precision_coverage.py record --checkpoint RUN/model.safetensors --data cifar10 --out FOLDER \
        --sigmas 0.03 0.075 0.14 --precision bf16       (about 4 s of one core per draw and sigma)
    python experiments/precision_coverage.py simulate FOLDER/*.npz --out rows.csv
    python experiments/precision_coverage.py clock --checkpoint RUN/model.safetensors --data cifar10 FOLDER/*.npz

``record --by-bf16 --images 3000`` writes the answers in bf16 beside those in fp32, for ``simulate`` to evaluate by
bf16. Stopped at any moment, recording goes on from there.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from scipy import stats

from noiserobust.analog.noisy import NoisyWeights, report_stream
from noiserobust.data import load
from noiserobust.evaluation import Compute, Target, evaluate
from noiserobust.evaluation.evaluated_models import EvaluatedModels
from noiserobust.evaluation.precision.strata import refitted, sampling_variance, score
from noiserobust.evaluation.precision.subsets import Answered, Subsets
from noiserobust.evaluation.precision.to_precision import BF16_DRAW_COST, DRAW_COST, noise_std, until_precise
from noiserobust.evaluation.precision.two_phase import difference_weights
from noiserobust.models.compute import Precision
from noiserobust.noise import Gaussian
from noiserobust.rng import Stream
from noiserobust.storage.files import write_atomically
from noiserobust.tasks.scoring import answers


@dataclass
class Record:
    """Which images a network gets right under each of many draws: packed bits, one file per sigma."""

    checkpoint: str
    """Network."""
    data: str
    """Name or folder of the data; its test part is used."""
    out: Path
    """Folder for the files."""
    sigmas: tuple[float, ...]
    """Strengths of Gaussian noise."""
    draws: int = 100
    """Draws of each."""
    precision: Precision = "fp32"
    """fp32, bf16 or fp16."""
    images: int | None = None
    """A random sample of so many test images (all)."""
    by_bf16: bool = False
    """Record the answers in bf16, too, and their margins: simulate then evaluates by bf16."""

    def run(self) -> None:
        data, compute = load(self.data), Compute(precision=self.precision)
        (model,) = EvaluatedModels(self.checkpoint, data, images=self.images, compute=compute)
        noisy, task = NoisyWeights(model.network), model.task
        margin = answers(model.network, model.batches, self.precision, task)[1].numpy()
        files = {sigma: self.out / f"sigma{sigma:g}.npz" for sigma in self.sigmas}
        names = ("correct", "quick", "margins") if self.by_bf16 else ("correct",)
        known = {
            sigma: {name: list(np.load(file)[name]) if file.is_file() else [] for name in names}
            for sigma, file in files.items()
        }
        # A draw of every sigma in turn, so that an interrupted recording has something of each.
        for draw in range(self.draws):
            for sigma, file in files.items():
                draws = known[sigma]
                if draw < len(draws["correct"]):
                    continue
                with noisy.perturbed(Gaussian(sigma), report_stream(0, 0, draw)):
                    right, _ = answers(model.network, model.batches, self.precision, task)
                    if self.by_bf16:
                        quick, margins = answers(model.network, model.batches, "bf16", task)
                        draws["quick"].append(np.packbits(quick.numpy()))
                        draws["margins"].append(margins.numpy().astype(np.float16))
                draws["correct"].append(np.packbits(right.numpy()))
                if draw % 5 == 4 or draw == self.draws - 1:
                    stacked = {name: np.stack(values) for name, values in draws.items()}
                    write_atomically(file, partial(_save, margin=margin, **stacked))


@dataclass
class Simulate:
    """Evaluate to a precision again and again, with recorded draws as the population."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """What ``record`` wrote."""
    out: Path
    """CSV file, one line per recorded file."""
    repetitions: int = 400
    """Evaluations of each."""
    target: float = 0.5
    """Half width of the interval in points."""
    noise_std_draws: int = 150
    """Draws of the fixed design for the noise's standard deviation."""

    def run(self) -> None:
        lines = []
        for file in self.files:
            lines.append(_simulated(file, self))
            print(pd.DataFrame(lines[-1:]).T.to_string(header=False), flush=True)
            write_atomically(self.out, pd.DataFrame(lines).to_csv)


@dataclass
class Clock:
    """Seconds of one core for ± target: by subsets, and by as many full passes as that would need."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """What ``record`` wrote: the noise's standard deviation is taken from there."""
    checkpoint: str
    """Network."""
    data: str
    """Name or folder of the data; its test part is used."""
    target: float = 0.5
    """Half width of the interval in points."""
    passes: int = 4
    """Full passes that are timed; the others are counted at their average."""
    precision: Precision = "fp32"
    """fp32, bf16 or fp16."""

    def run(self) -> None:
        data, compute = load(self.data).test, Compute(precision=self.precision)
        for file in self.files:
            noise = Gaussian(float(file.stem.removeprefix("sigma")))
            spread = _accuracies(_recorded(file)[0]).std(ddof=1)
            needed = _full_passes(spread, self.target)

            def seconds(noise: Gaussian = noise, **options: object) -> tuple[float, pd.DataFrame]:
                start = time.process_time()
                result = evaluate(self.checkpoint, data, noise, compute=compute, **options)  # type: ignore[arg-type]
                return time.process_time() - start, result.summary()

            subsets, summary = seconds(precision_target=self.target)
            one, many = seconds(draws=1)[0], seconds(draws=1 + self.passes)[0]
            full = one + (many - one) / self.passes * (needed - 1)
            line = summary.iloc[0]
            print(
                f"{noise}: {line['mean']:.2f} ± {line['half_width']:.2f}, {line['draws']} draws, "
                f"{line['image_forwards'] / len(data):.2f} N and a clean pass, {subsets:.1f} s; "
                f"{needed} full passes of {(many - one) / self.passes:.2f} s, {full:.0f} s",
                flush=True,
            )


def _simulated(file: Path, settings: Simulate) -> dict[str, float | str]:
    correct, margin = _recorded(file)
    quick, margins = _by_bf16(file)
    images, accuracies = len(margin), _accuracies(correct)
    truth, spread = accuracies.mean(), accuracies.std()
    target = Target(settings.target)
    evaluations: list[dict[str, float]] = []
    for repetition in range(settings.repetitions):
        stream = Stream(repetition, "coverage", file.stem)
        chip = np.random.default_rng(stream.child("chips").integer()).integers(len(correct), size=target.max_draws)

        def answered(draw: int, positions: np.ndarray, chip=chip, stream=stream) -> Any:  # type: ignore[no-untyped-def]
            if quick is None:
                return Answered(correct[chip[draw], positions])
            by_bf16, generator = quick[chip[draw], positions], stream.child("looks", draw).integer()
            added = difference_weights(margins[chip[draw], positions], np.random.default_rng(generator))
            return Answered(by_bf16, added * (correct[chip[draw], positions].astype(float) - by_bf16))

        cost = (DRAW_COST if quick is None else BF16_DRAW_COST)["cpu"]
        subsets = Subsets(images, lambda: margin, answered, stream, cost)
        draws = pd.DataFrame(until_precise(target, subsets.until_precise))
        # By bf16 there is no such design: the correction would count as noise.
        count = settings.noise_std_draws if quick is None else 0
        fixed = pd.DataFrame([subsets.for_noise_std(draw) for draw in range(count)], columns=list(draws.columns))
        s, low, high = math.nan, math.nan, math.nan
        if count:
            s, low, high = noise_std(fixed["subset_accuracy"].to_numpy(), fixed["subset_variance"].to_numpy())
        evaluations.append(
            {
                "error": draws["subset_accuracy"].mean() - truth,
                "draws": len(draws),
                "images": draws["subset_images"].iloc[-1],
                "passes": draws["subset_images"].sum() / images,
                "s": s,
                "s_covered": low <= spread <= high,
                "s_passes": fixed["subset_images"].sum() / images,
            }
        )
    table = pd.DataFrame(evaluations)
    covered = int((table["error"].abs() <= settings.target).sum())
    interval = stats.binomtest(covered, settings.repetitions).proportion_ci(method="wilson")
    return {
        "file": f"{file.parent.name}/{file.stem}",
        "N": images,
        "recorded_draws": len(correct),
        "repetitions": settings.repetitions,
        "accuracy": truth,
        "noise_std": spread,
        "coverage": covered / settings.repetitions,
        "coverage_low": interval.low,
        "coverage_high": interval.high,
        "by_bf16": quick is not None,
        **({} if quick is None else _turned(correct, quick, margins)),
        "bias": table["error"].mean(),
        "rms_error": float(np.sqrt((table["error"] ** 2).mean())),
        "draws": table["draws"].mean(),
        "images_per_draw": table["images"].mean(),
        "passes_N": table["passes"].mean(),
        "passes_N_90th": table["passes"].quantile(0.9),
        "full_passes_N": _full_passes(spread, settings.target),
        "v1": 1e4 * _sampling_variance(correct, margin),
        **({} if quick is not None else _of_noise_std(table, spread)),
    }


def _of_noise_std(table: pd.DataFrame, spread: float) -> dict[str, float]:
    return {
        "s_mean": table["s"].mean(),
        "s_rms_error": float(np.sqrt(((table["s"] - spread) ** 2).mean())),
        "s_coverage": table["s_covered"].mean(),
        "s_passes_N": table["s_passes"].mean(),
    }


def _turned(correct: np.ndarray, quick: np.ndarray, margins: np.ndarray) -> dict[str, float]:
    """What bf16 does: points by which it is off, the share of answers that it turns, and the part of each draw's
    images, of the smallest margins, in which all of those lie."""
    turned = quick != correct
    rank = np.abs(margins).argsort(axis=1).argsort(axis=1) / margins.shape[1]
    off = {"bias_of_bf16": 100 * (quick.mean() - correct.mean()), "turned_by_bf16": turned.mean()}
    return off | {"turned_within": rank[turned].max(initial=0.0)}


def _sampling_variance(correct: np.ndarray, margin: np.ndarray) -> float:
    """v_1 of strata by a score that is fitted to all recorded answers."""
    positions = np.tile(np.arange(len(margin)), len(correct))
    weight, right = np.ones(len(positions)), correct.ravel()
    chance = refitted(margin, positions, right, weight)
    return sampling_variance(score(chance), chance, positions, right, weight)


def _full_passes(spread: float, target: float) -> int:
    """The fewest full passes whose t interval is no wider, at the true standard deviation."""
    counts = np.arange(2, 10_000)
    return int(counts[stats.t.ppf(0.975, counts - 1) * spread / np.sqrt(counts) <= target][0])


def _recorded(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """(draws x images of bool, margins)."""
    table = np.load(file)
    return np.unpackbits(table["correct"], axis=1, count=len(table["margin"])).astype(bool), table["margin"]


def _by_bf16(file: Path) -> tuple[np.ndarray | None, np.ndarray]:
    """The same in bf16, and its margins, draws x images; None where they were not recorded."""
    table = np.load(file)
    if "quick" not in table:
        return None, np.empty(0)
    return np.unpackbits(table["quick"], axis=1, count=len(table["margin"])).astype(bool), table["margins"].astype(
        float
    )


def _accuracies(correct: np.ndarray) -> np.ndarray:
    return 100 * correct.mean(1)


def _save(path: Path, **arrays: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


if __name__ == "__main__":
    from start import start

    torch.set_num_threads(1)
    start(Record | Simulate | Clock)
