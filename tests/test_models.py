"""Networks: their shapes, sizes and names, and that they learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from noiserobust.data import Batches, load
from noiserobust.errors import UserError
from noiserobust.models import DigitsNet, ModelSpec, ResNet18, build
from noiserobust.rng import Stream, seeded


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("spec", "channels", "classes", "count"),
    [
        # 11,173,962 is the ResNet-18 of the papers; the second has 90 more rows of 512 weights and a bias.
        (ResNet18(), 3, 10, 11_173_962),
        (ResNet18(), 3, 100, 11_173_962 + 90 * 513),
        (ResNet18(), 1, 10, 11_173_962 - 2 * 9 * 64),
        (DigitsNet(), 1, 10, 9 * (16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64) + 65 * 10),
    ],
)
def test_parameter_counts(spec: ModelSpec, channels: int, classes: int, count: int) -> None:
    assert parameters(build(spec, channels, classes)) == count


@pytest.mark.parametrize(
    ("spec", "shape"), [("resnet18:4", (2, 3, 32, 32)), ("resnet18:4", (2, 1, 8, 8)), ("digits:4", (2, 1, 8, 8))]
)
def test_logits(spec: str, shape: tuple[int, ...]) -> None:
    model = build(spec, channels=shape[1], classes=7)
    assert model(torch.zeros(shape)).shape == (2, 7)


def test_resnet_is_laid_out_as_in_the_papers() -> None:
    model = build("resnet18:8", 3, 10)
    seen: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _m, _x, out, name=name: seen.update({name: tuple(out.shape[1:])}))
    model(torch.zeros(2, 3, 32, 32))
    shapes = [seen[name] for name in ("stem", "stages.0", "stages.1", "stages.2", "stages.3", "head")]
    assert shapes == [(8, 32, 32), (8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4), (10,)]
    convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert len(convs) == 20
    shortcuts = [name for name, conv in convs.items() if conv.kernel_size == (1, 1)]
    assert shortcuts == [f"stages.{stage}.0.downsample.conv" for stage in (1, 2, 3)]
    assert all(conv.bias is None for conv in convs.values())


def test_initial_weights_follow_the_seed_and_are_pytorchs() -> None:
    def weights(seed: int) -> torch.Tensor:
        with seeded(Stream(seed, "model")):
            return nn.utils.parameters_to_vector(build("resnet18:8", 3, 10).parameters())

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    bound = (8 * 9) ** -0.5  # PyTorch's uniform initialisation: within 1 / sqrt(inputs)
    conv = build("resnet18:8", 3, 10).stages[0][0].conv1.weight
    assert 0.95 * bound < conv.abs().max() <= bound


@pytest.mark.parametrize("spec", [ResNet18(), ResNet18(16), DigitsNet(), DigitsNet(width=8)])
def test_text_round_trip(spec: ModelSpec) -> None:
    assert ModelSpec.parse(str(spec)) == spec


def test_text_is_short() -> None:
    assert [str(spec) for spec in (ResNet18(), ResNet18(16), DigitsNet(8))] == [
        "resnet18:64",
        "resnet18:16",
        "digits:8",
    ]


@pytest.mark.parametrize(
    ("spec", "channels", "message"),
    [
        ("resnet18:0", 3, "resnet18: expected a width of 1 channel or more, got 0"),
        ("digits:-4", 1, "digits: expected a width of 1 channel or more, got -4"),
        ("resnet19", 3, "expected a model (digits, resnet18), got 'resnet19'"),
        ("resnet18", 0, "expected 1 channel and 1 class or more, got 0 and 10"),
    ],
)
def test_refusals(spec: str, channels: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(spec, channels, 10)
    assert str(caught.value) == message


def test_digits_net_learns_digits() -> None:
    splits = load("digits")
    with seeded(Stream(0, "model")):
        model = build("digits", 1, 10)
    epochs, batches = 6, Batches(splits.train, 32, stream=Stream(0), crop=splits.crop)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * len(batches) + 1)
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch.inputs), batch.labels).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    accuracy = (model(splits.test.normalized()).argmax(1) == splits.test.labels).float().mean()
    print(f"accuracy {accuracy:.3f}")
    assert accuracy > 0.95
