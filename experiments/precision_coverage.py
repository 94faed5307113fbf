"""Accuracy to a stated precision, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from noiserobust.data import load
from noiserobust.evaluation.subjects import Setup
from noiserobust.evaluation.subsets import Subsets
from noiserobust.evaluation.to_precision import Target, noise_std, until_precise
from noiserobust.inference import Precision, answers
from noiserobust.noise import Gaussian
from noiserobust.noisy import NoisyWeights, report_stream
from noiserobust.results import write_atomically
from noiserobust.rng import Stream


@dataclass
class Record:
    """Which images a network gets right under each of many draws: packed bits, one file per sigma."""

    checkpoint: str
    data: str
    out: Path
    sigmas: tuple[float, ...]
    draws: int = 100
    precision: Precision = "fp32"

    def run(self) -> None:
        torch.set_num_threads(1)
        (subject,) = Setup(precision=self.precision).subjects(self.checkpoint, load(self.data).test)
        noisy, classes = NoisyWeights(subject.network), subject.classes
        clean, margin = answers(subject.network, subject.batches, self.precision, classes)
        files = {sigma: self.out / f"sigma{sigma:g}.npz" for sigma in self.sigmas}
        found = {sigma: list(np.load(file)["correct"]) if file.is_file() else [] for sigma, file in files.items()}
        # A few draws of every sigma in turn, so that an interrupted recording has something of each.
        for draw in range(self.draws):
            for sigma, file in files.items():
                if draw < len(found[sigma]):
                    continue
                with noisy.perturbed(Gaussian(sigma), report_stream(0, 0, draw)):
                    correct, _ = answers(subject.network, subject.batches, self.precision, classes)
                found[sigma].append(np.packbits(correct.numpy()))
                if draw % 5 == 4 or draw == self.draws - 1:
                    table = {"correct": np.stack(found[sigma]), "margin": margin.numpy(), "clean": clean.numpy()}

                    def save(temporary: Path, table: dict[str, np.ndarray] = table) -> None:
                        with temporary.open("wb") as stream:
                            np.savez(stream, **table)

                    write_atomically(file, save)


@dataclass
class Simulate:
    """Evaluate to a precision again and again, with the recorded draws, drawn with replacement, as the population."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    repetitions: int = 400
    target: float = 0.5
    noise_std_draws: int = 150
    draw_cost: float = 10.0

    def run(self) -> None:
        for file in self.files:
            print(file.stem, simulate(file, self))


def simulate(file: Path, settings: Simulate) -> dict[str, float]:
    table = np.load(file)
    images = len(table["margin"])
    correct = np.unpackbits(table["correct"], axis=1, count=images).astype(bool)
    accuracies = 100 * correct.mean(1)
    truth, spread = accuracies.mean(), accuracies.std()
    target = Target(settings.target, noise_std_draws=settings.noise_std_draws)
    errors, draws, forwards, sizes, stds, covered = [], [], [], [], [], []
    for repetition in range(settings.repetitions):
        stream = Stream(repetition, "coverage", file.stem)
        chips = np.random.Generator(np.random.PCG64(stream.child("chips").integer()))
        chip = chips.integers(len(correct), size=target.max_draws)
        subsets = Subsets(
            images, lambda: table["margin"], lambda k, where: correct[chip[k], where], stream, settings.draw_cost
        )
        found = until_precise(target, subsets.until_precise)
        errors.append(np.mean([one["subset_accuracy"] for one in found]) - truth)
        draws.append(len(found))
        sizes.append(found[-1]["subset_images"])
        forwards.append(sum(one["subset_images"] for one in found) / images)
        if settings.noise_std_draws:
            fixed = [subsets.for_noise_std(draw) for draw in range(settings.noise_std_draws)]
            s, low, high = noise_std(
                np.array([one["subset_accuracy"] for one in fixed]), np.array([one["subset_variance"] for one in fixed])
            )
            stds.append((s, fixed[0]["subset_images"]))
            covered.append(low <= spread <= high)
    error = np.array(errors)
    full = (1.96 * spread / settings.target) ** 2
    return dict(
        pool=len(correct),
        truth=truth,
        s=spread,
        coverage=(abs(error) <= settings.target).mean(),
        bias=error.mean(),
        rms=error.std(),
        draws=np.mean(draws),
        n=np.mean(sizes),
        forwards=np.mean(forwards),
        total=np.mean(forwards) + np.mean(draws) * settings.draw_cost / images,
        f90=np.quantile(forwards, 0.9),
        full=full,
        s_mean=np.mean([s for s, _ in stds]) if stds else 0,
        s_rms=np.std([s for s, _ in stds]) if stds else 0,
        s_n=np.mean([n for _, n in stds]) if stds else 0,
        s_cov=np.mean(covered) if stds else 0,
    )


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"record": Record, "simulate": Simulate}).run()
