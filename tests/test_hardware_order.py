"""Array, output noise, ADC, drift compensation, bias: in that order, against loops written from the equations."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from noiserobust import evaluate, perturbed
from noiserobust.analog.converters import Converters, Converting, converted
from noiserobust.analog.factors import gain_of, set_factor
from noiserobust.analog.layer_table import LayerTable
from noiserobust.analog.noisy import report_stream
from noiserobust.evaluation import Chips, Where, yields
from noiserobust.noise import NoiseModel, compensation_factor, read_stream
from noiserobust.rng import Stream, seeded

YEAR = 365 * 86400.0
STAGES = [("pcm+compensate(global)", "none"), ("pcm+compensate(column)", "none")]
KINDS = pytest.mark.parametrize(("noise", "kind"), [("pcm", "global"), ("pcm:reference=layer", "column"), *STAGES])


def network() -> nn.Module:
    with seeded(Stream(0, "net")):
        return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4)).double()


X = Stream(0, "x").normal((30, 12)).double()
Y = torch.arange(30) % 4


def logit(predictions: Tensor, labels: Tensor) -> Tensor:
    return predictions[3, 1]


def by_hand(net: nn.Module, noise: str, kind: str, bits: int, out_noise: float) -> float:
    """One logit of draw 0 after a year; every step written out."""
    stream, base = report_stream(0, 0, 0), noise.partition("+")[0]
    kind = noise.rpartition("(")[2].rstrip(")") if "+" in noise else kind
    h = X
    for name, layer in (("0", net[0]), ("2", net[2])):
        named = stream.weight(f"{name}.weight")
        w = layer.weight.detach()
        # A sum's first stage has streams of its own.
        programmed, reading = named.child("program"), read_stream(named, YEAR, 0)
        if "+" in noise:
            programmed, reading = programmed.child(0), reading.child("below")
        chip = NoiseModel.parse(base).program(w, programmed)
        now, then = chip.read(reading, YEAR).detach(), chip.programmed()
        largest = w.abs().amax(1, keepdim=True)
        unit = w.abs().max() if "layer" in noise else largest
        ratio = (then / unit).abs().mean(1) / (now / unit).abs().mean(1)
        if kind == "global":
            ratio = (then / unit).abs().mean() / (now / unit).abs().mean()
        reach = h.abs().amax(1, keepdim=True)
        y = h @ now.T
        if out_noise:
            field = (
                read_stream(stream.child("converters"), YEAR, 0).child(f"{name}.weight", 0).normal((64, len(w)))[:30]
            )
            y = y + out_noise * reach * largest.T * field
        n, bound = 2 ** (bits - 1) - 1, 12 * reach * largest.T
        y = torch.round((y / bound).clamp(-1, 1) * n) / n * bound
        y = y * ratio + layer.bias.detach()
        h = torch.tanh(y) if name == "0" else y
    return float(h[3, 1])


@KINDS
@pytest.mark.parametrize("out_noise", [0.0, 0.05])
def test_the_factor_comes_after_the_adc(noise: str, kind: str, out_noise: float) -> None:
    net, io = network(), f"io:adc=6,noise={out_noise}" if out_noise else "io:adc=6"
    chips = Chips(times=["1y"], compensation=kind, converters=io)
    rows = evaluate(net, (X, Y), noise, draws=1, metrics={"logit": logit}, chips=chips).rows
    found = float(rows.value[rows["metric"] == "logit"].iloc[0])
    assert found == pytest.approx(by_hand(net, noise, kind, 6, out_noise), abs=2e-6)


@KINDS
def test_without_converters_it_is_the_same_in_the_weights(noise: str, kind: str) -> None:
    """Converters of 24 bits against none."""
    net, values = network(), []
    for io in ("io:adc=24", "none"):
        chips = Chips(times=["1y"], compensation=kind, converters=io)
        rows = evaluate(net, (X, Y), noise, draws=2, metrics={"logit": logit}, chips=chips).rows
        values.append(rows.value[rows["metric"] == "logit"].tolist())
    assert values[0] == pytest.approx(values[1], abs=1e-4)


@pytest.mark.parametrize("also_called", [False, True])
def test_a_weight_that_is_used_elsewhere_is_compensated_there_too(also_called: bool) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(12, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.first(x))
            y = nn.functional.linear(h, self.second.weight, self.second.bias)
            return y + self.second(h.abs()) if also_called else y

    with seeded(Stream(0, "net")):
        net = Functional().double()
    values = []
    for io in ("io:adc=24", "none"):
        chips = Chips(times=["1y"], compensation="global", converters=io)
        rows = evaluate(net, (X, Y), "pcm", draws=1, metrics={"logit": logit}, chips=chips).rows
        values.append(float(rows.value[rows["metric"] == "logit"].iloc[0]))
    assert values[0] == pytest.approx(values[1], abs=1e-4)


class TestReadOut:
    W = torch.tensor([[1, -0.5, 0.25, 0], [20, 0.2, -0.1, 0.05]])

    def test_it_is_of_conductances_and_not_of_weights(self) -> None:
        """aihwkit reads a tile before the digital scales of its columns."""
        chip = NoiseModel.parse("pcm:programming=0,read=0").program(self.W, Stream(0, "chip"))
        now = chip.read(Stream(0, "read"), YEAR)
        scale = self.W.abs().amax(1, keepdim=True)
        expected = (self.W / scale).abs().mean() / (now / scale).abs().mean()
        weights = self.W.abs().mean() / now.abs().mean()
        factor = compensation_factor(chip, now, "global")
        torch.testing.assert_close(factor, torch.full_like(factor, float(expected)))
        assert abs(float(weights / expected) - 1) > 0.01

    def test_of_aihwkit(self) -> None:
        """The same conductances on aihwkit's own tile, its own read-out."""
        pytest.importorskip("aihwkit.simulator.configs", exc_type=ImportError)
        from aihwkit.inference.compensation.drift import GlobalDriftCompensation
        from aihwkit.nn import AnalogLinear
        from aihwkit.simulator.configs import TorchInferenceRPUConfig

        config = TorchInferenceRPUConfig()
        config.mapping.weight_scaling_columnwise = True
        config.mapping.weight_scaling_omega = 1.0
        config.forward.is_perfect = True
        layer = AnalogLinear(4, 2, bias=False, rpu_config=config)
        (tile,) = layer.analog_tiles()
        chip = NoiseModel.parse("pcm:read=0").program(self.W, Stream(0, "chip"))
        now, then = chip.read(Stream(0, "read"), YEAR), chip.programmed()
        scale, read = self.W.abs().amax(1, keepdim=True), []
        for weight in (then, now):
            tile.set_mapping_scales(scale[:, 0])
            tile.set_weights(weight / scale, apply_weight_scaling=False)
            compensation = GlobalDriftCompensation()
            read.append(compensation.readout(tile.tile.forward(compensation.get_readout_tensor(4), False)))
        factor = compensation_factor(chip, now, "global")
        torch.testing.assert_close(factor[0, 0], read[0] / read[1], rtol=1e-5, atol=0)

    def test_gains_are_per_output_of_a_crossbar(self) -> None:
        layer = nn.Linear(3, 2)
        undo = set_factor(layer, "weight", torch.tensor([[2.0, 2, 2], [3, 3, 3]]))
        assert gain_of(layer, "weight", slice(0, 2)).tolist() == [2, 3]
        undo_inner = set_factor(layer, "weight", torch.tensor([[1.0, 1, 4]]))
        assert gain_of(layer, "weight", slice(0, 2)).tolist() == [1]
        assert gain_of(layer, "weight", slice(2, 3)).tolist() == [4]
        assert gain_of(layer, "weight", slice(0, 3)).tolist() == [2]  # cut otherwise: the mean
        undo_inner()
        assert gain_of(layer, "weight", slice(0, 3)).tolist() == [2, 3]
        undo()
        assert gain_of(layer, "weight", slice(0, 3)) is None


