"""Converters at the arrays' edge against loops written by hand, against aihwkit, in evaluation, and gone afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from cases import assert_distributed, assert_independent
from torch import Tensor, nn

import noiserobust
from noiserobust import UserError, evaluate, perturbed
from noiserobust.analog.converters import Converters, Converting, converted
from noiserobust.analog.noisy import report_stream
from noiserobust.evaluation import Chips, Compute
from noiserobust.evaluation.settings import grouped
from noiserobust.rng import Stream, seeded
from noiserobust.storage.identity import network_digest

STREAM = Stream(13, "test", "converters")
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (7, 6)),
    "tokens": (lambda: nn.Linear(6, 5), (7, 3, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 5, 3, padding=1), (7, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, groups=2), (7, 4, 9, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, bias=False), (7, 2, 4, 4, 3)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 5, 3), (7, 4, 9)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (7, 4, 5, 4)),
    "transposed3d": (lambda: nn.ConvTranspose3d(2, 3, 2), (7, 2, 4, 4, 3)),
}
each_layer = pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=LAYERS)


def made(build: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    with seeded(Stream(0, "layer")):
        return build().to(dtype)


def inputs(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Samples of very different size."""
    return (Stream(0, "x").normal(shape) * torch.logspace(-1, 1, shape[0]).view(-1, *[1] * (len(shape) - 1))).to(dtype)


def level(value: float, bound: float, bits: int) -> float:
    n = 2 ** (bits - 1) - 1
    return round(max(-1.0, min(1.0, value / bound)) * n) / n * bound if bound else 0.0


