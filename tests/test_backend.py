"""The full chip through aihwkit: the same chips as the direct path, its converters, what it leaves, what it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from noiserobust import Stream, evaluate
from noiserobust.analog.backends import Aihwkit, Backend, Direct
from noiserobust.analog.backends.base import Opened
from noiserobust.analog.noisy import NoisyWeights, Programmed, report_stream
from noiserobust.cli import main
from noiserobust.evaluation import Chips, Compute, Where
from noiserobust.evaluation.settings import grouped
from noiserobust.models.transformer import Transformer
from noiserobust.noise import Compensation, NoiseModel, compensation_factor
from noiserobust.rng import seeded
from noiserobust.storage.identity import network_digest

aihwkit = pytest.importorskip("aihwkit.simulator.configs", reason="the full chip is aihwkit's", exc_type=ImportError)

WHOLE = Aihwkit(tile=0, perfect=True)
PERFECT = Aihwkit(perfect=True)
SMALL = Aihwkit(tile=9, perfect=True)
BACKENDS = [WHOLE, PERFECT, SMALL, Aihwkit(tile=9, columnwise=False, perfect=True)]
YEAR = 31536000.0


class Network(nn.Module):
    """Convolutions with all that aihwkit takes (bias, stride, padding, dilation), a residual sum, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.blocks = nn.ModuleList(
            [nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, (3, 1), padding=(2, 0), dilation=2)]
        )
        self.last = nn.Conv2d(6, 5, 2, stride=2)
        self.head = nn.Sequential(nn.Linear(20, 11), nn.Dropout(0.5), nn.ReLU(), nn.Linear(11, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.last(x).view(len(x), -1))


def made(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with seeded(Stream(seed, "net")):
        return build().eval()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return Stream(0, "x").normal((60, 2, 5, 5)), torch.arange(60) % 3


def opened(backend: Backend, model: nn.Module, images: Tensor) -> tuple[Opened, NoisyWeights]:
    noisy = NoisyWeights(model)
    return backend.open(model, noisy, lambda: model(images)), noisy


def test_a_scoring_function_is_measured_on_tiles(data: tuple[Tensor, Tensor]) -> None:
    """It brings inputs of its own, so that layers are seen when it runs the network."""
    images, labels = data
    model = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 9), nn.ReLU(), nn.Linear(9, 3)))

    def score(network: nn.Module) -> float:
        with torch.no_grad():
            return 100 * (network(images).argmax(1) == labels).double().mean().item()

    chips = Chips(backend="aihwkit:inp_bits=4,out_bits=5,out_noise=0")
    rows = evaluate(model, None, "gaussian:0.1", draws=3, task=score, chips=chips).rows
    usual = evaluate(model, data, "gaussian:0.1", draws=3, chips=chips).rows
    assert rows["value"].tolist() == pytest.approx(usual[usual["metric"] == "accuracy"]["value"].tolist())
    plain = evaluate(model, None, "gaussian:0.1", draws=3, task=score).rows
    assert rows["value"].tolist() != plain["value"].tolist()


def logits(
    opened: Opened,
    programmed: Programmed | None,
    images: Tensor,
    t: float | None = None,
    compensation: Compensation = "none",
) -> Tensor:
    with opened.reading(programmed, report_stream(0, 0, 0), t, 0, compensation) as network, torch.no_grad():
        return network(images)


def values(rows: pd.DataFrame, metric: str = "loss") -> list[float]:
    return list(rows[rows["metric"] == metric]["value"])


