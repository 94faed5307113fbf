"""aihwkit's own additive hardware-aware training, as networks that noiserobust evaluates.

The network is converted to aihwkit's tiles and trained with AnalogSGD while every forward pass sees weights with fresh
Gaussian noise of std 0.06 max|w| of their tile (its modifier ADD_NORMAL): the field's baseline. Data, initial weights,
order, augmentation, learning rate and the choice of the epoch kept are those of ``noiserobust train``, so that only the
rule differs. With ``--converters`` the forward pass also has 7-bit inputs, 9-bit outputs, output noise 0.06 and learnt
output scales. What is kept is converted back exactly, and written like any other run.

    python experiments/hwa_aihwkit.py --label "aihwkit HWA"                          # digits: a minute per seed
    python experiments/hwa_aihwkit.py --label "aihwkit HWA, converters" --converters

With perfect converters it is the rule of ``noiserobust train --method "rwp:gaussian(0.06,reference=tile)"``, weight for
weight (tests/test_hwa.py). That is what was trained on CIFAR-10, where a step on aihwkit's tiles takes seven times as
long (ResNet-18 of width 16, 1.4 s of one core against 0.2 s).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from noiserobust.analog.backends.tiles import Aihwkit, load_aihwkit
from noiserobust.analog.noisy import NoisyWeights
from noiserobust.data import Batches, Splits, load
from noiserobust.models import ModelSpec
from noiserobust.models.compute import autocast
from noiserobust.rng import Stream, seeded
from noiserobust.storage.checkpoints import save_checkpoint
from noiserobust.storage.provenance import provenance
from noiserobust.tasks.batches import prepare
from noiserobust.tasks.scoring import score
from noiserobust.training import TrainSettings
from noiserobust.training.schedules import learning_rate


@dataclass
class Study:
    """Flags of the program."""

    label: str = "aihwkit HWA"
    """Name of the method in tables."""
    std_dev: float = 0.06
    """Standard deviation of the injected noise in units of the largest weight of a tile."""
    converters: bool = False
    """Converters, output noise and learnt output scales in the forward pass."""
    data: str = "digits"
    """digits or an image folder."""
    model: ModelSpec | None = None
    """Network (default: the one for digits)."""
    epochs: int = 30
    """Passes over the training data."""
    batch_size: int = 64
    """Samples per step."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    out: Path = Path("runs/hwa")
    """Folder for the runs."""

    def settings(self, seed: int) -> TrainSettings:
        """Those of ``noiserobust train``; of its method only the name is kept."""
        chosen = TrainSettings(data=self.data, epochs=self.epochs, batch_size=self.batch_size, seed=seed)
        return chosen if self.model is None else dataclasses.replace(chosen, model=self.model)

    def run(self) -> None:
        torch.set_num_threads(1)
        splits = load(self.data)
        for seed in self.seeds:
            path = (
                self.out / f"{self.label.lower().replace(', ', '-').replace(' ', '-')}-seed{seed}" / "model.safetensors"
            )
            if not path.is_file():
                weights, kept = train(self.settings(seed), splits, self.std_dev, self.converters)
                save_checkpoint(path, weights, self._about(seed, splits, kept))
            print(f"weights: {path}", flush=True)

    def _about(self, seed: int, splits: Splits, kept: dict[str, Any]) -> dict[str, Any]:
        settings = self.settings(seed)
        rule = {"method": self.label, "std_dev": self.std_dev, "converters": self.converters}
        return {
            "model": str(settings.model),
            "channels": splits.train.channels,
            "classes": splits.train.classes,
            "mean": splits.train.mean,
            "std": splits.train.std,
            "label": self.label,
            "seed": seed,
            "epoch": kept["epoch"],
            "log": kept,
            "settings": settings.described() | rule,
            "provenance": provenance(),
        }


def train(
    settings: TrainSettings, splits: Splits, std_dev: float, converters: bool
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The plain network's weights of the epoch kept, and that epoch's line of the log."""
    from aihwkit.nn.conversion import convert_to_digital
    from aihwkit.optim import AnalogSGD

    stream = Stream(settings.seed)
    data, held_out = splits.train.split(settings.validation, Stream(0, "validation"))
    crop, flip = settings.augmentation(splits)
    batches = Batches(data, settings.batch_size, stream=stream.child("train"), crop=crop, flip=flip)
    with seeded(stream.child("init")):
        model = settings.model.build(data.channels, len(data.classes))
    analog = converted(model, std_dev, converters)
    optimizer = AnalogSGD(analog.parameters(), lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
    optimizer.regroup_param_groups()
    loss = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    watched, steps = prepare(held_out, torch.device("cpu")), settings.epochs * len(batches)
    log: list[dict[str, Any]] = []
    best: dict[str, torch.Tensor] = {}
    for epoch in range(settings.epochs):
        analog.train()
        with seeded(stream.child("aihwkit", epoch)):  # aihwkit draws from torch's global generator
            for index, batch in enumerate(batches.epoch(epoch)):
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr * learning_rate(epoch * len(batches) + index, steps)
                optimizer.zero_grad()
                with autocast(torch.device("cpu"), settings.precision):
                    value = loss(analog(batch.inputs), batch.labels)
                value.backward()
                optimizer.step()
        with seeded(Stream(0, "aihwkit")):  # layers draw initial weights before they are given theirs
            plain = convert_to_digital(analog)
        line = {"epoch": epoch, "last_loss": value.item(), **score(plain, watched)}
        noisy, perturbed = NoisyWeights(plain), []
        for draw in range(settings.select_draws):
            with noisy.perturbed(settings.select_noise, Stream(settings.seed, "select", draw)):
                perturbed.append(score(plain, watched)["accuracy"])
        line["perturbed_accuracy"] = sum(perturbed) / len(perturbed)
        if all(line["perturbed_accuracy"] > earlier["perturbed_accuracy"] for earlier in log):
            best = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
        log.append(line)
        print(f"seed {settings.seed}: {line}", flush=True)
    return best, max(log, key=lambda line: line["perturbed_accuracy"])


def converted(model: nn.Module, std_dev: float, converters: bool, tile: int = 512) -> nn.Module:
    """``model`` on aihwkit's tiles, whose weights get additive noise in every forward pass of training."""
    from aihwkit.simulator.parameters.enums import WeightModifierType

    aihwkit = load_aihwkit()
    config = Aihwkit(tile=tile, columnwise=False).config(aihwkit)
    config.forward.is_perfect = not converters
    config.modifier.type = WeightModifierType.ADD_NORMAL
    config.modifier.std_dev = std_dev
    config.mapping.learn_out_scaling = converters
    if not converters:
        config.mapping.weight_scaling_omega = 0.0  # weights train as they are, not in units of their first maximum
    with seeded(Stream(0, "aihwkit")):
        return aihwkit.convert_to_analog(model, config)


if __name__ == "__main__":
    from start import start

    start(Study)