class TestOutputNoiseIsNoise:
    def test_tables_pictures_and_yields(self) -> None:
        chips = Chips(converters="io:noise=0.3")
        result = evaluate(network(), (X, Y), ["gaussian:0", "gaussian:0.1"], draws=6, chips=chips)
        assert "noise-free" not in result.table()
        assert "±" in result.table()
        assert len(yields(result.rows, above=20).rows) == 12
        assert result.rows[(result.rows.strength == 0) & (result.rows.metric == "loss")].value.nunique() == 6
        result.plot()

    def test_without_it_nothing_changed(self) -> None:
        result = evaluate(network(), (X, Y), "gaussian:0", draws=2, chips=Chips(converters="io:adc=5"))
        assert "noise-free" in result.table()


@pytest.mark.parametrize(("noise", "kind"), STAGES)
def test_converted_and_perturbed_are_what_evaluate_computes(noise: str, kind: str) -> None:
    net = network()
    clean = [p.clone() for p in net.parameters()]
    with converted(net, "io:adc=6,noise=0.05", t=YEAR), perturbed(net, noise, t=YEAR):
        found = float(net(X).detach()[3, 1])
    assert found == pytest.approx(by_hand(net, noise, kind, 6, 0.05), abs=1e-9)
    assert all(map(torch.equal, clean, net.parameters()))
    assert gain_of(net[0], "weight", slice(0, 12)) is None