def by_hand(layer: nn.Module, x: Tensor, io: Converters, noise: Tensor) -> Tensor:
    """The docstring's equation for any layer: its matrix found with one-hot inputs, the rest in loops."""
    weight = layer.weight.detach()  # type: ignore[union-attr]
    bias = torch.zeros(()) if layer.bias is None else layer.bias.detach()
    transposed, groups = isinstance(layer, nn.modules.conv._ConvTransposeNd), getattr(layer, "groups", 1)
    samples = x.flatten(0, -2) if isinstance(layer, nn.Linear) else x
    seen = []
    for sample in samples:
        reach = float(sample.abs().max())
        values = [v if io.dac is None else level(v, reach, io.dac) for v in sample.flatten().tolist()]
        exact = torch.tensor(values, dtype=x.dtype).view(sample.shape)
        y = layer(exact[None])[0].detach()
        outputs = torch.empty_like(y)
        for channel in range(y.shape[0]):
            if io.reference == "layer":
                scale = float(weight.abs().max())
            elif transposed:
                per_group = weight.shape[1]
                inside = slice(*(weight.shape[0] // groups * (channel // per_group + k) for k in (0, 1)))
                scale = float(weight[inside, channel % per_group].abs().max())
            else:
                scale = float(weight[channel].abs().max())
            b = float(bias[channel]) if bias.dim() else 0.0
            cells = y[channel].flatten().tolist()
            draws = noise[len(seen), channel].flatten().tolist()
            analog = [v - b + io.noise * reach * scale * z for v, z in zip(cells, draws, strict=True)]
            digital = [v if io.adc is None else level(v, io.bound * reach * scale, io.adc) for v in analog]
            outputs[channel] = torch.tensor(digital, dtype=x.dtype).view(y[channel].shape) + b
        seen.append(outputs)
    return torch.stack(seen).view(*x.shape[:-1], -1) if isinstance(layer, nn.Linear) else torch.stack(seen)


class TestOneLayer:
    @each_layer
    @pytest.mark.parametrize(
        "text",
        [
            "io:dac=3",
            "io:adc=4,bound=0.5",
            "io:noise=0.1",
            "io:dac=4,adc=5,noise=0.05,bound=2.0",
            "io:dac=4,adc=5,noise=0.05,bound=2.0,reference=layer",
        ],
    )
    def test_against_loops(self, build: Callable[[], nn.Module], shape: tuple[int, ...], text: str) -> None:
        layer, x, io = made(build), inputs(*shape), Converters.parse(text)
        field = torch.zeros_like(layer(x)).detach()
        if io.noise:
            # Seven rows are within the first chunk of rows that has a name.
            field = STREAM.child("weight", 0).normal((64, *field.shape[1:]))[:7].double()
        rows = field.flatten(0, -2) if isinstance(layer, nn.Linear) else field
        with Converting(layer, io).applied(STREAM):
            found = layer(x).detach()
        torch.testing.assert_close(found, by_hand(layer, x, io, rows), rtol=1e-9, atol=1e-12)

    @each_layer
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_many_bits_and_no_noise_are_the_digital_layer(
        self, build: Callable[[], nn.Module], shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        layer, x = made(build, dtype), inputs(*shape, dtype=dtype)
        with converted(layer, "io:dac=24,adc=24"):
            found = layer(x)
        assert found.dtype == dtype
        tolerance = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 0.05}[dtype]
        torch.testing.assert_close(found, layer(x), rtol=tolerance, atol=tolerance)

    def test_the_bias_is_digital(self) -> None:
        layer = made(lambda: nn.Linear(6, 5))
        x = inputs(7, 6)
        with torch.no_grad(), converted(layer, "io:dac=6,adc=6"):
            one = layer(x)
            layer.bias += 1000.0
            other = layer(x)
        torch.testing.assert_close(other, one + 1000, rtol=1e-12, atol=0)

    def test_the_adc_saturates(self) -> None:
        layer = nn.Linear(4, 1, bias=False)
        nn.init.ones_(layer.weight)
        with converted(layer, "io:adc=8,bound=2.5"):
            assert layer(torch.ones(1, 4)).item() == 2.5
            assert layer(-10 * torch.ones(1, 4)).item() == -25

    def test_zero_inputs_and_weights(self) -> None:
        layer = nn.Linear(4, 2)
        nn.init.zeros_(layer.weight)
        with converted(layer, "io:dac=8,adc=8,noise=0.1"):
            for x in (torch.zeros(3, 4), torch.ones(3, 4)):
                torch.testing.assert_close(layer(x), layer.bias.expand(3, 2))

    def test_unbatched_keyword_and_channels_last_inputs(self) -> None:
        conv, linear = made(LAYERS["conv2d"][0]), made(LAYERS["linear"][0])
        for layer, x in ((conv, inputs(7, 4, 9, 8)), (linear, inputs(7, 6))):
            with converted(layer, "io:dac=4,adc=5"):
                whole = layer(x)
                torch.testing.assert_close(layer(x[2]), whole[2])
                assert torch.equal(layer(input=x), whole)
        x = inputs(7, 4, 9, 8)
        with converted(conv, "io:dac=4,adc=5"):
            torch.testing.assert_close(conv(x.to(memory_format=torch.channels_last)), conv(x))
        with converted(linear, "io:noise=0.1"):
            alone = linear(inputs(7, 6)[2])
        with converted(linear, "io:noise=0.1"):
            assert torch.equal(linear(inputs(7, 6)[2:3])[0], alone)
        up = made(LAYERS["transposed2d"][0])
        with converted(up, "io:dac=24,adc=24"):  # further arguments are handed on
            assert up(inputs(7, 4, 5, 4), [12, 10]).shape[-2:] == (12, 10)

    def test_gradients_pass_straight_through(self) -> None:
        layer, x = made(lambda: nn.Linear(6, 5)), inputs(7, 6).requires_grad_()
        given = Stream(0, "gradient").normal((7, 5)).double()
        with converted(layer, "io:dac=3,adc=3,noise=0.1"):
            layer(x).backward(given)
        assert x.grad is not None
        assert layer.weight.grad is not None
        torch.testing.assert_close(x.grad, given @ layer.weight)
        held = torch.tensor([[level(v, max(map(abs, row)), 3) for v in row] for row in x.tolist()]).double()
        torch.testing.assert_close(layer.weight.grad, given.T @ held)
        torch.testing.assert_close(layer.bias.grad, given.sum(0))

    @pytest.mark.parametrize(("dac", "adc", "bound"), [(7, 9, 12.0), (4, 6, 3.0), (None, 5, 1.0), (5, None, 12.0)])
    def test_aihwkit_computes_the_same(self, dac: int | None, adc: int | None, bound: float) -> None:
        mvm = pytest.importorskip("aihwkit.simulator.tiles.analog_mvm")
        io = pytest.importorskip("aihwkit.simulator.parameters.io")
        enums = pytest.importorskip("aihwkit.simulator.parameters.enums")
        layer, x = made(lambda: nn.Linear(60, 50)), inputs(70, 60)
        scale = layer.weight.detach().abs().max()
        theirs = io.IOParameters(
            inp_res=-1 if dac is None else 1 / (2**dac - 2),
            out_res=-1 if adc is None else 1 / (2**adc - 2),
            out_bound=bound if adc is not None else 0,
            out_noise=0.0,
            noise_management=enums.NoiseManagementType.ABS_MAX,
            bound_management=enums.BoundManagementType.NONE,
        )
        expected = scale * mvm.AnalogMVM.matmul(layer.weight.detach() / scale, x, theirs) + layer.bias.detach()
        with converted(layer, Converters(dac, adc, bound=bound, reference="layer")), torch.no_grad():
            found = layer(x)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def net() -> nn.Sequential:
    with seeded(Stream(0, "net")):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10), nn.Linear(10, 3)
        ).eval()