class TestOneChipTwoBackends:
    """With perfect converters both compute with the same weights, so they agree to rounding."""

    @pytest.mark.parametrize("backend", BACKENDS, ids=str)
    @pytest.mark.parametrize(
        ("noise", "t", "compensation"),
        [
            ("gaussian:0.2", None, "none"),
            ("gaussian:0.2,reference=tile,rows=9,columns=9", None, "none"),
            *(("pcm", t, kind) for t in (25.0, YEAR) for kind in ("none", "global", "column")),
            ("pcm:reference=tile,rows=9,columns=9", YEAR, "global"),
            ("pcm:reference=tile,rows=7,columns=4", YEAR, "column"),
        ],
    )
    def test_logits(
        self, backend: Aihwkit, noise: str, t: float | None, compensation: Compensation, data: tuple[Tensor, Tensor]
    ) -> None:
        model = made(Network)
        (tiles, noisy), (direct, _) = opened(backend, model, data[0][:2]), opened(Direct(), model, data[0][:2])
        for draw in range(2):
            programmed = Programmed(noisy, NoiseModel.parse(noise), report_stream(0, 0, draw))
            expected = logits(direct, programmed, data[0], t, compensation)
            assert torch.allclose(logits(tiles, programmed, data[0], t, compensation), expected, rtol=1e-5, atol=1e-5)
            assert not torch.allclose(expected, logits(direct, None, data[0]), atol=1e-2)  # there is noise to agree on

    @pytest.mark.parametrize("backend", BACKENDS, ids=str)
    def test_without_weight_noise(self, backend: Aihwkit, data: tuple[Tensor, Tensor]) -> None:
        model = made(Network)
        tiles, noisy = opened(backend, model, data[0][:2])
        logits(tiles, Programmed(noisy, NoiseModel.parse("gaussian:1.0"), report_stream(0, 0, 0)), data[0])
        assert torch.allclose(logits(tiles, None, data[0]), model(data[0]), rtol=1e-5, atol=1e-5)

    def test_rows(self, data: tuple[Tensor, Tensor]) -> None:
        model = made(Network)
        options = {"draws": 2, "times": ["25s", "1y"], "compensation": ["none", "global"]}
        direct, whole, tiled = (
            evaluate(model, data, "pcm", **grouped(options | {"backend": backend})).rows
            for backend in ("direct", WHOLE, PERFECT)
        )
        assert values(whole, "accuracy") == values(tiled, "accuracy") == values(direct, "accuracy")
        assert values(whole) == pytest.approx(values(direct), abs=1e-5)
        assert values(tiled) == pytest.approx(values(direct), abs=1e-5)
        assert set(whole["backend"]) == {"aihwkit:tile=0,perfect=true"}
        same = [name for name in direct if name not in ("backend", "value")]
        pd.testing.assert_frame_equal(whole[same], direct[same])

    def test_batch_norm_learns_the_chip(self, data: tuple[Tensor, Tensor]) -> None:
        options = {"draws": 1, "times": ["1y"], "recalibration": 30, "calibration": data}
        direct, tiled = (
            evaluate(made(Network), data, "pcm", **grouped(options | {"backend": b})).rows for b in ("direct", SMALL)
        )
        assert values(tiled) == pytest.approx(values(direct), abs=1e-5)

    @pytest.mark.parametrize("kind", ["global", "column"])
    def test_drift_compensation_is_that_of_aihwkits_tiles(
        self, kind: Compensation, data: tuple[Tensor, Tensor]
    ) -> None:
        """aihwkit's own read-outs of one tile, right after programming and after a year, give our factor."""
        from aihwkit.inference.compensation.drift import GlobalDriftCompensation, PerColumnDriftCompensation

        tiles, noisy = opened(WHOLE, made(Network), data[0][:2])
        programmed = Programmed(noisy, NoiseModel.parse("pcm:reference=layer"), report_stream(0, 0, 0))
        chip, now = programmed.chip("head.0.weight"), programmed.weight("head.0.weight", YEAR)
        tile = tiles.layers["head.0.weight"][0].tiles[0][0]  # type: ignore[attr-defined]
        theirs = {"global": GlobalDriftCompensation, "column": PerColumnDriftCompensation}[kind]()
        tile.rpu_config.drift_compensation = theirs
        tile.set_weights(chip.programmed(), apply_weight_scaling=False)
        baseline = theirs.init_baseline(tile)
        tile.set_weights(now, apply_weight_scaling=False)
        expected = theirs.apply(tile._forward_drift_readout_tensor(), baseline)
        found = compensation_factor(chip, now, kind)
        assert torch.allclose(found, expected.view(-1, 1).expand_as(found), rtol=1e-5)
        assert found.min() > 1.5  # a year's drift