def test_gradients_are_those_of_the_compensated_weights() -> None:
    """Straight through: of x the weight that the network computes with, factor included."""
    net, x = nn.Sequential(nn.Linear(12, 8)).double(), X.clone().requires_grad_()
    with converted(net, "io:adc=6", t=YEAR), perturbed(net, "pcm+compensate(global)", t=YEAR):
        net(x).sum().backward()
        torch.testing.assert_close(x.grad, net[0].weight.detach().sum(0).expand_as(x))


def test_gains_of_one_noise_are_not_those_of_the_next() -> None:
    """A compensated chip, then one that is not: each as alone."""
    net, chips = network(), Chips(times=["1y"], converters="io:adc=6")
    both = evaluate(net, (X, Y), ["pcm+compensate(global)", "gaussian:0.1", "gaussian:0"], draws=1, chips=chips).rows
    for noise in ("gaussian:0.1", "gaussian:0"):
        alone = evaluate(net, (X, Y), noise, draws=1, chips=chips).rows.value.tolist()
        strength = float(noise.partition(":")[2])
        assert both[(both.noise == str(NoiseModel.parse(noise))) & (both.strength == strength)].value.tolist() == alone


class TestSignalsAndRanges:
    def test_shot_noise_grows_with_the_signal(self) -> None:
        """Mean square of 4,000 outputs of known size: relative standard error sqrt(2 / 4000) = 2.2 %, 4.5 of them."""
        layer = nn.Linear(1, 3, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0], [-0.25], [0.0]]))
        io = Converters.parse("io:shot=0.1,noise=0.02,reference=layer")
        x = torch.full((4000, 1), 2.0)
        with Converting(layer, io).applied(Stream(0, "io")):
            error = (layer(x) - x @ layer.weight.detach().T).detach().double()
        unit = 2.0  # max |x| max |w|
        for output, signal in enumerate((2.0, 0.5, 0.0)):
            expected = (0.02 * unit) ** 2 + 0.1**2 * unit * signal
            assert float(error[:, output].square().mean()) == pytest.approx(expected, rel=0.1)

    def test_every_column_has_a_range_of_its_own(self) -> None:
        net, x = nn.Sequential(nn.Conv2d(2, 3, 3)).double(), Stream(0, "images").normal((6, 2, 5, 5)).double()
        with torch.no_grad():
            net[0].weight[1] *= 20
        io = Converters.parse("io:adc=5,percentile=90.0,ranges=column")
        clean = net(x).detach() - net[0].bias.detach().view(-1, 1, 1)
        with Converting(net, io, calibration=[x]).applied(Stream(0, "io")):
            found = net(x).detach() - net[0].bias.detach().view(-1, 1, 1)
        for channel in range(3):
            values = clean[:, channel].abs().flatten().sort().values
            bound = values[-(-90 * len(values) // 100) - 1]
            expected = torch.round((clean[:, channel] / bound).clamp(-1, 1) * 15) / 15 * bound
            torch.testing.assert_close(found[:, channel], expected)

    def test_wrong_settings_are_said(self) -> None:
        from noiserobust import UserError

        for text, message in (("io:adc=6,ranges=column", "expected a percentile"), ("io:shot=-1.0", "shot >= 0")):
            with pytest.raises(UserError, match=message):
                Converters.parse(text)


def test_a_scoring_function_sees_the_same_chip() -> None:
    net, chips = network(), Chips(times=["1y"], compensation="global", converters="io:adc=5")
    scored = evaluate(net, noises="pcm", draws=1, task=lambda n: {"logit": float(n(X)[3, 1])}, chips=chips).rows
    rows = evaluate(net, (X, Y), "pcm", draws=1, metrics={"logit": logit}, chips=chips).rows
    assert scored.value.iloc[0] == pytest.approx(rows.value[rows["metric"] == "logit"].iloc[0], abs=1e-6)


@pytest.mark.parametrize("noise", ["cells(pcm(read=0),number=1)", "correlated(pcm(read=0),share=0.5,over=column)"])
def test_assemblies_are_read_out_in_conductances(noise: str) -> None:
    w = TestReadOut.W
    chip, scale = NoiseModel.parse(noise).program(w, Stream(0, "chip")), w.abs().amax(1, keepdim=True)
    now = chip.read(Stream(0, "read"), YEAR)
    expected = (chip.programmed() / scale).abs().mean() / (now / scale).abs().mean()
    torch.testing.assert_close(compensation_factor(chip, now, "global")[0, 0], expected)


def test_noise_of_the_backends_outputs() -> None:
    import pandas as pd

    from noiserobust.storage.rows import noise_free

    backends = ["direct", "aihwkit", "aihwkit:out_noise=0.02", "aihwkit:out_noise=0.0", "aihwkit:perfect=true"]
    rows = pd.DataFrame({"strength": 0.0, "noise": "gaussian:0.0", "converters": "none", "backend": backends})
    assert noise_free(rows).tolist() == [True, False, False, True, True]


class TestOutputNoiseOfSingleLayers:
    """A table that makes outputs noisy makes chips differ, whatever the weights' noise."""

    WHERE = Where(layers={"2.*": {"converters": "io:noise=0.3"}})

    def test_tables_pictures_and_yields(self) -> None:
        result = evaluate(network(), (X, Y), "gaussian:0", draws=6, where=self.WHERE)
        assert "noise-free" not in result.table()
        assert "noisy outputs of some layers" in result.table()
        assert "±" in result.table()
        assert set(result.rows["layer_outputs"]) == {"noisy"}
        assert result.rows[result.rows["metric"] == "loss"].value.nunique() == 6
        assert len(yields(result.rows, above=20).rows) == 6
        result.plot()

    def test_a_table_without_it_says_nothing(self) -> None:
        quiet = {"2.*": {"converters": "io:adc=5"}}
        result = evaluate(network(), (X, Y), "gaussian:0", draws=2, where=Where(layers=quiet))
        assert "noise-free" in result.table()
        off = Where(layers={"2.*": {"converters": "io:noise=0.3", "digital": True}})
        assert "noise-free" in evaluate(network(), (X, Y), "gaussian:0", draws=2, where=off).table()


class TestPercentilesOfSingleLayers:
    TABLE: ClassVar = {"0.*": {"converters": "io:adc=6,percentile=90.0,images=60"}, "2.*": {"converters": "io:adc=4"}}
    TRAINING = Stream(0, "training").normal((60, 12)), torch.arange(60) % 4

    def test_by_hand(self) -> None:
        net, data = network().float(), (X.float(), Y)
        w, v, b, c = (p.detach() for p in (net[0].weight, net[2].weight, net[0].bias, net[2].bias))
        sums = (self.TRAINING[0] @ w.T).abs().flatten().sort().values
        bound = sums[-(-90 * len(sums) // 100) - 1]
        h = torch.tanh(torch.round((data[0] @ w.T / bound).clamp(-1, 1) * 31) / 31 * bound + b)
        unit = 12 * h.abs().amax(1, keepdim=True) * v.abs().amax(1)
        expected = (torch.round(h @ v.T / unit * 7) / 7 * unit + c)[3, 1]
        settings = {"metrics": {"logit": logit}, "chips": Chips(calibration=self.TRAINING)}
        rows = evaluate(net, data, "gaussian:0", draws=1, where=Where(layers=self.TABLE), **settings).rows
        assert float(rows.value[rows["metric"] == "logit"].iloc[0]) == pytest.approx(float(expected), abs=1e-5)
        other = Chips(calibration=(2 * self.TRAINING[0], self.TRAINING[1]))
        again = evaluate(net, data, "gaussian:0", draws=1, where=Where(layers=self.TABLE), chips=other).rows
        assert set(again["data"]).isdisjoint(rows["data"])

    def test_each_layer_has_its_own_number_of_images(self) -> None:
        table = LayerTable.of({"0.*": self.TABLE["0.*"], "2.*": {"converters": "io:adc=6,percentile=99,images=7"}})
        asked = []

        def batches(images: int) -> list[Tensor]:
            asked.append(images)
            return [self.TRAINING[0][:images]]

        Converting(network().float(), Converters(), layers=table, calibration=batches)
        assert sorted(asked) == [7, 60]