def images(count: int = 60) -> tuple[Tensor, Tensor]:
    return Stream(0, "images").normal((count, 1, 8, 8)), torch.arange(count) % 3


class TestOutputNoise:
    def test_it_is_normal_in_units_of_largest_input_times_largest_weight(self) -> None:
        layer, x = made(lambda: nn.Linear(6, 500)), inputs(200, 6)
        with converted(layer, "io:noise=0.05") as _, torch.no_grad():
            seen = layer(x)
        unit = x.abs().amax(1, keepdim=True) * layer.weight.detach().abs().amax(1)
        assert_distributed((seen - layer(x).detach()) / (0.05 * unit), "norm")

    def test_layers_draws_reads_times_and_calls_differ(self) -> None:
        one, two = (made(lambda: nn.Linear(6, 300)) for _ in range(2))
        both, x = nn.ModuleList([one, two]), inputs(200, 6)
        unit = x.abs().amax(1, keepdim=True) * one.weight.detach().abs().amax(1)

        def noise(layer: int = 0, calls: int = 1, **names: int) -> Tensor:
            with converted(both, "io:noise=0.05", **names), torch.no_grad():  # type: ignore[arg-type]
                return ([both[layer](x) for _ in range(calls)][-1] - both[layer].forward(x)) / unit

        first = noise()
        assert torch.equal(first, noise())
        for other in (
            noise(layer=1),
            noise(calls=2),
            noise(draw=1),
            noise(read=1),
            noise(t=3600),
            noise(seed=1),
            noise(replicate=1),
        ):
            assert_independent(first, other)

    @pytest.mark.parametrize("batch", [1, 13, 64, 200])
    def test_the_batch_size_changes_nothing(self, batch: int) -> None:
        model, (x, _) = net().double(), images(200)
        x = x.double()
        with torch.no_grad():
            with converted(model, "io:dac=6,adc=8,noise=0.05"):
                whole = model(x)
            with converted(model, "io:dac=6,adc=8,noise=0.05"):
                parts = torch.cat([model(part) for part in x.split(batch)])
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)