class TestConverters:
    def test_by_hand(self) -> None:
        """Two tiles of a linear layer, by the equation in the docstring, with the named normals."""
        backend = Aihwkit(inp_bits=4, out_bits=6, out_noise=0.2, out_bound=3.0, tile=4)
        model = made(lambda: nn.Linear(8, 3))
        x = Stream(0, "x").normal((5, 8))
        tiles, noisy = opened(backend, model, x)
        stream = report_stream(0, 0, 0)
        programmed = Programmed(noisy, NoiseModel.parse("pcm"), stream)
        found = logits(tiles, programmed, x, 25.0)
        expected = model.bias.detach().expand(5, 3).clone()
        for tile, columns in enumerate((slice(0, 4), slice(4, 8))):
            scale = model.weight.detach()[:, columns].abs().amax(1)
            conductances = programmed.weight("weight", 25.0)[:, columns] / scale[:, None]
            largest = x[:, columns].abs().amax(1, keepdim=True)
            levels = (2**4 - 2) / 2
            dac = torch.round(x[:, columns] / largest * levels) / levels
            noise = stream.child("converters", "read", 0, repr(25.0), "weight", 0, tile, 0).normal((64, 3))[:5]
            step = 3.0 / ((2**6 - 2) / 2)
            adc = (torch.round((dac @ conductances.T + 0.2 * noise) / step) * step).clamp(-3, 3)
            expected += largest * scale * adc
        assert torch.allclose(found, expected, atol=1e-5)

    def test_compensation_multiplies_output_noise(self) -> None:
        """As in hardware, where the digital output is what is multiplied: a year's factor of about 2."""
        model = made(lambda: nn.Linear(8, 3, bias=False))
        x = Stream(0, "x").normal((4000, 8))
        (noisy_tiles, noisy), (quiet, _) = (
            opened(Aihwkit(inp_bits=0, out_bits=0, out_noise=sigma), model, x[:2]) for sigma in (0.1, 0.0)
        )
        programmed = Programmed(noisy, NoiseModel.parse("pcm:reference=layer"), report_stream(0, 0, 0))
        spread = {}
        for kind in ("none", "global"):
            difference = logits(noisy_tiles, programmed, x, YEAR, kind) - logits(quiet, programmed, x, YEAR, kind)
            spread[kind] = difference.std(0)
        now, compensated = (programmed.weight("weight", YEAR, 0, kind) for kind in ("none", "global"))
        factor = (compensated / now).mean()
        assert factor > 1.5
        assert torch.allclose(spread["global"], factor * spread["none"], rtol=1e-3)

    def test_each_costs_accuracy_or_changes_the_loss(self, digits: tuple[nn.Module, Tensor, Tensor]) -> None:
        model, x, y = digits
        rows = {
            text: evaluate(model, (x, y), "gaussian:0.05", draws=4, chips=Chips(backend=text)).rows
            for text in ("direct", "aihwkit", "aihwkit:inp_bits=3", "aihwkit:out_bits=4", "aihwkit:out_noise=1.0")
        }
        direct = np.array(values(rows["direct"], "accuracy"))
        assert direct.mean() > 90
        for text in ("aihwkit:inp_bits=3", "aihwkit:out_bits=4", "aihwkit:out_noise=1.0"):
            assert np.array(values(rows[text], "accuracy")).mean() < direct.mean() - 0.5, text
        assert values(rows["aihwkit"]) != pytest.approx(values(rows["direct"]), abs=1e-4)

    def test_a_precision_target_sees_them_too(self, digits: tuple[nn.Module, Tensor, Tensor]) -> None:
        """Without weight noise, chips still differ by output noise."""
        model, x, y = digits
        options = {"noises": "gaussian:0", "precision_target": 2.0, "backend": "aihwkit:out_noise=0.3"}
        result = evaluate(model, (x, y), **grouped(options))
        assert "4 of 4 noisy weights" in next(iter(result.conversion.values()))
        assert result.rows["draw"].nunique() > 4
        assert evaluate(model, (x, y), **grouped(options | {"backend": "direct"})).rows["draw"].nunique() == 1

    def test_no_weight_noise_still_has_output_noise(self, data: tuple[Tensor, Tensor]) -> None:
        model = made(Network)
        assert len(set(values(evaluate(model, data, "gaussian:0", draws=4, chips=Chips(backend="aihwkit")).rows))) == 4
        assert len(set(values(evaluate(model, data, "gaussian:0", draws=4, chips=Chips(backend=PERFECT)).rows))) == 1


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A network that reads digits with over 90 %, trained in a second."""
    from noiserobust.data import Batches, load
    from noiserobust.models import DigitsNet
    from noiserobust.training import Engine, Plain, Progress

    splits = load("digits")
    model = made(lambda: DigitsNet(8).build(1, 10)).train()
    engine = Engine(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    batches = Batches(splits.train, 64, stream=Stream(0, "train"))
    for epoch in range(5):
        for batch in batches.epoch(epoch):
            Plain().step(engine, batch, Progress(0, 1))
    images = next(Batches(splits.test, 500).epoch(0))
    return model.eval(), images.inputs, images.labels


class TestNames:
    def test_a_draw_follows_from_its_name(self, data: tuple[Tensor, Tensor]) -> None:
        model = made(Network)
        options = {"backend": "aihwkit", "times": ["25s", "1d"], "reads": 2}
        many = evaluate(model, data, ["gaussian:0.1", "pcm"], draws=3, **grouped(options)).rows
        alone = evaluate(model, data, "pcm", draws=2, **grouped(options)).rows
        chosen = many[(many["noise"] == "pcm") & (many["draw"] < 2)]
        assert values(alone) == values(chosen)
        assert len(set(values(alone))) == 2 * 2 * 2  # every read has noise of its own

    def test_the_batch_size_does_not_matter(self, data: tuple[Tensor, Tensor]) -> None:
        """Each image has output noise of its own, also where chunks of 64 end."""
        x, y = data[0].repeat(2, 1, 1, 1), data[1].repeat(2)
        options = {"backend": Aihwkit(tile=9, inp_bits=0, out_bits=0), "draws": 2}
        large, small = (
            values(evaluate(made(Network), (x, y), "pcm", **grouped(options | {"batch_size": size})).rows)
            for size in (500, 7)
        )
        assert small == pytest.approx(large, abs=1e-5)

    @pytest.mark.parametrize("backend", ["aihwkit", "aihwkit:perfect=true"])
    def test_the_global_generator_and_the_model_are_untouched(self, backend: str, data: tuple[Tensor, Tensor]) -> None:
        model = made(Network).train()
        state, before = torch.random.get_rng_state(), network_digest(model)
        children = [id(module) for module in model.modules()]
        places = [p.data_ptr() for p in model.parameters()]
        evaluate(model, data, "pcm", draws=2, chips=Chips(backend=backend))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert network_digest(model) == before
        assert [id(module) for module in model.modules()] == children
        assert [p.data_ptr() for p in model.parameters()] == places
        assert all(module.training for module in model.modules())
        assert not any(module._forward_hooks for module in model.modules())

    def test_also_after_an_exception(self, data: tuple[Tensor, Tensor]) -> None:
        model = made(Network)
        before, children = network_digest(model), [id(module) for module in model.modules()]
        tiles, noisy = opened(PERFECT, model, data[0][:2])
        programmed = Programmed(noisy, NoiseModel.parse("gaussian:0.1"), report_stream(0, 0, 0))
        reading = tiles.reading(programmed, report_stream(0, 0, 0))
        assert [id(module) for module in reading.__enter__().modules()] != children
        assert not reading.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        assert network_digest(model) == before
        assert [id(module) for module in model.modules()] == children

    def test_rows_are_found_again_and_kept_apart(self, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
        model, out = made(Network), tmp_path / "rows.parquet"
        first = evaluate(model, data, "gaussian:0.1", draws=2, out=out, chips=Chips(backend="aihwkit")).rows
        both = evaluate(model, data, "gaussian:0.1", draws=2, out=out)
        again = evaluate(model, data, "gaussian:0.1", draws=2, out=out, chips=Chips(backend=Aihwkit()))
        assert values(again.rows) == values(first) != values(both.rows)
        assert list(again.summary()["backend"].unique()) == ["aihwkit"]


class Mixed(nn.Module):
    """Layers of which aihwkit runs two."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(2, 4, 3, groups=2)
        self.reflected = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.same = nn.Conv2d(4, 4, 3, padding="same")
        self.line = nn.Conv1d(4, 4, 3)
        self.transposed = nn.ConvTranspose1d(4, 4, 3)
        self.lstm = nn.LSTM(9, 6, batch_first=True)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.direct = nn.Linear(6, 6)
        self.embedding = nn.Embedding(3, 6)
        self.tied = nn.Linear(6, 3, bias=False)
        self.tied.weight = self.embedding.weight
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.same(self.reflected(self.grouped(x))).flatten(2)
        x, _ = self.lstm(self.transposed(self.line(x)))
        x, _ = self.attention(x, x, x, need_weights=False)
        x = nn.functional.linear(x.mean(1), self.direct.weight, self.direct.bias)
        return self.tied(x) + self.head(x)


