"""aihwkit both ways: our draws on its tiles and back, its analog models as they stand, its configs as backends."""

from __future__ import annotations

import sys
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noiserobust import Chips, Compute, Stream, UserError, Where, coverage, evaluate, load_run, perturbed
from noiserobust.analog.backends import Backend
from noiserobust.analog.noisy import report_stream
from noiserobust.cli import main
from noiserobust.noise import NoiseModel
from noiserobust.rng import seeded
from noiserobust.storage.rows import read_rows

configs = pytest.importorskip("aihwkit.simulator.configs", reason="it is about aihwkit", exc_type=ImportError)

from aihwkit.inference import PCMLikeNoiseModel  # noqa: E402
from aihwkit.inference.compensation.drift import PerColumnDriftCompensation  # noqa: E402
from aihwkit.nn.conversion import convert_to_analog, convert_to_digital  # noqa: E402
from aihwkit.simulator.parameters.enums import BoundManagementType  # noqa: E402

from noiserobust.integrations.aihwkit import from_analog, to_analog  # noqa: E402

DAY = 86400.0


class Network(nn.Module):
    """What aihwkit converts, and what it does not: a grouped convolution, a reflecting one, a parametrised layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, groups=2, padding=1)
        self.third = nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect", bias=False)
        self.fourth = nn.utils.parametrizations.weight_norm(nn.Linear(100, 12))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch has a newer form
            self.fifth = nn.utils.weight_norm(nn.Linear(12, 11))
        self.last = nn.Linear(11, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second, self.third):
            x = torch.relu(layer(x))
        return self.last(torch.relu(self.fifth(torch.relu(self.fourth(x.flatten(1))))))


def made(build: Any = Network, seed: int = 0) -> Any:
    with seeded(Stream(seed, "net")):
        return build().eval()


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(50, 14), nn.ReLU(), nn.Linear(14, 3))


X, Y = Stream(0, "x").normal((40, 2, 5, 5)), torch.arange(40) % 3


def trained(folder: Path) -> Path:
    """A checkpoint."""
    tiny = ["--epochs", "1", "--batch-size", "400", "--model", "digits:4", "--select-draws", "1"]
    main(["train", *tiny, "--out", str(folder / "runs")])
    return next((folder / "runs").rglob("model.safetensors")).parent


def config(kind: str = "TorchInferenceRPUConfig", **forward: Any) -> Any:
    made = getattr(configs, kind)()
    made.mapping.max_input_size = made.mapping.max_output_size = 9
    made.mapping.weight_scaling_omega = 1.0
    for name, value in forward.items():
        setattr(made.forward, name, value)
    return made


def losses(*arguments: Any, **options: Any) -> list[float]:
    rows = evaluate(*arguments, **options).rows
    return list(rows[rows["metric"] == "loss"]["value"])


class TestToAnalogAndBack:
    @pytest.mark.parametrize("kind", ["TorchInferenceRPUConfig", "InferenceRPUConfig"])
    @pytest.mark.parametrize("columnwise", [False, True])
    def test_the_tiles_hold_this_draw(self, kind: str, columnwise: bool) -> None:
        network, own = made(), config(kind, is_perfect=True)
        own.mapping.weight_scaling_columnwise = columnwise
        before = {name: value.clone() for name, value in network.state_dict().items()}
        analog = to_analog(network, "pcm", seed=3, replicate=1, draw=2, t=DAY, rpu_config=own)
        with perturbed(network, "pcm", seed=3, replicate=1, draw=2, t=DAY), torch.no_grad():
            expected = network(X)
            weights = {name: getattr(network, name).weight.clone() for name in ("first", "last", "second", "third")}
        for name in ("first", "last"):  # by aihwkit's own read-out
            found, _ = getattr(analog, name).get_weights()
            assert torch.allclose(found.view_as(weights[name]), weights[name], rtol=2e-6, atol=1e-8)
        assert type(analog.second) is type(analog.third) is nn.Conv2d
        with torch.no_grad():
            assert torch.allclose(analog(X), expected, rtol=1e-5, atol=1e-6)
            assert torch.allclose(from_analog(analog)(X), expected, rtol=1e-5, atol=1e-6)
            assert not torch.allclose(network(X), expected, rtol=1e-2, atol=1e-3)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    def test_scales_are_the_clean_weights(self) -> None:
        """As of a chip that was programmed with them: aihwkit's own conversion of the clean network has the same."""
        network = made(plain)
        analog = to_analog(network, "gaussian:0.3", rpu_config=config())
        clean = convert_to_analog(network, config())
        for tile, other in zip(analog.analog_tiles(), clean.analog_tiles(), strict=True):
            assert torch.equal(tile.get_mapping_scales(), other.get_mapping_scales())

    def test_a_round_trip_is_exact_to_rounding(self) -> None:
        network = made(plain)
        back = from_analog(to_analog(network, rpu_config=config("InferenceRPUConfig")))
        assert type(back) is nn.Sequential
        assert list(back.state_dict()) == list(network.state_dict())
        for name, value in network.state_dict().items():
            assert torch.allclose(back.state_dict()[name], value, rtol=5e-7, atol=0)

    def test_a_checkpoint_becomes_the_same(self, tmp_path: Path) -> None:
        run = trained(tmp_path)
        one, other = (to_analog(source, "gaussian:0.1", rpu_config=config()) for source in (load_run(run).network, run))
        for tile, same in zip(one.analog_tiles(), other.analog_tiles(), strict=True):
            assert torch.equal(tile.get_weights()[0], same.get_weights()[0])

    @pytest.mark.parametrize("kind", ["TorchInferenceRPUConfig", "InferenceRPUConfig"])
    def test_what_has_drifted_comes_back_compensated(self, kind: str) -> None:
        own = config(kind, is_perfect=True)
        own.drift_compensation = PerColumnDriftCompensation()
        analog = convert_to_analog(made(plain), own).eval()
        with seeded(Stream(0, "aihwkit's own")):
            analog.drift_analog_weights(DAY)
        with torch.no_grad():
            back = from_analog(analog)
            assert torch.allclose(back(X), analog(X), rtol=1e-5, atol=1e-6)
            assert not torch.allclose(convert_to_digital(analog)(X), analog(X), rtol=1e-2)  # without compensation

    def test_refusals(self) -> None:
        analog = to_analog(made(plain))
        for call, fragment in [
            (lambda: to_analog(analog), "expected a plain network, got an analog model"),
            (lambda: to_analog(made(plain), rpu_config="direct"), "expected an RPUConfig of aihwkit"),
            (lambda: to_analog(made(plain).double()), "expected a network in float32"),
            (lambda: from_analog(made(plain)), "expected an analog model of aihwkit, got Sequential"),
        ]:
            with pytest.raises(UserError) as caught:
                call()
            assert str(caught.value).startswith(fragment)