class TestModel:
    def test_nothing_is_left_behind(self) -> None:
        model, (x, _) = net().train(), images()
        before, clean = network_digest(model), model.eval()(x)
        state = torch.get_rng_state()
        with converted(model, "io:dac=4,adc=4,noise=0.1"):
            assert not torch.equal(model(x), clean)
        with pytest.raises(ZeroDivisionError), converted(model, "io:dac=4,adc=4,noise=0.1"):
            1 / 0  # noqa: B018
        with pytest.raises(RuntimeError), converted(model, "io:dac=4,adc=4"):
            model(x[..., :3])  # fails between the hooks of a layer
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert torch.equal(model(x), clean)
        assert network_digest(model) == before
        assert torch.equal(torch.get_rng_state(), state)

    def test_ideal_converters_do_nothing(self) -> None:
        model, (x, _) = net(), images()
        with converted(model, "none"):
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
            assert torch.equal(model(x), model(x))

    def test_only_analog_layers_have_converters(self) -> None:
        model = net()
        names = [layer.name for layer in Converting(model, Converters(8), exclude=["4.*"]).layers]
        assert names == ["0.weight", "5.weight"]

    def test_the_scale_is_that_of_the_clean_weights(self) -> None:
        layer, x = made(lambda: nn.Linear(6, 5, bias=False)), inputs(7, 6)
        with converted(layer, "io:adc=6,bound=1.0"), perturbed(layer, "gaussian:0.5"), torch.no_grad():
            seen = layer(x)
        unit = x.abs().amax(1, keepdim=True) * layer.weight.detach().abs().amax(1)
        torch.testing.assert_close(31 * seen / unit, (31 * seen / unit).round(), rtol=0, atol=1e-9)
        assert (seen.abs() <= unit * (1 + 1e-12)).all()

    def test_what_has_no_edge_is_named(self) -> None:
        class Mixed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
                self.memory = nn.LSTM(8, 8, batch_first=True)
                self.direct, self.own = nn.Linear(8, 8), OwnLinear(8, 8)
                self.last = nn.Linear(8, 3)

            def forward(self, x: Tensor) -> Tensor:
                y = self.own(self.memory(self.inner(x))[0][:, -1])
                return self.last(nn.functional.linear(y, self.direct.weight))

        class OwnLinear(nn.Linear):
            def forward(self, input: Tensor) -> Tensor:
                return 2 * super().forward(input)

        with seeded(Stream(0, "net")):
            model = Mixed()
        converting = Converting(model, Converters(8, 8), include=["own.weight@0"])
        assert set(converting.uncovered) == {
            "inner.self_attn.in_proj_weight",
            "inner.self_attn.out_proj.weight",
            "memory.weight_ih_l0",
            "memory.weight_hh_l0",
            "own.weight",
        }
        with converting.applied(STREAM), torch.no_grad():
            model.eval()(Stream(0, "x").normal((2, 5, 8)))
        assert converting.uncovered["direct.weight"] == "not called as a layer: its weight is used directly"
        assert converting.uncovered["memory.weight_ih_l0"].startswith("LSTM computes by itself")
        # torch's fused encoder steps aside for hooks: both its linear layers were called.
        covered = {"inner.linear1.weight", "inner.linear2.weight", "last.weight"}
        assert {layer.name for layer in converting.layers if layer.calls} == covered

    def test_a_weight_tied_to_an_embedding_and_layers_that_share_one(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embed = nn.Embedding(7, 6)
                self.one, self.two, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 7)
                self.two.weight, self.out.weight = self.one.weight, self.embed.weight

            def forward(self, words: Tensor) -> Tensor:
                return self.out(self.two(self.one(self.embed(words))))

        with seeded(Stream(0, "net")):
            model = Tied()
        words = torch.arange(7)
        with converted(model, "io:dac=4,adc=5") as converting, perturbed(model, "gaussian:0.1"), torch.no_grad():
            model(words)
        assert [layer.name for layer in converting.layers] == ["one.weight", "two.weight", "out.weight"]
        assert [layer.calls for layer in converting.layers] == [1, 1, 1]
        assert converting.uncovered == {}


class TestPercentile:
    def test_ranges_are_the_mean_percentiles_of_the_digital_network(self) -> None:
        model, (x, _) = net(), images()
        batches = list(x.split(25))
        converting = Converting(model, Converters(8, 8, percentile=97.0), calibration=batches)
        layer = converting.layers[1]
        assert layer.name == "4.weight"
        expected = []
        for batch in batches:
            with torch.no_grad():
                given = model[:4](batch)
                sums = given @ model[4].weight.T
            pair = [np.percentile(values.abs().numpy(), 97.0, method="inverted_cdf") for values in (given, sums)]
            expected.append(pair)
        (crossbar,) = layer.crossbars
        assert crossbar.ranges is not None
        assert crossbar.ranges.outputs is not None
        np.testing.assert_allclose(
            [float(r) for r in (crossbar.ranges.inputs, crossbar.ranges.outputs) if r is not None],
            np.mean(expected, axis=0),
            rtol=1e-5,
        )
        with converting.applied(STREAM), torch.no_grad():
            seen = model[4](model[:4](x)) - model[4].bias
        assert seen.abs().max() == pytest.approx(float(crossbar.ranges.outputs), rel=1e-5)

    def test_a_hundred_is_the_largest(self) -> None:
        layer, x = made(lambda: nn.Linear(6, 5)), inputs(70, 6)
        layer = Converting(layer, Converters(8, 8, percentile=100.0), calibration=[x]).layers[0]
        (crossbar,) = layer.crossbars
        assert crossbar.ranges is not None
        assert float(crossbar.ranges.inputs) == float(x.abs().max())

    def test_modes_are_as_before(self) -> None:
        model = net().train()
        model[1].eval()
        before = network_digest(model)
        Converting(model, Converters(8, 8, percentile=99.0), calibration=[images()[0]])
        assert [m.training for m in model] == [True, False, True, True, True, True]
        assert network_digest(model) == before


IO = "io:dac=6,adc=7,noise=0.05"