class TestWhatCannotBeConverted:
    def test_is_said_and_computed_directly(self, data: tuple[Tensor, Tensor]) -> None:
        model = made(Mixed)
        result = evaluate(model, data, "gaussian:0.1", draws=2, chips=Chips(backend=PERFECT))
        assert values(result.rows) == pytest.approx(
            values(evaluate(model, data, "gaussian:0.1", draws=2).rows), abs=1e-5
        )
        (line,) = result.conversion.values()
        assert line.startswith("aihwkit:perfect=true: 2 of 12 noisy weights on 2 tiles of at most 512 x 512; ")
        for part in (
            "grouped.weight (Conv2d: Only one group is supported)",
            'reflected.weight (Conv2d: Only "zeros" padding mode is supported)',
            "same.weight (Conv2d: ",
            "line.weight (Conv1d: Tile module does not support indexed computation.)",
            "transposed.weight (ConvTranspose1d: no layer that aihwkit converts)",
            "lstm.weight_ih_l0 (LSTM: no layer that aihwkit converts)",
            "attention.in_proj_weight (MultiheadAttention: no layer that aihwkit converts)",
            "attention.out_proj.weight (NonDynamicallyQuantizableLinear: no layer that aihwkit converts)",
            "direct.weight (Linear: its weight is used without a call of the layer)",
        ):
            assert part in line, part
        assert "\n" not in line
        assert result.coverage.keys() == result.conversion.keys()

    def test_a_whole_vision_network(self) -> None:
        """Swin reads its projections' weights without calling them, which breaks aihwkit's own conversion."""
        from torchvision.models.swin_transformer import SwinTransformer

        model = made(
            lambda: SwinTransformer([2, 2], 8, [1, 1], [2, 2], [2, 2], num_classes=3, stochastic_depth_prob=0.0)
        )
        data = Stream(0, "x").normal((6, 3, 16, 16)), torch.arange(6) % 3
        direct, tiled = (
            evaluate(model, data, "gaussian:0.05", draws=1, chips=Chips(backend=b)) for b in ("direct", PERFECT)
        )
        assert values(tiled.rows) == pytest.approx(values(direct.rows), abs=1e-5)
        (line,) = tiled.conversion.values()
        assert "qkv.weight (Linear: its weight is used without a call of the layer)" in line
        assert "head.weight" not in line

    def test_a_transformer(self) -> None:
        """torch's own fast path reads the weights of layers that it does not call."""
        model = made(lambda: Transformer(8, layers=1, heads=2).build(4, 5))
        data = torch.arange(48).reshape(12, 4) % 5, torch.arange(12) % 5
        direct, tiled = (
            evaluate(model, data, "gaussian:0.05", draws=1, chips=Chips(backend=b)) for b in ("direct", PERFECT)
        )
        assert values(tiled.rows) == pytest.approx(values(direct.rows), abs=1e-5)
        (line,) = tiled.conversion.values()
        assert "3 of 5 noisy weights on 3 tiles" in line  # the head, tied to the embedding, too
        assert "in_proj_weight (MultiheadAttention" in line

    def test_excluded_weights_are_not_on_tiles(self, data: tuple[Tensor, Tensor]) -> None:
        result = evaluate(
            made(Network),
            data,
            "gaussian:0.1",
            draws=1,
            chips=Chips(backend=PERFECT),
            where=Where(exclude=["head.*", "blocks.*"]),
        )
        assert "2 of 2 noisy weights on 2 tiles" in next(iter(result.conversion.values()))

    def test_a_layer_with_hooks_keeps_them(self, data: tuple[Tensor, Tensor]) -> None:
        model, seen = made(Network), []
        model.first.register_forward_hook(lambda *_: seen.append(1))
        result = evaluate(
            model, data, "gaussian:0.1", draws=1, chips=Chips(backend=PERFECT), compute=Compute(batch_size=60)
        )
        assert "first.weight (Conv2d: it has hooks)" in next(iter(result.conversion.values()))
        # Two batches, the network's answer (twice), its watched multiply-accumulates, and the check of its outputs.
        assert len(seen) == 2 + 2 + 1 + 1

    @pytest.mark.parametrize("second", [nn.Linear, NonDynamicallyQuantizableLinear])
    def test_a_weight_that_two_layers_share_is_one_array(
        self, second: type[nn.Linear], data: tuple[Tensor, Tensor]
    ) -> None:
        """Also where only one of them can run on tiles."""
        model = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 50), nn.ReLU(), second(50, 50)))
        model[3].weight = model[1].weight
        options = {"draws": 1, "times": ["1y"], "compensation": ["none", "global"]}
        direct, tiled = (evaluate(model, data, "pcm", **grouped(options | {"backend": b})) for b in ("direct", PERFECT))
        assert values(tiled.rows) == pytest.approx(values(direct.rows), abs=1e-5)
        tiles = 2 if second is nn.Linear else 1
        assert f"1 of 1 noisy weights on {tiles} tiles" in next(iter(tiled.conversion.values()))

    def test_a_network_that_is_one_layer(self) -> None:
        data = Stream(0, "x").normal((30, 8)), torch.arange(30) % 3
        model = made(lambda: nn.Linear(8, 3))
        direct, tiled = (
            evaluate(model, data, "gaussian:0.1", draws=1, chips=Chips(backend=b)) for b in ("direct", SMALL)
        )
        assert values(tiled.rows) == pytest.approx(values(direct.rows), abs=1e-5)
        assert "1 of 1 noisy weights on 1 tiles" in next(iter(tiled.conversion.values()))


