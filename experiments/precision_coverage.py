"""Accuracy to a stated precision, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from noiserobust.data import load
from noiserobust.evaluation.subjects import Setup
from noiserobust.inference import Precision, answers
from noiserobust.noise import Gaussian
from noiserobust.noisy import NoisyWeights, report_stream
from noiserobust.results import write_atomically


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


if __name__ == "__main__":
    tyro.cli(Record).run()
