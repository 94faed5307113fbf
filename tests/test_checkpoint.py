"""Weights come back bit for bit, and what does not fit is said in one line."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from noiserobust.errors import UserError
from noiserobust.models import DigitsNet, ResNet18
from noiserobust.storage.checkpoints import (
    find_checkpoints,
    read_checkpoint,
    save_checkpoint,
)
from noiserobust.storage.identity import network_digest
from noiserobust.storage.weights import load_weights

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
    assert network_digest(again) == network_digest(net)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values(), strict=True))


def test_the_hash_names_the_layers_too() -> None:
    layer = torch.nn.Linear(2, 2)
    assert network_digest(torch.nn.Sequential(layer, torch.nn.ReLU())) != network_digest(
        torch.nn.Sequential(layer, torch.nn.Tanh())
    )


def test_a_network_whose_own_part_is_called_so_is_loaded_too() -> None:
    source, target = (nn.Sequential(OrderedDict(module=nn.Linear(2, 2))) for _ in range(2))
    load_weights(target, source.state_dict(), "file")
    assert network_digest(target) == network_digest(source)


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
    with pytest.raises(UserError, match="expected a safetensors or torch file"):
        read_checkpoint(tmp_path / "text.safetensors")


def wrapped(state: dict[str, Tensor], nesting: list[str], prefix: str = "") -> object:
    """``state`` as training programs save it."""
    content: object = {prefix + name: value for name, value in state.items()}
    for key in reversed(nesting):
        content = {"epoch": 3, key: content, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    return content


@pytest.mark.parametrize(
    ("nesting", "prefix"),
    [
        ([], ""),
        (["state_dict"], "module."),
        (["model"], "_orig_mod."),
        (["model", "state_dict"], "module._orig_mod.module."),
        (["net"], "_orig_mod.module."),
    ],
)
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_torch_file_is_read(nesting: list[str], prefix: str, new: bool, tmp_path: Path) -> None:
    net = DigitsNet(width=4).build(1, 3)
    path = tmp_path / "mynet.pth"
    torch.save(wrapped(net.state_dict(), nesting, prefix), path, _use_new_zipfile_serialization=new)
    found = read_checkpoint(path).build(DigitsNet(width=4), 1, 3)
    assert network_digest(found) == network_digest(net)


def test_marks_inside_a_name_do_not_count_either() -> None:
    source, target = (
        nn.Sequential(OrderedDict(body=nn.Sequential(nn.Linear(2, 2)), head=nn.Linear(2, 2))) for _ in "ab"
    )
    weights = {name.replace("body.", "body._orig_mod.module."): value for name, value in source.state_dict().items()}
    load_weights(target, weights, "file")
    assert network_digest(target) == network_digest(source)


def test_parts_that_only_such_a_mark_tells_apart() -> None:
    class Both(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.module = nn.Linear(2, 2)

    source, target = Both(), Both()
    load_weights(target, source.state_dict(), "file")
    assert network_digest(target) == network_digest(source)


def test_a_safetensors_file_is_told_from_a_pickle_by_more_than_its_first_byte(tmp_path: Path) -> None:
    # The header's length comes first: make it 0x80 modulo 256, which is also how a pickle begins.
    for padding in range(0, 300, 8):
        path, _ = saved(tmp_path / "a.safetensors", ABOUT | {"padding": "x" * padding})
        if path.read_bytes()[0] == 0x80:
            break
    else:
        raise AssertionError("no such length")
    assert read_checkpoint(path).build()


class Trap:
    """What a stranger's file could carry: loading it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_no_code_of_a_torch_file_is_run(new: bool, tmp_path: Path) -> None:
    torch.save({"state_dict": Trap(tmp_path / "ran")}, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(UserError, match=r"which holds a \w+.system: .*save model.state_dict\(\) alone") as caught:
        read_checkpoint(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_no_code_that_a_checkpoint_names_is_run(tmp_path: Path) -> None:
    path, _ = saved(tmp_path / "a.safetensors", ABOUT | {"model": "factory:os:abort"})
    with pytest.raises(UserError, match=r"expected --model factory:os:abort: .* only you may start by name"):
        read_checkpoint(path).build()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nn.Linear(2, 2), "which holds a torch.nn.modules.linear.Linear: loading that runs code of the file"),
        ({"epoch": 3, "optimizer": {}}, "with a dictionary of epoch, optimizer"),
        ([torch.zeros(2)], "expected weights by name, plain or under state_dict, model"),
    ],
)
def test_a_torch_file_without_weights(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError) as caught:
        read_checkpoint(tmp_path / "a.pt")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("junk", [b"PK\x03\x04junk", b"\x80\x02junk", b"\x80", b""])
def test_a_broken_file(junk: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(junk)
    with pytest.raises(UserError) as caught:
        read_checkpoint(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)


def test_counters_that_old_files_lack_and_buffers_too_many(tmp_path: Path) -> None:
    net = DigitsNet(width=4).build(1, 3)
    state = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    load_weights(DigitsNet(width=4).build(1, 3), state, "file")
    with pytest.raises(UserError, match=r"1 unexpected \(n_averaged\)"):
        load_weights(net, {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in state.items()}, "file")


def test_names_of_well_known_implementations() -> None:
    """kuangliu's pytorch-cifar, as its users save it."""
    net = ResNet18(width=4).build(3, 10)
    renamed = {}
    for name, value in net.state_dict().items():
        stage = re.sub(r"^stages\.(\d)", lambda m: f"layer{int(m[1]) + 1}", name)
        stage = stage.replace("stem.conv", "conv1").replace("stem.norm", "bn1").replace("head", "linear")
        stage = stage.replace("downsample.conv", "shortcut.0").replace("downsample.norm", "shortcut.1")
        renamed[f"module.{stage}"] = value
    assert {"module.conv1.weight", "module.layer2.0.shortcut.1.running_mean"} <= renamed.keys()
    fresh = ResNet18(width=4).build(3, 10)
    load_weights(fresh, renamed, "file", ResNet18.aliases)
    assert network_digest(fresh) == network_digest(net)
    renamed.pop("module.layer1.0.conv1.weight")
    with pytest.raises(UserError, match=r"1 missing \(stages.0.0.conv1.weight\)"):
        load_weights(fresh, renamed, "file", ResNet18.aliases)


def test_places_and_labels(tmp_path: Path) -> None:
    for run in ("one", "two"):
        saved(tmp_path / run / "model.safetensors")
    assert [c.path.parent.name for c in find_checkpoints([str(tmp_path)])] == ["one", "two"]
    (relabelled,) = find_checkpoints([f"mine={tmp_path / 'two'}"])
    assert (relabelled.about["label"], relabelled.about["seed"]) == ("mine", 7)
