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

Stopped at any moment, recording goes on from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from scipy import stats

from noiserobust.analog.noisy import NoisyWeights, report_stream
from noiserobust.data import load
from noiserobust.evaluation import Compute, Target, evaluate
from noiserobust.evaluation.evaluated_models import EvaluatedModels
from noiserobust.evaluation.precision.subsets import Subsets
from noiserobust.evaluation.precision.to_precision import DRAW_COST, noise_std, until_precise
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

    def run(self) -> None:
        data, compute = load(self.data), Compute(precision=self.precision)
        (model,) = EvaluatedModels(self.checkpoint, data, compute=compute)
        noisy, classes = NoisyWeights(model.network), model.classes
        margin = answers(model.network, model.batches, self.precision, classes)[1].numpy()
        files = {sigma: self.out / f"sigma{sigma:g}.npz" for sigma in self.sigmas}
        correct = {sigma: list(np.load(file)["correct"]) if file.is_file() else [] for sigma, file in files.items()}
        # A draw of every sigma in turn, so that an interrupted recording has something of each.
        for draw in range(self.draws):
            for sigma, file in files.items():
                if draw < len(correct[sigma]):
                    continue
                with noisy.perturbed(Gaussian(sigma), report_stream(0, 0, draw)):
                    right, _ = answers(model.network, model.batches, self.precision, classes)
                correct[sigma].append(np.packbits(right.numpy()))
                if draw % 5 == 4 or draw == self.draws - 1:
                    write_atomically(file, partial(_save, correct=np.stack(correct[sigma]), margin=margin))


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
    images, accuracies = len(margin), _accuracies(correct)
    truth, spread = accuracies.mean(), accuracies.std()
    target = Target(settings.target)
    evaluations: list[dict[str, float]] = []
    for repetition in range(settings.repetitions):
        stream = Stream(repetition, "coverage", file.stem)
        chip = np.random.default_rng(stream.child("chips").integer()).integers(len(correct), size=target.max_draws)
        subsets = Subsets(
            images,
            lambda: margin,
            lambda draw, positions, chip=chip: correct[chip[draw], positions],
            stream,
            DRAW_COST["cpu"],
        )
        draws = pd.DataFrame(until_precise(target, subsets.until_precise))
        fixed = pd.DataFrame([subsets.for_noise_std(draw) for draw in range(settings.noise_std_draws)])
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
        "bias": table["error"].mean(),
        "rms_error": float(np.sqrt((table["error"] ** 2).mean())),
        "draws": table["draws"].mean(),
        "images_per_draw": table["images"].mean(),
        "passes_N": table["passes"].mean(),
        "passes_N_90th": table["passes"].quantile(0.9),
        "full_passes_N": _full_passes(spread, settings.target),
        "s_mean": table["s"].mean(),
        "s_rms_error": float(np.sqrt(((table["s"] - spread) ** 2).mean())),
        "s_coverage": table["s_covered"].mean(),
        "s_passes_N": table["s_passes"].mean(),
    }


def _full_passes(spread: float, target: float) -> int:
    """The fewest full passes whose t interval is no wider, at the true standard deviation."""
    counts = np.arange(2, 10_000)
    return int(counts[stats.t.ppf(0.975, counts - 1) * spread / np.sqrt(counts) <= target][0])


def _recorded(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """(draws x images of bool, margins)."""
    table = np.load(file)
    return np.unpackbits(table["correct"], axis=1, count=len(table["margin"])).astype(bool), table["margin"]


def _accuracies(correct: np.ndarray) -> np.ndarray:
    return 100 * correct.mean(1)


def _save(path: Path, **arrays: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


if __name__ == "__main__":
    torch.set_num_threads(1)
    tyro.extras.subcommand_cli_from_dict({"record": Record, "simulate": Simulate, "clock": Clock}).run()
