"""Training steps as people write them and as pytorch_optimizer takes them; network, data and machine of all cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from common import machine
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from noiserobust.data import Batch
from noiserobust.models import ModelSpec
from noiserobust.rng import Stream, seeded

CLASSES = 10
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
OTHERS = {
    "loop: plain": "plain training as people write it",
    "loop: RWP, subtracted": "randn_like, add; subtract after the backward pass, which leaves weights changed",
    "loop: RWP, copied": "clone; randn_like, add; copy back after the backward pass",
    "pytorch_optimizer: SAM": "SAM of pytorch_optimizer",
    "pytorch_optimizer: ASAM": "its SAM with adaptive=True",
    "pytorch_optimizer: LookSAM-5": "its LookSAM with k=5",
}


@dataclass(frozen=True)
class Setup:
    """Network, data and machine of all cases."""

    width: int = 64
    """Channels of the first stage of ResNet-18."""
    batch: int = 128
    """Images a step (of all processes together)."""
    device: str = "cpu"
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    threads: int = torch.get_num_threads()
    """CPU threads of a process."""

    def model(self) -> nn.Module:
        with seeded(Stream(0, "benchmark", "weights")):
            model = ModelSpec.parse(f"resnet18:{self.width}").build(3, CLASSES)
        return model.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def data(self, size: int) -> Batch:
        inputs = Stream(0, "benchmark", "inputs").normal((size, 3, 32, 32))
        labels = (Stream(0, "benchmark", "labels").uniform((size,)) * CLASSES).long()
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        return Batch(inputs.to(self.device), labels.to(self.device), torch.arange(size).to(self.device))

    def sgd(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), **SGD)

    def loss(self, model: nn.Module, data: Batch) -> Tensor:
        kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        with torch.autocast(torch.device(self.device).type, kind, enabled=self.precision != "fp32"):
            return cross_entropy(model(data.inputs), data.labels)

    def describe(self) -> dict[str, object]:
        fields = {"width": self.width, "batch": self.batch, "precision": self.precision}
        return {**fields, **machine(self.device, ("pytorch_optimizer",))}


def of_loop(name: str, setup: Setup) -> tuple[int, Callable[[], object]]:
    """Steps as people write them, and those of pytorch_optimizer; how many one call takes."""
    model, data = setup.model(), setup.data(setup.batch)
    analog = [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]

    def backward(optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        setup.loss(model, data).backward()

    def noise(weight: Tensor) -> Tensor:
        largest = weight.abs().amax(tuple(range(1, weight.dim())), keepdim=True)
        return 0.1 * largest * torch.randn_like(weight)

    if name.startswith("pytorch_optimizer"):
        import pytorch_optimizer

        if "LookSAM" in name:
            other = pytorch_optimizer.LookSAM(model.parameters(), torch.optim.SGD, rho=0.05, k=5, **SGD)
        else:
            other = pytorch_optimizer.SAM(model.parameters(), torch.optim.SGD, rho=0.05, adaptive="ASAM" in name, **SGD)
        steps = 5 if "LookSAM" in name else 1

        def theirs() -> None:
            for _ in range(steps):
                backward(other)
                if "LookSAM" in name and other.get_step() % 5:
                    # Between climbs it takes the gradient it has; a closure would be a second pass for nothing.
                    other.first_step()
                    other.second_step()
                else:
                    other.step(lambda: backward(other))

        return steps, theirs
    optimizer = setup.sgd(model)

    def plain() -> None:
        backward(optimizer)
        optimizer.step()

    def subtracted() -> None:
        with torch.no_grad():
            added = [noise(weight) for weight in analog]
            for weight, field in zip(analog, added, strict=True):
                weight.add_(field)
        backward(optimizer)
        with torch.no_grad():
            for weight, field in zip(analog, added, strict=True):
                weight.sub_(field)
        optimizer.step()

    def copied() -> None:
        with torch.no_grad():
            saved = [weight.clone() for weight in analog]
            for weight in analog:
                weight.add_(noise(weight))
        backward(optimizer)
        with torch.no_grad():
            for weight, clean in zip(analog, saved, strict=True):
                weight.copy_(clean)
        optimizer.step()

    return 1, {"plain": plain, "RWP, subtracted": subtracted, "RWP, copied": copied}[name.partition(": ")[2]]
