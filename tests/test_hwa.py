"""aihwkit's additive hardware-aware training is random weight perturbation at the scale of a tile, step for step."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from noiserobust import Stream, evaluate
from noiserobust.analog.weights import analog_weights
from noiserobust.data import Batch
from noiserobust.models import DigitsNet
from noiserobust.noise import Gaussian
from noiserobust.noise.reference import even_split
from noiserobust.rng import seeded
from noiserobust.storage.checkpoints import find_checkpoints, read_checkpoint
from noiserobust.training import RWP, Engine, Plain, Progress

pytest.importorskip("aihwkit.simulator.configs", reason="the baseline is aihwkit's", exc_type=ImportError)

TILE, STEPS, SIGMA = 20, 20, 0.3


@pytest.fixture(scope="module")
def study() -> ModuleType:
    path = Path(__file__).parent.parent / "experiments" / "hwa_aihwkit.py"
    spec = importlib.util.spec_from_file_location("hwa_aihwkit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def digits_net() -> nn.Module:
    with seeded(Stream(0, "net")):
        return DigitsNet(8).build(1, 10)


def batch(step: int) -> Batch:
    return Batch(Stream(0, "x", step).normal((16, 1, 8, 8)), torch.arange(16) % 10)


def tile_normals(model: nn.Module, step: int) -> Iterator[Tensor]:
    """The engine's normals of one step, cut as aihwkit calls its tiles."""
    for weight in analog_weights(model):
        rows = Stream(0, "train", step, 0, weight.name, "program").normal(weight.parameter.shape).flatten(1)
        for inputs in even_split(rows.shape[1], TILE):
            for outputs in even_split(rows.shape[0], TILE):
                yield rows[outputs, inputs]


def trained(method: Plain | RWP) -> nn.Module:
    model = digits_net().train()
    engine = Engine(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4))
    for step in range(STEPS):
        method.step(engine, batch(step), Progress(step, STEPS))
    return model.eval()


def test_step_for_step(study: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the same normals, AnalogSGD on aihwkit's tiles and our engine train the same weights."""
    from aihwkit.nn.conversion import convert_to_digital
    from aihwkit.optim import AnalogSGD

    analog = study.converted(digits_net(), SIGMA, converters=False, tile=TILE).train()
    optimizer = AnalogSGD(analog.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    optimizer.regroup_param_groups()
    waiting: list[Tensor] = []

    def given(shape: tuple[int, ...], **options: object) -> Tensor:
        normals = waiting.pop(0)
        assert normals.shape == shape
        return normals

    monkeypatch.setattr("aihwkit.simulator.tiles.torch_tile.randn", given)
    for step in range(STEPS):
        waiting += tile_normals(digits_net(), step)
        assert len(waiting) > 4  # several tiles per layer
        optimizer.zero_grad()
        nn.functional.cross_entropy(analog(batch(step).inputs), batch(step).labels).backward()
        optimizer.step()
        assert not waiting
    theirs = convert_to_digital(analog).state_dict()
    ours = trained(RWP(Gaussian(SIGMA, reference="tile", rows=TILE, columns=TILE))).state_dict()
    plain = trained(Plain()).state_dict()
    for name, tensor in ours.items():
        assert torch.allclose(theirs[name], tensor, atol=2e-4), name
    assert not torch.allclose(plain["conv3.conv.weight"], ours["conv3.conv.weight"], atol=2e-2)


@pytest.mark.parametrize("converters", [False, True])
def test_converting_back_is_exact(study: ModuleType, converters: bool) -> None:
    """Output scales, learnt ones too, go into the plain network's weights."""
    from aihwkit.nn.conversion import convert_to_digital

    analog = study.converted(digits_net(), 0.06, converters, tile=TILE)
    tiles = list(analog.analog_tiles())
    for index, tile in enumerate(tiles):
        tile.rpu_config.forward.is_perfect = True
        if converters:
            tile.out_scaling_alpha.data.fill_(1 + index / 10)
    x = batch(0).inputs
    analog.eval()
    plain = convert_to_digital(analog).eval()
    with torch.no_grad():
        assert torch.allclose(plain(x), analog(x), atol=1e-5)
        assert torch.allclose(plain(x), digits_net().eval()(x), atol=1e-5) != converters
    fresh = digits_net()
    fresh.load_state_dict(plain.state_dict())
    assert type(plain) is type(fresh)


@pytest.mark.parametrize("converters", [False, True])
def test_what_it_writes_is_evaluated(study: ModuleType, converters: bool, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    small = {"model": DigitsNet(4), "epochs": 3, "batch_size": 16, "out": tmp_path, "converters": converters}
    study.Study(label="aihwkit HWA", seeds=(0, 1), **small).run()
    found = find_checkpoints([str(tmp_path)])
    rows = evaluate(found, "digits", "gaussian:0.0", draws=1).rows
    accuracy = rows[rows["metric"] == "accuracy"]
    assert set(accuracy["method"]) == {"aihwkit HWA"}
    assert list(accuracy["replicate"]) == [0, 1]
    assert (accuracy["value"] > 50).all()
    assert torch.equal(torch.random.get_rng_state(), state)
    (first, _) = found
    again = study.train(study.Study(**small).settings(0), study.load("digits"), 0.06, converters)[0]
    for name, tensor in read_checkpoint(first.path).weights.items():
        assert torch.equal(tensor, again[name]), name