STATES = (0.0, 0.1, 0.5, 1.0)
CELLS = 512 * 512 // len(STATES)


def states(strength: float, profile: str) -> list[np.ndarray]:
    """What our chip of one 512 x 512 tile holds right after programming, per state: 65,536 cells each."""
    noise = NoiseModel.parse(f"{profile}:reference=layer").scaled(strength)
    weight = torch.tensor(STATES).repeat(512, 128)
    programmed = noise.program(weight, Stream(0, "ours")).programmed()
    return [programmed[weight == state].numpy() for state in STATES]


def tile_states(profile: str) -> list[np.ndarray]:
    """The same of aihwkit's own tile."""
    from aihwkit.inference.noise.custom import StateIndependentNoiseModel
    from aihwkit.inference.noise.hermes import HermesNoiseModel
    from aihwkit.inference.noise.pcm import PCMLikeNoiseModel
    from aihwkit.nn.conversion import convert_to_analog

    models = {"pcm": PCMLikeNoiseModel, "hermes": HermesNoiseModel, "state_independent": StateIndependentNoiseModel}
    config = aihwkit.TorchInferenceRPUConfig(noise_model=models[profile](), drift_compensation=None)
    layer = nn.Linear(512, 512, bias=False)
    layer.weight.data = torch.tensor(STATES).repeat(512, 128)
    with seeded(Stream(0, "theirs")), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Hermes indexes by a list
        analog = convert_to_analog(layer, config, ensure_analog_root=False).eval()
        analog.program_analog_weights()
    found, _ = analog.get_weights()
    return [found[layer.weight == state].numpy() for state in STATES]