def state(model: Any) -> dict[str, Any]:
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    found = {name: value.detach().clone() for name, value in held.items()}
    for name, tile in model.named_analog_tiles():
        found[f"{name}.tile"] = tile.tile.get_weights().clone()
        found[f"{name}.programmed"] = tile.programmed_weights
    return found


class TestAnAnalogModelAsItStands:
    @pytest.mark.parametrize("kind", ["TorchInferenceRPUConfig", "InferenceRPUConfig"])
    @pytest.mark.parametrize("programmed", [False, True])
    def test_draws_are_its_own_programmings(self, kind: str, programmed: bool) -> None:
        """Direct calls of aihwkit, its generator seeded as the draw says, give the same losses."""
        model = convert_to_analog(made(plain), config(kind, is_perfect=True)).eval()
        if programmed:
            model.drift_analog_weights(25.0)
        before = state(model)
        found = losses(model, (X, Y), "aihwkit", draws=2, chips=Chips(times=[25.0, DAY]))
        after = state(model)
        assert all(
            torch.equal(value, after[name]) if value is not None else after[name] is None
            for name, value in before.items()
        )
        twin, expected = deepcopy(model), []
        for draw in range(2):
            stream = report_stream(0, 0, draw)
            for t in (25.0, DAY):
                torch.manual_seed(stream.child("program").integer())
                twin.program_analog_weights()
                torch.manual_seed(stream.child("read", 0, repr(t)).integer())
                twin.drift_analog_weights(t)
                with torch.no_grad():
                    expected.append(float(nn.functional.cross_entropy(twin(X), Y)))
        assert found == pytest.approx(expected, rel=1e-5)
        assert len(set(found)) == 4

    def test_noise_of_outputs_is_named(self) -> None:
        model = convert_to_analog(made(plain), config(inp_noise=0.05, out_noise=0.1)).eval()
        generator = torch.get_rng_state()
        one, other = (losses(model, (X, Y), "aihwkit", draws=2, chips=Chips(times=25.0)) for _ in range(2))
        assert one == other
        assert len(set(one)) == 2
        still = losses(model, (X, Y), "gaussian:0", draws=2)  # its weights as they are
        assert len(set(still)) == 2
        assert losses(model, (X, Y), "gaussian:0", draws=2, compute=Compute(batch_size=7)) == pytest.approx(
            still, rel=1e-5
        )
        assert torch.equal(torch.get_rng_state(), generator)

    @pytest.mark.parametrize("kind", ["TorchInferenceRPUConfig", "InferenceRPUConfig"])
    def test_our_noises_move_its_conductances(self, kind: str) -> None:
        own = config(kind, is_perfect=True)
        own.mapping.max_input_size = own.mapping.max_output_size = 0
        own.mapping.weight_scaling_columnwise = True
        model = convert_to_analog(made(plain), own).eval()
        assert coverage(model).noisy == 50 * 14 + 14 * 3
        found = losses(model, (X, Y), "gaussian:0.2", draws=2)
        with perturbed(model, "gaussian:0.2", draw=1), torch.no_grad():
            assert float(nn.functional.cross_entropy(model(X), Y)) == pytest.approx(found[1], rel=1e-5)
            deviation = from_analog(model)[1].weight - made(plain)[1].weight
        ratio = deviation.detach() / made(plain)[1].weight.detach().abs().amax(1, keepdim=True)
        assert float(ratio.std()) == pytest.approx(0.2, rel=0.1)

    def test_the_config_is_in_the_rows(self) -> None:
        """Two models that differ in their noise model alone are not taken for each other."""
        names = set()
        for g_max in (25.0, 20.0):
            own = config()
            own.noise_model = PCMLikeNoiseModel(g_max=g_max)
            names |= set(evaluate(convert_to_analog(made(plain), own), (X, Y), "aihwkit", draws=1).rows["backend"])
        assert len(names) == 2

    def test_refusals(self) -> None:
        model = convert_to_analog(made(plain), config())
        for call, fragment in [
            (lambda: losses(made(plain), (X, Y), "aihwkit"), "expected an analog model of aihwkit alone"),
            (
                lambda: losses(model, (X, Y), "aihwkit", chips=Chips(compensation="global")),
                "expected compensation none",
            ),
            (
                lambda: losses(model, (X, Y), "pcm", chips=Chips(backend="aihwkit")),
                "expected a network of plain layers",
            ),
            (
                lambda: losses(convert_to_analog(made(plain), configs.SingleRPUConfig()), (X, Y), "pcm"),
                "expected an analog model with tiles for inference",
            ),
            (lambda: losses(model, (X, Y), "aihwkit", where=Where(exclude=["1.*"])), "expected all tiles to be analog"),
            (lambda: NoiseModel.parse("aihwkit").scaled(2), "expected noise aihwkit as it is"),
        ]:
            with pytest.raises(UserError) as caught:
                call()
            assert str(caught.value).startswith(fragment)