def losses(rows: pd.DataFrame, **where: object) -> list[float]:
    chosen = rows[rows["metric"] == "loss"]
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    return list(chosen["value"])


class TestEvaluation:
    def test_by_hand(self) -> None:
        models, (x, y) = [net(), net().requires_grad_(False)], images()
        rows = evaluate(
            models, (x, y), "gaussian:0.2", draws=2, seed=5, chips=Chips(reads=2, converters=["none", IO])
        ).rows
        assert set(rows["converters"]) == {"none", IO}
        for replicate, model in enumerate(models):
            for draw in range(2):
                for read in range(2):
                    names = {"seed": 5, "replicate": replicate, "draw": draw}
                    with torch.no_grad(), perturbed(model, "gaussian:0.2", **names):  # type: ignore[arg-type]
                        plain = nn.functional.cross_entropy(model(x), y).item()
                    with (
                        torch.no_grad(),
                        converted(model, IO, read=read, **names),  # type: ignore[arg-type]
                        perturbed(model, "gaussian:0.2", **names),  # type: ignore[arg-type]
                    ):
                        edged = nn.functional.cross_entropy(model(x), y).item()
                    where = {"replicate": replicate, "draw": draw, "read": read}
                    assert losses(rows, converters="none", **where) == [pytest.approx(plain)]
                    assert losses(rows, converters=IO, **where) == [pytest.approx(edged)]

    def test_the_batch_size_changes_nothing(self) -> None:
        found = [
            losses(
                evaluate(
                    net(),
                    images(),
                    "gaussian:0.2",
                    draws=2,
                    chips=Chips(converters=IO),
                    compute=Compute(batch_size=size),
                ).rows
            )
            for size in (7, 60)
        ]
        assert found[0] == pytest.approx(found[1], rel=1e-5)

    def test_without_weight_noise_draws_differ_only_by_output_noise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        passes = []
        score = noiserobust.evaluation.on_chips.score
        monkeypatch.setattr(
            noiserobust.evaluation.on_chips, "score", lambda *a, **k: passes.append(1) or score(*a, **k)
        )
        kinds = ["none", "io:dac=6,adc=7", IO]
        result = evaluate(
            net(), images(), "gaussian:0", draws=3, chips=Chips(reads=2, times=["0s", "1h"], converters=kinds)
        )
        for text, different in zip(kinds, (1, 1, 3 * 2 * 2), strict=True):
            found = losses(result.rows, converters=text)
            assert len(found) == 12
            assert len(set(found)) == different
        assert len(passes) == 1 + 1 + 12
        summary = result.summary().query("metric == 'loss'")
        assert (summary["noise_std"] > 0).tolist() == [False, False, True] * 2

    def test_rows_on_disk_are_told_apart(self, tmp_path) -> None:  # type: ignore[no-untyped-def]
        out = tmp_path / "rows.parquet"
        plain = evaluate(net(), images(), "gaussian:0.2", draws=1, out=out).rows
        edged = evaluate(net(), images(), "gaussian:0.2", draws=1, out=out, chips=Chips(converters=IO)).rows
        again = evaluate(net(), images(), "gaussian:0.2", draws=1, out=out).rows
        assert losses(plain) == losses(again) != losses(edged)

    def test_ranges_are_learnt_from_calibration_images(self) -> None:
        model, data, calibration = net(), images(), images(200)
        text = "io:dac=6,adc=7,percentile=99.0,images=150"
        rows = evaluate(
            model, data, "gaussian:0.2", draws=1, chips=Chips(converters=text, calibration=calibration)
        ).rows
        chosen = noiserobust.data.as_dataset(calibration).sample(150, Stream(0, "calibration"))
        batches = [batch.inputs for batch in noiserobust.tasks.batches.prepare(chosen, torch.device("cpu"), 128)]
        with (
            torch.no_grad(),
            converted(model, text, calibration=batches),
            perturbed(model, "gaussian:0.2"),
        ):
            expected = nn.functional.cross_entropy(model(data[0]), data[1]).item()
        assert losses(rows) == [pytest.approx(expected)]
        with pytest.raises(UserError, match="expected calibration="):
            evaluate(model, data, "gaussian:0.2", chips=Chips(converters=text))

    def test_with_recalibration_and_compensation(self) -> None:
        options = {"draws": 2, "recalibration": 40, "calibration": images(50), "compensation": ["none", "column"]}
        rows = evaluate(net(), images(), "gaussian:0.2", **grouped(options | {"converters": ["none", IO]})).rows
        assert len(rows) == 2 * 2 * 2 * 2
        assert len(set(losses(rows, compensation="none"))) == 4

    def test_uncovered_weights_come_with_the_result(self) -> None:
        class Recurrent(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.memory, self.last = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.last(self.memory(x[:, 0])[0][:, -1])

        result = evaluate({"a": Recurrent()}, images(), "gaussian:0.1", draws=1, chips=Chips(converters=IO))
        assert set(result.uncovered["a[0]"]) == {"memory.weight_ih_l0", "memory.weight_hh_l0"}
        assert evaluate(net(), images(), "gaussian:0.1", draws=1).uncovered == {"Sequential[0]": {}}


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("none", "none"),
        ("io", "none"),
        ("io:dac=8,adc=8", "io:dac=8,adc=8"),
        ("io:8,8,0.06", "io:dac=8,adc=8,noise=0.06"),
        ("io:dac=none,adc=9", "io:adc=9"),
        ("io(dac=7,adc=9,noise=0.06,bound=10,percentile=99.9)", "io:dac=7,adc=9,noise=0.06,bound=10.0,percentile=99.9"),
    ],
)
def test_the_written_form(text: str, written: str) -> None:
    io = Converters.parse(text)
    assert str(io) == written
    assert Converters.parse(written) == io
    assert io.is_identity == (written == "none")


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("io:dac=1", "io: expected 2 to 24 bits, got 1"),
        ("io:adc=32", "io: expected 2 to 24 bits, got 32"),
        ("io:dac=8.5", "io: dac: expected"),
        ("io:noise=-1", "io: expected a finite noise >= 0, got -1.0; it is a fraction of max|x| max|w|"),
        ("io:adc=8,bound=0", "io: expected a finite bound > 0, got 0.0"),
        ("io:adc=8,percentile=0", "io: expected a percentile in (0, 100], got 0.0"),
        ("io:adc=8,percentile=101", "io: expected a percentile in (0, 100], got 101.0"),
        ("io:adc=8,images=0", "io: expected images >= 1"),
        ("io:adc=8,reference=row", "io: reference: expected one of filter, layer, tile, tile-column, got 'row'"),
        (
            "io:adc=8,rows=64",
            "io: expected reference tile or tile-column beside rows and columns, got reference filter",
        ),
        ("io:adc=8,inputs=row", "io: inputs: expected one of sample, patch, tile, got 'row'"),
        ("io:adc=8,inputs=tile", "io: expected reference tile or tile-column beside inputs=tile, got filter"),
        ("io:adc=8,inputs=patch,percentile=99", "io: expected no inputs=patch beside a percentile"),
        ("adc:8", "expected a converters (io), got 'adc:8'"),
    ],
)
def test_refusals(text: str, fragment: str) -> None:
    with pytest.raises(UserError, match=re.escape(fragment)):
        evaluate(net(), images(), "gaussian:0.1", chips=Chips(converters=text))