@pytest.mark.parametrize("profile", ["pcm", "hermes", "state_independent"])
class TestProgrammingAgainstAihwkitsTiles:
    """Two-sample Kolmogorov-Smirnov tests per conductance state, each at 1e-6: false-alarm rate 4e-6 per profile."""

    def test_same_distribution(self, profile: str) -> None:
        for state, ours, theirs in zip(STATES, states(1.0, profile), tile_states(profile), strict=True):
            assert len(ours) == len(theirs) == CELLS
            assert stats.ks_2samp(ours, theirs).pvalue > 1e-6, state

    def test_an_error_of_ten_percent_would_show(self, profile: str) -> None:
        for state, ours, theirs in zip(STATES, states(1.1, profile), tile_states(profile), strict=True):
            assert stats.ks_2samp(ours, theirs).pvalue < 1e-6, state


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--epochs", "1", "--batch-size", "400", "--model", "digits:4", "--select-draws", "1"]
    main(["train", *tiny, "--out", str(tmp_path / "runs")])
    command = ["evaluate", str(tmp_path / "runs"), "--draws", "2", "--images", "60"]
    main([*command, "--backend", "aihwkit:tile=16", "--out", str(tmp_path / "rows.parquet")])
    printed = capsys.readouterr().out
    assert "backend: aihwkit:tile=16: 4 of 4 noisy weights on" in printed
    assert "aihwkit:tile=16" in printed.split("coverage: ")[0]
    with pytest.raises(SystemExit):
        main([*command, "--backend", "tpu"])
