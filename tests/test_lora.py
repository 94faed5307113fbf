"""Digital adapters over a frozen network in the arrays, from Python and through the commands that lead there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TINY, refused
from methods import few_digits, same_bits
from torch import nn

from noiserobust import UserError, analog_weights, perturbed
from noiserobust.cli import main
from noiserobust.data import Batch
from noiserobust.models import ModelSpec, build
from noiserobust.models.lora import Adapted
from noiserobust.rng import Stream, seeded
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.training import Engine, Method, Progress, TrainSettings, fit

SEARCH = ["--within", "0.5", "--draws", "1", "--max-layers", "1", "--layers-out", "table.toml"]


def made(text: str) -> nn.Module:
    with seeded(Stream(0, "net")):
        return build(text, channels=1, classes=10)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (4, 6)),
        (nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=2), (2, 3, 9, 9)),
        (nn.Conv1d(3, 5, 4, padding="same", padding_mode="circular"), (2, 3, 8)),
    ],
)
def test_an_adapter_adds_b_a_to_the_weight(layer: nn.Module, shape: tuple[int, ...]) -> None:
    adapted = Adapted(copy.deepcopy(layer), rank=2, scale=1.5).double()
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(adapted(x), layer(x))  # B begins at 0
    nn.init.normal_(adapted.lora_B.weight)
    down, up = (one.weight.detach() for one in adapted.adapter)
    with torch.no_grad():
        layer.weight += 1.5 * torch.einsum("or,r...->o...", up.flatten(1), down)
    torch.testing.assert_close(adapted(x), layer(x))


@pytest.mark.parametrize("text", ["digits:4", "vit-cifar:width=24,depth=1"])
def test_the_base_is_in_the_arrays_as_ever_and_the_adapters_are_not(text: str) -> None:
    base, adapted = made(text), made(f"lora:{ModelSpec.parse(text).nested()},rank=2")
    names = [weight.name for weight in analog_weights(adapted)]
    assert names == [weight.name for weight in analog_weights(base)]
    more = analog_weights(adapted, include=["*.lora_?.weight"])
    assert len(more) > len(names)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in {one.name for one in more} - {*names}} == {
        "lora_A",
        "lora_B",
    }
    assert all(p.requires_grad == ("lora_" in name) for name, p in adapted.named_parameters())


def test_adapters_learn_on_a_noisy_base() -> None:
    model = made("lora:digits(4),rank=2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = Engine(model, torch.optim.SGD(model.parameters(), lr=0.5), converters="io:dac=6,adc=8")
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for step in range(2):
        Method.parse("rwp:gaussian(0.2)").step(engine, Batch(x, torch.arange(8)), Progress(step, 4))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in moved if "running" not in name and "batches" not in name} == {
        name for name in before if "lora_" in name
    }
    kept = {name: value.clone() for name, value in model.state_dict().items() if "lora_" in name}
    with perturbed(model, "gaussian:0.2"):
        assert same_bits([model.state_dict()[name] for name in kept], [*kept.values()])
        assert not torch.equal(model.state_dict()["head.base_layer.weight"], before["head.base_layer.weight"])


def test_settings(tmp_path: Path) -> None:
    common: dict[str, Any] = {"model": "digits:4", "epochs": 1, "batch_size": 50, "select_draws": 1}
    start = fit(TrainSettings(**common), tmp_path, splits=few_digits(100)).checkpoint
    one = TrainSettings(**common, lora="rank=2", initial=str(start))
    other = TrainSettings(**common | {"model": "lora:digits(4),rank=2"}, initial=str(start))
    assert one == other
    assert one.identity(few_digits(100)) != TrainSettings(**common, initial=str(start)).identity(few_digits(100))
    run = fit(one, tmp_path, splits=few_digits(100))
    stored = read_checkpoint(run.checkpoint)
    assert stored.about["model"] == "lora:digits(4),rank=2"
    base = read_checkpoint(start).weights
    assert same_bits(stored.weights["conv1.conv.base_layer.weight"], base["conv1.conv.weight"])
    again = fit(
        TrainSettings(**common, lora="rank=2", initial=str(run.folder), seed=1), tmp_path, splits=few_digits(100)
    )
    assert not torch.equal(read_checkpoint(again.checkpoint).weights["head.lora_B.weight"], torch.zeros(10, 2))


def test_from_keep_digital_to_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a search keeps digital is trained, with adapters beside the rest, and evaluated as it was trained."""
    monkeypatch.chdir(tmp_path)
    main(["train", *TINY, "--epochs", "4", "--batch-size", "64", "--out", "base"])
    noise = ["--noise", "gaussian:0.5"]
    main(["keep-digital", "base", *noise, *SEARCH])
    adapters = ["--lora", "rank=2", "--method", "rwp:gaussian(0.3)", "--layers", "table.toml"]
    assert "whose layers lora freezes, got none" in refused(["train", *TINY, *adapters], capsys)
    (start,) = (tmp_path / "base").iterdir()
    main(["train", *TINY, *adapters, "--initial", str(start), "--out", "adapted"])
    capsys.readouterr()
    main(["evaluate", "adapted", *noise, "--draws", "1"])
    told = capsys.readouterr()
    assert "adapter, digital beside its base" in told.out + told.err
    assert "as it was trained: layers=" in told.out + told.err


def test_clipping_that_would_reach_nothing_is_refused(tmp_path: Path) -> None:
    """LoRA trains no weight that lies in an array by itself."""
    common: dict[str, Any] = {"epochs": 1, "select_on": "none"}
    start = fit(TrainSettings(model="digits:4", **common), tmp_path, splits=few_digits(100)).checkpoint  # type: ignore[arg-type]
    settings = common | {"model": "lora:digits(4),rank=2", "initial": str(start), "weight_clip": 1.3}
    with pytest.raises(UserError, match="expected analog weights that training changes to clip, got none"):
        fit(TrainSettings(**settings), tmp_path, splits=few_digits(100))
