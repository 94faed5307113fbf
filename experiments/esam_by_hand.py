"""Is it ESAM that learns slowly from few images, or ours? A loop in plain PyTorch, with none of noiserobust's rules.

Trains the first epochs of scale small's run (500 images a class of CIFAR-10, ResNet-18 of width 16, batch 128, SGD 0.05
on a cosine over 60 epochs, weight decay 5e-4, label smoothing 0.1, crop and flip) by:

- ``plain`` and ``sam``;
- ``esam``: Algorithm 1 of arXiv 2110.03141 with beta 0.6 and gamma 0.5: a random choice of tensors climbs, the step is
  taken on the half of the samples whose loss rose most;
- ``selection``: that half alone, all tensors climb;
- ``random half``: the step is taken on a random half.

    python experiments/esam_by_hand.py CIFAR --out docs/results/esam_by_hand.csv    # 10 min of one core; docs/regime.md
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from noiserobust.data import Dataset, load
from noiserobust.models import ResNet18

RULES = ("plain", "sam", "esam", "selection", "random half")
RHO, BETA, GAMMA, BATCH, LR, EPOCHS = 0.025, 0.6, 0.5, 128, 0.05, 60


def augmented(images: Tensor) -> Tensor:
    """Every image shifted by up to four pixels, half of them mirrored."""
    padded = F.pad(images, (4, 4, 4, 4))
    rows, columns = torch.randint(9, (2, len(images)))
    pieces = [padded[i, :, r : r + 32, c : c + 32] for i, (r, c) in enumerate(zip(rows, columns, strict=True))]
    mirrored = [piece.flip(-1) if torch.rand(()) < 0.5 else piece for piece in pieces]
    return torch.stack(mirrored).contiguous(memory_format=torch.channels_last)


def losses(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    return F.cross_entropy(logits.float(), labels, label_smoothing=0.1, reduction="none")


def learn_statistics(network: nn.Module, on: bool) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1 if on else 0.0


def gradient(network: nn.Module, rule: str, images: Tensor, labels: Tensor) -> float:
    """Leave the gradient of a step in the network; the mean loss at w."""
    learn_statistics(network, True)
    before = losses(network, images, labels)
    before.mean().backward()
    if rule == "plain":
        return before.mean().item()
    share = BETA if rule == "esam" else 1.0
    climbing = [
        (p, p.grad) for p in network.parameters() if p.grad is not None and (share == 1 or torch.rand(()) < share)
    ]
    length = torch.stack([g.norm() for _, g in climbing]).norm()
    moved, steps = [p for p, _ in climbing], [g * (RHO / share / length) for _, g in climbing]
    rows = torch.arange(len(labels))
    learn_statistics(network, False)
    with torch.no_grad():
        torch._foreach_add_(moved, steps)
        if rule in ("esam", "selection"):
            rises = losses(network, images, labels) - before
            rows = rises.topk(int(GAMMA * len(labels))).indices
    if rule == "random half":
        rows = torch.randperm(len(labels))[: int(GAMMA * len(labels))]
    network.zero_grad()
    losses(network, images[rows], labels[rows]).mean().backward()
    with torch.no_grad():
        torch._foreach_sub_(moved, steps)
    return before.mean().item()


def trained(data: str, rule: str, epochs: int, seed: int) -> list[dict[str, object]]:
    """Training loss and accuracy on the watched images after each of the first ``epochs``."""
    train, validation = load(data).train, load(data).validation
    assert isinstance(train, Dataset)
    assert isinstance(validation, Dataset)
    images, labels, watched, truth = train.normalized(), train.labels, validation.normalized(), validation.labels
    torch.manual_seed(seed)
    network = ResNet18(16).build(3, 10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    steps = math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * EPOCHS)
    rows: list[dict[str, object]] = []
    for epoch in range(epochs):
        network.train()
        seen = []
        for some in torch.randperm(len(images)).split(BATCH):
            seen.append(gradient(network, rule, augmented(images[some]), labels[some]))
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        network.eval()
        with torch.no_grad():
            right = (network(watched).argmax(1) == truth).double().mean().item()
        rows.append({"rule": rule, "seed": seed, "epoch": epoch, "train_loss": round(sum(seen) / steps, 4),
                     "accuracy": round(100 * right, 2)})  # fmt: skip
        print(*rows[-1].values(), flush=True)
    return rows


def main(
    folder: Annotated[str, tyro.conf.Positional],
    /,
    out: Path = Path("esam_by_hand.csv"),
    epochs: int = 5,
    seed: int = 0,
) -> None:
    """Train by every rule in turn.

    Args:
        folder: Of CIFAR-10's images, as for ``noiserobust train --data``.
        out: Where the rows go.
        epochs: How many of the 60 epochs are trained.
        seed: Of the initial weights, the order and the crops.
    """
    torch.set_num_threads(1)
    data = f"subset:folder({folder}),per_class=500,validation=50"
    rows = [row for rule in RULES for row in trained(data, rule, epochs, seed)]
    pd.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    from start import start

    start(main)
