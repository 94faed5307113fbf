"""Settings by layer: what a table says of each weight, against noise that the test puts there by hand."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TINY
from methods import few_digits
from torch import Tensor, nn

from noiserobust import UserError, Where, analog_weights, evaluate, keep_digital, perturbed, sensitivity
from noiserobust.analog.converters import Converters, Converting
from noiserobust.analog.layer_table import LayerTable
from noiserobust.analog.noisy import NoisyWeights, Programmed, report_stream
from noiserobust.cli import main
from noiserobust.evaluation import Axis, Chips, Stop, budget
from noiserobust.noise import NoiseModel
from noiserobust.rng import Stream, seeded
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.training import TrainSettings, fit

TABLE = {
    "*": {"noise": "gaussian:0.1"},
    "blocks.0.*": {"noise": "laplace:0.2"},
    "blocks.1.*": {"reference": "layer"},
    "head.weight": {"digital": True},
    "kernel@1": {},
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 8))
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.kernel
        for block in self.blocks:
            x = block(x).tanh()
        return self.head(x)


def net() -> Net:
    with seeded(Stream(0, "net")):
        return Net()


X = Stream(0, "x").normal((60, 6))
DATA = X, net()(X).argmax(1)
COARSE = Axis(points=3, tolerance=0.05)


def by_hand(model: Net, draw: int = 0, asked: str = "gaussian:0.3") -> dict[str, Tensor]:
    """Each weight under its own noise, drawn from the stream of its own name."""
    noises = {
        "kernel": "gaussian:0.1",
        "blocks.0.weight": "laplace:0.2",
        "blocks.1.weight": "gaussian:0.1,reference=layer",
        "blocks.2.weight": "gaussian:0.1",
    }
    stream, values = report_stream(0, 0, draw), {}
    for name, text in noises.items():
        weight = model.get_parameter(name).detach()
        rows = weight.T if name == "kernel" else weight
        noisy = NoiseModel.parse(text).sample(rows, stream.weight(name))
        values[name] = noisy.T if name == "kernel" else noisy
    return values


class TestWeights:
    def test_each_weight_has_its_own_noise(self) -> None:
        model = net()
        expected, clean = by_hand(model), {n: p.detach().clone() for n, p in model.named_parameters()}
        with perturbed(model, "gaussian:0.3", layers=TABLE):
            for name, parameter in model.named_parameters():
                assert torch.equal(parameter, expected.get(name, clean[name])), name
        assert all(torch.equal(p, clean[n]) for n, p in model.named_parameters())

    def test_chips_that_are_kept_are_the_same_draw(self) -> None:
        model = net()
        noisy = NoisyWeights(model, layers=LayerTable.of(TABLE))
        chips = Programmed(noisy, NoiseModel.parse("gaussian:0.3"), report_stream(0, 0, 2))
        expected = by_hand(model, 2)
        with chips.read():
            assert all(torch.equal(model.get_parameter(name), value) for name, value in expected.items())

    def test_what_is_not_stated_is_as_asked(self) -> None:
        model = net()
        with perturbed(model, "gaussian:0.3"):
            expected = model.blocks[2].weight.detach().clone()
        with perturbed(model, "gaussian:0.3", layers={"blocks.0.*": {"noise": "laplace:0.2"}}):
            assert torch.equal(model.blocks[2].weight, expected)

    def test_noise_zero_leaves_the_tables_own(self) -> None:
        model = net()
        with perturbed(model, "gaussian:0", layers={"blocks.0.*": {"noise": "gaussian:0.2"}}):
            moved = {n for n, p in model.named_parameters() if not torch.equal(p, net().get_parameter(n))}
        assert moved == {"blocks.0.weight"}

    def test_the_last_pattern_wins(self) -> None:
        rows = {"*": {"digital": True}, "blocks.*": {"digital": False}, "blocks.1.*": {"digital": True}}
        found = analog_weights(net(), layers=LayerTable.of(rows))
        assert [weight.name for weight in found] == ["blocks.0.weight", "blocks.2.weight"]
        kernel = {"kernel@1": {}, "ker*": {"digital": True}}
        assert "kernel" not in [weight.name for weight in analog_weights(net(), layers=LayerTable.of(kernel))]
        again = LayerTable.of(kernel).with_digital(["kernel"], digital=False)
        assert "kernel" in [weight.name for weight in analog_weights(net(), layers=again)]

    def test_patterns_without_a_weight_are_named_in_one_line(self) -> None:
        table = LayerTable.of({"nothing.*": {"digital": True}, "kernel": {"noise": "pcm"}, "*": {"noise": "pcm"}})
        with pytest.warns(UserWarning, match=r"no analog weight matches 'nothing\.\*', 'kernel'; ") as found:
            analog_weights(net(), layers=table)
        assert len(found) == 1

    def test_a_setting_that_the_noise_has_not_is_refused(self) -> None:
        with (
            pytest.raises(UserError, match=r"a noise with on_off to set by layer, got gaussian:0\.3"),
            perturbed(net(), "gaussian:0.3", layers={"head.*": {"on_off": 20.0}}),
        ):
            pass

    def test_the_on_off_ratio_of_a_layer(self) -> None:
        model, stream = net(), report_stream(0, 0, 0)
        weight = model.head.weight.detach().clone()
        with perturbed(model, "pcm:read=0", t=0.0, layers={"head.*": {"on_off": 5}}):
            expected = NoiseModel.parse("pcm:read=0,on_off=5").sample(weight, stream.weight("head.weight"), 0.0)
            assert torch.equal(model.head.weight, expected)

    def test_layers_have_their_own_converters(self) -> None:
        model = net()
        table = LayerTable.of({"blocks.0.*": {"converters": "io:adc=4"}, "head.*": {"converters": "none"}})
        converting = Converting(model, Converters(), layers=table)
        assert [layer.name for layer in converting.layers] == ["blocks.0.weight"]
        rows = evaluate(model, DATA, "gaussian:0", 1, where=Where(layers=table)).rows
        both = evaluate(model, DATA, "gaussian:0", 1, chips=Chips(converters="io:adc=4")).rows
        plain = evaluate(model, DATA, "gaussian:0", 1).rows
        assert rows["value"].iloc[1] not in (both["value"].iloc[1], plain["value"].iloc[1])


class TestText:
    def test_there_and_back(self, tmp_path: Path) -> None:
        table = LayerTable.of(TABLE)
        file = tmp_path / "layers.toml"
        file.write_text(str(table))
        assert LayerTable.of(file) == LayerTable.of(str(file)) == LayerTable.of(str(table)) == table
        assert LayerTable.of(file).digest == table.digest != LayerTable.of({"*": {"digital": True}}).digest
        yaml = tmp_path / "layers.yaml"
        yaml.write_text("'*':\n  noise: gaussian:0.05\n")
        assert LayerTable.of(yaml) == LayerTable.of({"*": {"noise": "gaussian:0.05"}})

    @pytest.mark.parametrize(
        ("given", "fragment"),
        [
            ("absent.toml", "absent.toml: No such file"),
            (
                {"*": {"nose": "pcm"}},
                r"expected noise, converters, digital, reference, on_off, g_max of '\*', got nose",
            ),
            ({"*": "pcm"}, "got pcm"),
            ({"*": {"digital": "yes"}}, "expected true or false as digital, got 'yes'"),
            ('["*"]\nnoise =\n', "got what cannot be read"),
            (3, "a mapping from patterns to settings, got 3"),
        ],
    )
    def test_refusals(self, given: object, fragment: str) -> None:
        with pytest.raises(UserError, match=fragment):
            LayerTable.of(given)


class TestEvaluation:
    def test_rows_are_those_of_the_twin_and_name_the_table(self) -> None:
        model, x, y = net(), *DATA
        result = evaluate(model, DATA, "gaussian:0.3", draws=3, where=Where(layers=TABLE))
        losses = result.rows.loc[result.rows["metric"] == "loss", "value"].tolist()
        for draw, loss in enumerate(losses):
            expected = by_hand(model, draw)
            twin = net()
            twin.load_state_dict(twin.state_dict() | expected)
            with torch.no_grad():
                assert loss == pytest.approx(nn.functional.cross_entropy(twin(x), y).item(), rel=1e-5)
        assert set(result.rows["analog"]) == {f"layers={LayerTable.of(TABLE).digest}"}

    def test_rows_of_another_table_are_not_taken(self, tmp_path: Path) -> None:
        out = tmp_path / "rows.parquet"
        one = evaluate(net(), DATA, "gaussian:0.3", 1, out=out, where=Where(layers={"head.*": {"noise": "pcm"}}))
        two = evaluate(net(), DATA, "gaussian:0.3", 1, out=out, where=Where(layers={"head.*": {"digital": True}}))
        assert one.rows["value"].tolist() != two.rows["value"].tolist()

    def test_sensitivity_and_what_to_keep_digital_start_from_a_table(self) -> None:
        where = Where(layers={"head.*": {"digital": True}, "blocks.0.*": {"noise": "gaussian:0.4"}})
        found = sensitivity(net(), DATA, "gaussian:0.1", 2, where=where).summary()
        assert set(found["layer"]) == {"all layers", *(f"blocks.{n}.weight" for n in range(3))}
        clean = evaluate(net(), DATA, "gaussian:0", 1).rows["value"].iloc[0]
        kept = keep_digital(net(), DATA, "gaussian:0.1", 2, where=where, stop=Stop(max_layers=1))
        assert kept.summary()["clean"].iloc[0] == clean
        table = kept.layer_table()
        names = [weight.name for weight in analog_weights(net(), layers=table)]
        assert len(names) == 2
        again = evaluate(net(), DATA, "gaussian:0.1", 2, where=Where(layers=table)).rows
        assert (
            again["value"].mean() == evaluate(net(), DATA, "gaussian:0.1", 2, where=kept.where()).rows["value"].mean()
        )

    def test_a_table_without_one_before(self) -> None:
        kept = keep_digital(net(), DATA, "gaussian:0.1", 2, stop=Stop(max_layers=2))
        assert (
            str(kept.layer_table())
            == "\n".join(f'["{name}"]\ndigital = true' for name in next(iter(kept.chosen.values()))) + "\n"
        )


class TestTraining:
    SETTINGS = TrainSettings(epochs=1, batch_size=200, model="digits:4", method="rwp:gaussian(0.3)", select_draws=1)

    def test_a_run_is_named_by_its_table_and_remembers_it(self, tmp_path: Path) -> None:
        digits = few_digits(200)
        file = tmp_path / "layers.toml"
        file.write_text('["head.*"]\ndigital = true\n["conv1.*"]\nnoise = "gaussian:0.05"\n')
        settings = dataclasses.replace(self.SETTINGS, layers=str(file))
        assert settings.identity(digits) != self.SETTINGS.identity(digits)
        assert settings == dataclasses.replace(self.SETTINGS, layers=LayerTable.of(file))
        run = fit(settings, tmp_path, splits=digits)
        assert read_checkpoint(run.checkpoint).about["settings"]["layers"] == str(LayerTable.of(file))
        file.unlink()
        own = evaluate(run, digits, "gaussian:0.3", draws=2)
        assert set(own.rows["analog"]) == {f"layers={settings.where.layers.digest}"}
        plain = fit(self.SETTINGS, tmp_path, splits=digits)
        assert not torch.equal(plain.network.conv1.conv.weight, run.network.conv1.conv.weight)

    def test_on_the_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file, kept = tmp_path / "layers.toml", tmp_path / "kept.toml"
        file.write_text('["conv*"]\nnoise = "laplace:0.1"\n')
        main(["train", *TINY, "--layers", str(file), "--out", str(tmp_path)])
        options = ["--draws", "1", "--images", "50", "--out", str(tmp_path / "rows.parquet")]
        main(["keep-digital", str(tmp_path), "--max-layers", "1", "--layers-out", str(kept), *options])
        out = capsys.readouterr().out
        assert "digital = true" in out
        table = LayerTable.of(kept)
        assert table.rows[0][1].noise == "laplace:0.1"
        main(["evaluate", str(tmp_path), "--layers", str(kept), *options])
        assert f"evaluated with layers={table.digest}" in capsys.readouterr().out


def small() -> nn.Module:
    with seeded(Stream(1, "small")):
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3, bias=False))


class TestBudgets:
    """The root that was found is checked on both of its sides by evaluations of their own."""

    DATA = X, small()(X).argmax(1)

    def lost(self, noise: str = "gaussian:0", **settings: Any) -> float:
        clean, noisy = (
            evaluate(small(), self.DATA, text, 2, **one).rows["value"].iloc[::2].mean()
            for text, one in (("gaussian:0", {}), (noise, settings))
        )
        return float(clean - noisy)

    def test_bits_of_the_adc(self) -> None:
        (bits,) = budget(small(), self.DATA, "io:adc={x}", (2, 10), within=5.0, draws=2).summary()["value"]
        over, under = (self.lost(chips=Chips(converters=f"io:adc={b:g}")) for b in (bits - 1, bits))
        assert under <= 5 < over

    def test_bits_of_one_layer(self) -> None:
        (bits,) = budget(small(), self.DATA, "0.*: quantize:{x}", (2, 8), within=2.0, draws=1).summary()["value"]
        over, under = (self.lost(where=Where(layers={"0.*": {"noise": f"quantize:{b:g}"}})) for b in (bits - 1, bits))
        assert under <= 2 < over

    def test_noise_of_the_converters_beside_noise_of_the_weights(self) -> None:
        found = budget(small(), self.DATA, "io:noise={x}", (0, 1), 10.0, draws=4, noise="gaussian:0.02", axis=COARSE)
        x = found.summary()["value"].iloc[0]
        assert 0 < x < 1
        assert set(found.rows.loc[found.rows["x"].notna(), "noise"]) == {"gaussian:0.02"}
        alone = budget(small(), self.DATA, "io:noise={x}", (0, 1), 10.0, draws=4, axis=COARSE)
        assert x < alone.summary()["value"].iloc[0]

    def test_ranges_of_conductances(self) -> None:
        """Of all layers and of one; the answer is searched to 2 %."""
        for vary in ("pcm:read=0,g_max={x}", "0.*: pcm:read=0,g_max={x}"):
            (x,) = budget(small(), self.DATA, vary, (0.5, 25), within=8.0, draws=2).summary()["value"]
            lost = []
            for g_max in (0.9 * x, 1.1 * x):
                own = {"g_max": g_max} if vary.startswith("pcm") else {"noise": "pcm:read=0", "g_max": g_max}
                table = {"*" if vary.startswith("pcm") else "0.*": own}
                noise = "pcm:read=0" if vary.startswith("pcm") else "gaussian:0"
                lost.append(self.lost(noise, where=Where(layers=table)))
            assert lost[1] <= 8 < lost[0]

    def test_sizes_of_tiles(self) -> None:
        """Of the noise and of the converters: more rows are easier where each ADC adds an error of its own."""
        noise = "gaussian:0.15,reference=tile,rows={x},columns=3"
        (rows,) = budget(small(), self.DATA, noise, (1, 16), within=26.0, draws=2).summary()["value"]
        lost = [self.lost(noise.replace("{x}", f"{n:g}")) for n in (rows, rows + 1)]
        assert lost[0] <= 26 < lost[1]
        io = "io:noise=0.1,reference=tile-column,rows={x}"
        (rows,) = budget(small(), self.DATA, io, (1, 16), within=8.0, draws=2).summary()["value"]
        lost = [self.lost(chips=Chips(converters=io.replace("{x}", f"{n:g}"))) for n in (rows - 1, rows)]
        assert lost[1] <= 8 < lost[0]

    @pytest.mark.parametrize(
        ("vary", "noise", "fragment"),
        [
            ("gaussian:{x}", "pcm", "expected no noise beside gaussian"),
            ("io:adc=8", None, "head.*: quantize"),
            ("0.*: nose:{x}", None, "nose"),
        ],
    )
    def test_refusals(self, vary: str, noise: str | None, fragment: str) -> None:
        with pytest.raises(UserError, match=re.escape(fragment)):
            budget(small(), self.DATA, vary, (2, 8), noise=noise)