MODULE = """
from aihwkit.simulator.configs import InferenceRPUConfig, TorchInferenceRPUConfig

def chip(bits: int = 6):
    config = TorchInferenceRPUConfig()
    config.forward.inp_res = 1 / (2**bits - 2)
    config.forward.out_noise = 0.0
    return config

def nothing():
    return 3
"""


class TestAConfigOfOnesOwn:
    def test_it_computes_as_aihwkit_does(self) -> None:
        """aihwkit's own conversion of the network that holds the draw, with the scales of the clean one."""
        own = config(out_noise=0.0, inp_res=1 / 14, out_res=1 / 30, bound_management=BoundManagementType.NONE)
        found = losses(made(plain), (X, Y), "gaussian:0.1", draws=1, chips=Chips(backend=own))
        network = made(plain)
        twin = convert_to_analog(network, own).eval()
        with perturbed(network, "gaussian:0.1"):
            for index in (1, 3):
                array, weight = twin[index].analog_module, network[index].weight.detach().clone()
                _write(array, weight)
        with torch.no_grad():
            expected = float(nn.functional.cross_entropy(twin(X), Y))
        assert found == pytest.approx([expected], rel=1e-5)
        assert expected != pytest.approx(losses(network, (X, Y), "gaussian:0.1", draws=1)[0], rel=1e-5)

    def test_random_rounding_is_named(self) -> None:
        own, generator = config(inp_sto_round=True, out_noise=0.0), torch.get_rng_state()
        one, other = (losses(made(plain), (X, Y), "gaussian:0", draws=2, chips=Chips(backend=own)) for _ in range(2))
        assert one == other
        assert len(set(one)) == 2
        assert torch.equal(torch.get_rng_state(), generator)

    def test_the_text_says_what_is_in_it(self) -> None:
        one, other = Backend.parse(config(out_noise=0.1)), Backend.parse(config(out_noise=0.2))
        assert str(one) == str(Backend.parse(config(out_noise=0.1))) != str(other)
        plain = Backend.parse(configs.InferenceRPUConfig)
        assert Backend.parse(str(plain)) == plain
        with pytest.raises(UserError, match="with the content"):
            Backend.parse(str(one))

    def test_on_the_command_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "my_configs.py").write_text(MODULE)
        monkeypatch.chdir(tmp_path)
        command = ["evaluate", str(trained(tmp_path)), "--noise", "pcm", "--draws", "1", "--images", "40"]
        for backend in ("my_configs:chip", "my_configs:chip(bits=4)"):
            main([*command, "--out", "a.parquet", "--backend", backend])
        names = set(read_rows("a.parquet")["backend"])
        assert len(names) == 2
        assert all(name.startswith("my_configs:chip(") and "digest=" in name for name in names)
        with pytest.raises(UserError, match="expected an RPUConfig of aihwkit from my_configs:nothing, got int"):
            Backend.parse("my_configs:nothing")
        sys.modules.pop("my_configs")

    def test_ir_drop_grows(self) -> None:
        """aihwkit's compiled tiles take ``forward.ir_drop``: currents of long lines lose voltage."""

        def wide() -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(50, 400), nn.ReLU(), nn.Linear(400, 3))

        found = []
        for drop in (0.0, 1.0, 4.0):
            own = configs.InferenceRPUConfig()
            own.mapping.weight_scaling_omega = 1.0
            own.forward.out_noise, own.forward.inp_res, own.forward.out_res = 0.0, -1.0, -1.0
            own.forward.ir_drop = drop
            found += losses(made(wide), (X, Y), "gaussian:0.1", draws=1, chips=Chips(backend=own))
        direct = losses(made(wide), (X, Y), "gaussian:0.1", draws=1)
        away = [abs(value - direct[0]) for value in found]
        assert away[0] < 1e-4
        assert 10 * away[0] < away[1] < away[2]

    def test_refusals(self) -> None:
        own = configs.InferenceRPUConfig()
        own.mapping.digital_bias = False
        for call, fragment in [
            (lambda: Backend.parse(own), "expected digital biases"),
            (lambda: Backend.parse(configs.SingleRPUConfig()), "expected an RPUConfig for inference, got Single"),
            (lambda: losses(made(plain), (X, Y), "pcm", chips=Chips(backend=config(ir_drop=1.0))),
             "expected a layer that runs on tiles of"),
        ]:  # fmt: skip
            with pytest.raises(UserError) as caught:
                call()
            assert str(caught.value).startswith(fragment)


def _write(array: Any, weight: Tensor) -> None:
    """A weight into an array of tiles, by aihwkit's calls, with the scales that they have."""
    first = 0
    for width, column in zip(array.in_sizes, array.array, strict=True):
        top = 0
        for height, tile in zip(array.out_sizes, column, strict=True):
            part = weight[top : top + height, first : first + width]
            tile.set_weights(part / tile.get_scales().view(-1, 1), apply_weight_scaling=False)
            top += height
        first += width
