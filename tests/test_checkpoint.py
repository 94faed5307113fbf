"""Weights come back bit for bit, and what does not fit is said in one line."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from noiserobust import checkpoint as module
from noiserobust.checkpoint import find_checkpoints, load_weights, read_checkpoint, save_checkpoint, weights_hash
from noiserobust.errors import UserError
from noiserobust.models import DigitsNet, ResNet18

ABOUT = {"model": "digits:4", "channels": 1, "classes": ["a", "b", "c"], "label": "plain", "seed": 7}


def saved(path: Path, about: dict[str, object] = ABOUT) -> tuple[Path, torch.nn.Module]:
    net = DigitsNet(width=4).build(1, 3)
    return save_checkpoint(path, net.state_dict(), about), net


def test_round_trip(tmp_path: Path) -> None:
    path, net = saved(tmp_path / "a.safetensors")
    found, state = read_checkpoint(path), torch.random.get_rng_state()
    again = found.build()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found.about == ABOUT
    assert not again.training
    assert weights_hash(again) == weights_hash(net)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values(), strict=True))


def test_the_hash_names_every_bit(tmp_path: Path) -> None:
    _, net = saved(tmp_path / "a.safetensors")
    before = weights_hash(net)
    parameter = next(net.parameters())
    parameter.data.view(torch.int32)[0, 0, 0, 0] ^= 1
    assert weights_hash(net) != before


def test_the_hash_names_the_layers_too() -> None:
    layer = torch.nn.Linear(2, 2)
    assert weights_hash(torch.nn.Sequential(layer, torch.nn.ReLU())) != weights_hash(
        torch.nn.Sequential(layer, torch.nn.Tanh())
    )


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_dropped(prefix: str) -> None:
    source, target = DigitsNet(width=4).build(1, 3), DigitsNet(width=4).build(1, 3)
    load_weights(target, {prefix + name: value for name, value in source.state_dict().items()}, "file")
    assert weights_hash(target) == weights_hash(source)


def test_a_network_whose_own_part_is_called_so_is_loaded_too() -> None:
    source, target = (nn.Sequential(OrderedDict(module=nn.Linear(2, 2))) for _ in range(2))
    load_weights(target, source.state_dict(), "file")
    assert weights_hash(target) == weights_hash(source)


def test_what_does_not_fit_is_named() -> None:
    weights = DigitsNet(width=4).build(1, 3).state_dict()
    weights["head.weight"] = weights["head.weight"][:, :2]
    weights["extra"] = weights.pop("head.bias")
    with pytest.raises(UserError) as caught:
        load_weights(DigitsNet(width=4).build(1, 3), weights, "net.safetensors")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("net.safetensors does not fit", "1 missing (head.bias)", "1 unexpected (extra)", "head.weight (3, 2)"):
        assert part in message


def test_another_network_is_named(tmp_path: Path) -> None:
    path, _ = saved(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"missing \(stem.conv.weight.*unexpected \(conv1"):
        read_checkpoint(path).build(ResNet18(width=4))


def test_a_file_that_does_not_name_its_network(tmp_path: Path) -> None:
    path, _ = saved(tmp_path / "a.safetensors", {})
    with pytest.raises(UserError, match="expected a checkpoint that names its model"):
        read_checkpoint(path).build()
    assert read_checkpoint(path).build(DigitsNet(width=4), 1, 3)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is none"):
        read_checkpoint(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(UserError, match="expected a safetensors file"):
        read_checkpoint(tmp_path / "text.safetensors")


def test_a_crash_while_saving_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, net = saved(tmp_path / "a.safetensors")

    def crash(tensors: object, file: Path, about: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(module, "save_file", crash)
    with pytest.raises(OSError, match="disk full"):
        saved(tmp_path / "a.safetensors")
    assert weights_hash(read_checkpoint(path).build()) == weights_hash(net)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_places_and_labels(tmp_path: Path) -> None:
    for run in ("one", "two"):
        saved(tmp_path / run / "model.safetensors")
    assert [c.path.parent.name for c in find_checkpoints([str(tmp_path)])] == ["one", "two"]
    (relabelled,) = find_checkpoints([f"mine={tmp_path / 'two'}"])
    assert (relabelled.about["label"], relabelled.about["seed"]) == ("mine", 7)