def test_more_refusals() -> None:
    with pytest.raises(UserError, match="expected a Linear or convolution to put converters at, got none in GRU"):
        Converting(nn.GRU(3, 4), Converters(8))
    with pytest.raises(UserError, match=r"expected calibration=\.\.\. \(batches of inputs\) with a percentile"):
        Converting(net(), Converters(8, percentile=99.0))
    with pytest.raises(UserError, match="expected converters, got none"):
        evaluate(net(), images(), "gaussian:0.1", chips=Chips(converters=[]))

    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x.flatten(1), self.layer.weight)

    with pytest.raises(UserError, match="expected a model that calls its Linear or convolution layers"):
        evaluate(Direct(), images(), "gaussian:0.1", chips=Chips(converters="io:dac=8"))
    with pytest.raises(UserError, match="expected a model that calls its Linear or convolution layers"):
        evaluate(
            Direct(),
            images(),
            "gaussian:0.1",
            chips=Chips(converters="io:dac=8,percentile=99.0", calibration=images(600)),
        )


def test_streams_are_below_the_reported_draw() -> None:
    layer, x = made(lambda: nn.Linear(6, 5)), inputs(7, 6)
    stream = report_stream(3, 1, 2).child("converters", "read", 4, "3600.0")
    with Converting(layer, Converters(noise=0.1)).applied(stream):
        expected = layer(x)
    with converted(layer, "io:noise=0.1", seed=3, replicate=1, draw=2, read=4, t=3600):
        assert torch.equal(layer(x), expected)
