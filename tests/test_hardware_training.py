"""Converters in training: gradients and ranges against formulas and aihwkit, steps against loops, runs and rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from methods import few_digits
from torch import Tensor, nn

from noiserobust import UserError, evaluate
from noiserobust.analog.converters import Converters, Converting
from noiserobust.analog.noisy import NoisyWeights
from noiserobust.analog.ranges import InputRanges, TrainedRanges
from noiserobust.data import Batch, Splits
from noiserobust.evaluation import Chips
from noiserobust.noise import NoiseModel
from noiserobust.rng import Stream, seeded
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.training import Engine, Method, Progress, Run, TrainSettings, fit

IO = "io:dac=4,adc=6,noise=0.02,bound=3.0"
STREAM = Stream(5, "test", "hardware")


def normal(name: str, *shape: int) -> Tensor:
    return Stream(0, "values", name).normal(shape).double()


def linear(inputs: int = 20, outputs: int = 10) -> nn.Linear:
    layer = nn.Linear(inputs, outputs).double()
    with torch.no_grad():
        layer.weight.copy_(normal("weight", outputs, inputs) / 4)
        layer.bias.copy_(normal("bias", outputs))
    return layer


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    with seeded(Stream(0, "net")):
        layers = nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 6), nn.Tanh(), nn.Linear(6, 3)
        return nn.Sequential(*layers).to(dtype)


def batch(step: int = 0, count: int = 12, dtype: torch.dtype = torch.float32) -> Batch:
    return Batch(Stream(0, "x", step).normal((count, 1, 8, 8)).to(dtype), torch.arange(count) % 3)


def engine(model: nn.Module, converters: str, **more: Any) -> Engine:
    return Engine(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), converters=converters, **more)


def parameters(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def in_training(layer: nn.Module, converters: str, a: float | None = None) -> tuple[Converting, TrainedRanges]:
    converting = Converting(layer, Converters.parse(converters), training=InputRanges())
    ranges = converting.layers[0].crossbars[0].ranges
    assert isinstance(ranges, TrainedRanges)
    if a is not None:
        ranges.inputs.data.fill_(a)
    return converting, ranges


class TestOneLayer:
    """aihwkit-lightning's formulas, written here once more, and aihwkit itself."""

    A = 1.5

    def lightning(self, layer: nn.Linear, x: Tensor, d: Tensor, bound: float) -> tuple[Tensor, ...]:
        """Outputs, and the gradients of x, W and a for the outputs' gradient d: 4 bits in, 6 out, s = max|W|."""
        a, s, W = torch.tensor(self.A, dtype=x.dtype), layer.weight.detach().abs().max(), layer.weight.detach()
        clipped = x.clamp(-a, a)
        held = (clipped * 7 / a).round() * a / 7
        limit = bound * a * s
        sums = ((held @ W.T) * 31 / limit).round() * limit / 31
        out = sums.clamp(-limit, limit)
        beyond = sums.abs() > limit * (1 + 1e-9)
        kept = d * ~beyond
        of_held = kept @ W
        of_a = a * (of_held[x >= a].clamp(max=0).sum() - of_held[x <= -a].clamp(min=0).sum())
        of_a = of_a + (d * sums.sign() * beyond).sum() * bound * s
        return out + layer.bias.detach(), of_held * (x.abs() <= a), kept.T @ held, of_a

    @pytest.mark.parametrize("bound", [1.0, 12.0])
    def test_forward_and_gradients(self, bound: float) -> None:
        layer, d = linear(), normal("d", 30, 10)
        x = 1.2 * normal("x", 30, 20)
        x[0, :2] = torch.tensor([self.A, -self.A])  # at the very end of the range
        x.requires_grad_()
        converting, ranges = in_training(layer, f"io:dac=4,adc=6,bound={bound},reference=layer,learnt=true", self.A)
        with converting.applied(STREAM):
            y = layer(x)
        y.backward(d)
        expected = self.lightning(layer, x.detach(), d, bound)
        for found, right in zip((y, x.grad, layer.weight.grad, ranges.inputs.grad), expected, strict=True):
            assert found is not None
            torch.testing.assert_close(found.detach(), right.to(found.dtype), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(layer.bias.grad, d.sum(0))

    @pytest.mark.parametrize(("kind", "bound"), [("InferenceRPUConfig", 50.0), ("TorchInferenceRPUConfig", 1.0)])
    def test_aihwkit(self, kind: str, bound: float) -> None:
        configs = pytest.importorskip("aihwkit.simulator.configs", exc_type=ImportError)
        enums = pytest.importorskip("aihwkit.simulator.parameters.enums", exc_type=ImportError)
        nn_ = pytest.importorskip("aihwkit.nn", exc_type=ImportError)
        config = getattr(configs, kind)()
        io, mapping, learning = config.forward, config.mapping, config.pre_post.input_range
        io.inp_res, io.out_res, io.inp_bound, io.out_bound, io.out_noise = 1 / 14, 1 / 62, 1.0, bound, 0.0
        io.noise_management, io.bound_management = enums.NoiseManagementType.NONE, enums.BoundManagementType.NONE
        mapping.weight_scaling_omega, mapping.max_input_size, mapping.max_output_size = 0.0, 0, 0
        learning.enable, learning.init_from_data, learning.init_value, learning.decay = True, 0, self.A, 0.0
        theirs, ours = nn_.AnalogLinear(20, 10, rpu_config=config), linear().float()
        with torch.no_grad():
            ours.weight /= ours.weight.abs().max()
        theirs.set_weights(ours.weight.detach(), ours.bias.detach())
        x, d = 1.2 * normal("x", 30, 20).float(), normal("d", 30, 10).float()
        mine, yours = x.clone().requires_grad_(), x.clone().requires_grad_()
        converting, ranges = in_training(ours, f"io:dac=4,adc=6,bound={bound},reference=layer,learnt=true", self.A)
        with converting.applied(STREAM):
            y = ours(mine)
        y.backward(d)
        their_y = theirs(yours)
        their_y.backward(d)
        torch.testing.assert_close(y, their_y, rtol=1e-5, atol=1e-5)
        (tile,) = theirs.analog_tiles()
        right = tile.input_range.grad[0]
        if kind.startswith("Torch"):
            # Its inputs are divided by a and its outputs multiplied, which adds what a has to do with the rounding.
            torch.testing.assert_close(mine.grad, yours.grad)
            with torch.no_grad():
                exact, limit = x.clamp(-self.A, self.A) @ ours.weight.T, bound * self.A
                held = (x.clamp(-self.A, self.A) * 7 / self.A).round() * self.A / 7
                inside = (held @ ours.weight.T).abs() * 31 / limit < 31.5
                right = right - (d * (y - ours.bias - exact) / self.A * inside).sum()
        torch.testing.assert_close(ranges.inputs.grad, right, rtol=1e-3, atol=1e-2)

    def test_nothing_passes_where_fixed_ranges_saturate(self) -> None:
        layer, x = linear(), normal("x", 30, 20).requires_grad_()
        converting = Converting(layer, Converters(4, 6, percentile=80.0), calibration=[x.detach()])
        with converting.applied(STREAM):
            layer(x).sum().backward()
        ranges = converting.layers[0].crossbars[0].ranges
        assert ranges is not None
        assert x.grad is not None
        assert torch.equal(x.grad == 0, x.detach().abs() > ranges.inputs)


class TestLearning:
    def test_the_start_is_a_running_mean_and_zeros_teach_nothing(self) -> None:
        layer, xs = linear(), [normal(f"x{k}", 9, 20) * (k + 1) for k in range(4)]
        converting, ranges = in_training(layer, "io:dac=4,adc=6,learnt=true")
        ranges.how = InputRanges(std=2.0, batches=3)
        for x in (xs[0], torch.zeros(9, 20).double(), xs[1]):
            ranges.observes = True
            with converting.applied(STREAM):
                layer(x)
        mean = (2 * xs[0].std() * 2 + 2 * xs[1].std()) / 3  # the batch of zeros left it as it was
        assert ranges.inputs.item() == pytest.approx(float(mean), rel=1e-6)
        with converting.applied(STREAM):
            layer(xs[2])
        assert ranges.inputs.item() == pytest.approx(float(mean), rel=1e-6)

    @pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "Rprop"])
    def test_the_step_of_a_range(self, optimizer: str) -> None:
        """g with its pull, by an optimizer of the same kind at the same rate, without weight decay."""
        model, rate = net(torch.float64), 0.1
        kind: Any = getattr(torch.optim, optimizer)
        own = kind(model.parameters(), lr=rate, **({} if optimizer == "Rprop" else {"weight_decay": 0.3}))
        held = Engine(
            model, own, converters="io:dac=4,learnt=true", input_ranges="learnt:batches=1,decay=0.7,inside=0.5"
        )
        ranges = held.periphery.ranges
        for step in range(3):
            twins = [ranges_.inputs.detach().clone().requires_grad_() for ranges_ in ranges]
            if step == 0:
                twin = kind(twins, lr=rate, **({} if optimizer == "Rprop" else {"weight_decay": 0.0}))
                kept = twins
            data = batch(step, dtype=torch.float64)
            converting = Converting(model, Converters(4, learnt=True), training=InputRanges(batches=1))
            seen = [layer.crossbars[0].ranges for layer in converting.layers]
            for one, ranges_ in zip(seen, ranges, strict=True):
                assert isinstance(one, TrainedRanges)
                one.load_state_dict(ranges_.state_dict())
                one.observes = True
            with converting.applied(STREAM):
                loss = nn.functional.cross_entropy(model(data.inputs), data.labels)
            gradients = torch.autograd.grad(loss, [one.inputs for one in seen if one is not None])
            for kept_, one, gradient in zip(kept, seen, gradients, strict=True):
                assert isinstance(one, TrainedRanges)
                share = float(one.inside) / one.total
                if step == 0:
                    kept_.data.copy_(one.inputs)
                kept_.grad = gradient + 0.7 * one.inputs.detach() * (share > 0.5)
            twin.step()
            Method.parse("plain").step(held, data, Progress(step, 3))
            for ranges_, kept_ in zip(ranges, kept, strict=True):
                torch.testing.assert_close(ranges_.inputs, kept_, rtol=1e-6, atol=0)

    def test_loss_scaling_does_not_count(self) -> None:
        held = []
        for scale in (1.0, 2.0**10):
            model = net()
            scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            one = engine(model, "io:dac=4,adc=6,learnt=true", scaler=scaler)
            for step in range(3):
                Method.parse("sam:0.1").step(one, batch(step), Progress(step, 3))
            held.append(torch.stack([ranges.inputs.detach() for ranges in one.periphery.ranges]))
        torch.testing.assert_close(held[0], held[1], rtol=1e-5, atol=0)

    def test_a_skipped_step_leaves_ranges(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one = engine(net(), "io:dac=4,adc=6,learnt=true")
        monkeypatch.setattr(one, "_update", lambda: False)
        Method.parse("plain").step(one, batch(), Progress(0, 3))
        assert one.periphery.ranges[0].inputs.item() == pytest.approx(3 * float(batch().inputs.std()), rel=1e-6)


class TestSteps:
    @pytest.mark.parametrize("converters", [IO, "io:dac=4,adc=6,noise=0.02,reference=tile,rows=50,columns=50"])
    def test_against_a_loop(self, converters: str) -> None:
        """SAM: both passes through the converters of the clean weights, each with output noise of its own."""
        model, twin = net(torch.float64), net(torch.float64)
        data, one = batch(dtype=torch.float64), engine(model, converters, seed=3)
        Method.parse("sam:0.1").step(one, data, Progress(7, 9))
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
        converting = Converting(twin, Converters.parse(converters))
        clean = parameters(twin)
        for number in range(2):
            optimizer.zero_grad()
            with converting.applied(Stream(3, "train", "converters", 7, number)):
                nn.functional.cross_entropy(twin(data.inputs), data.labels).backward()
            gradients = [p.grad.clone() for p in twin.parameters() if p.grad is not None]
            norm = torch.cat([g.flatten() for g in gradients]).norm()
            with torch.no_grad():
                for p, g, w in zip(twin.parameters(), gradients, clean, strict=True):
                    p.copy_(w + 0.1 * g / norm if number == 0 else w)
        optimizer.step()
        for found, right in zip(parameters(model), parameters(twin), strict=True):
            torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("method", ["plain", "rwp:gaussian(0.1)", "gsam:0.1", "rwp-mixed:0.1"])
    @pytest.mark.parametrize("converters", [IO, f"{IO},learnt=true"])
    def test_micro_batches_are_the_batch(self, method: str, converters: str) -> None:
        held = []
        for parts in (1, 3):
            one = engine(net(torch.float64), converters, input_ranges="learnt:batches=1")
            for ranges in one.periphery.ranges:
                ranges.batches = 1  # a start from the first micro-batch alone would differ, as batch norm does
            for step in range(3):
                data = batch(step, dtype=torch.float64)
                Method.parse(method).step(one, data.split(parts) if parts > 1 else data, Progress(step, 3))
            ranges_now = [ranges.inputs.detach().clone() for ranges in one.periphery.ranges]
            held.append(parameters(one.model) + ranges_now)
        for whole, split in zip(*held, strict=True):
            torch.testing.assert_close(whole, split, rtol=1e-5, atol=1e-8)

    def test_compensation_comes_after_the_adc_and_its_gradient_is_that_without_converters(self) -> None:
        noise = NoiseModel.parse("pcm(t=1d)+compensate(global)")
        held = []
        for converters in ("none", "io:dac=24,adc=24"):
            model = net(torch.float64)
            rule = Method.parse("rwp:pcm(t=1d)+compensate(global)")
            rule.step(engine(model, converters), batch(dtype=torch.float64), Progress(0, 1))
            held.append(parameters(model))
        for plain, converted in zip(*held, strict=True):
            torch.testing.assert_close(plain, converted, rtol=1e-4, atol=1e-6)
        # With few bits the levels of the ADC are those of the drifted array, not of the compensated one.
        layer, x = linear(), normal("x", 30, 20)
        with NoisyWeights(layer).perturbed(noise, STREAM), torch.no_grad():
            folded = x @ layer.weight.T
            with Converting(layer, Converters(adc=4, bound=1.0, reference="layer")).applied(STREAM):
                seen = layer(x) - layer.bias
        steps = (seen / (x.abs().amax(1, keepdim=True) * linear().weight.abs().max() / 7)).detach()
        gain = steps.abs()[steps.abs() > 1e-9].min()
        assert gain > 1.2  # a factor of about 1.6 after a day
        torch.testing.assert_close(steps / gain, (steps / gain).round(), rtol=0, atol=1e-6)
        assert (seen - folded).abs().max() < 2 * gain

    def test_nothing_asked_is_the_step_without(self) -> None:
        held = []
        settings: list[dict[str, Any]] = [{}, {"converters": "none"}]
        for more in settings:
            model = net()
            one = Engine(model, torch.optim.SGD(model.parameters(), lr=0.05), **more)
            Method.parse("rwp:gaussian(0.1)").step(one, batch(), Progress(0, 1))
            held.append(parameters(model))
            assert "ranges" not in one.state_dict()
        assert all(map(torch.equal, *held))

    def test_layers_with_their_own(self) -> None:
        one = engine(net(), "none", where=_where({"3.weight": {"converters": "io:adc=4"}}))
        assert [layer.name for layer in one.periphery.converting.layers] == ["3.weight"]

    def test_refusals(self) -> None:
        for converters, fragment in [
            ("io:adc=8,learnt=true", "expected bits of the DAC"),
            ("io:dac=8,adc=8,percentile=99.0,ranges=column,learnt=true", "ranges=layer, to learn"),
        ]:
            with pytest.raises(UserError, match=fragment):
                engine(net(), converters)
        with pytest.raises(UserError, match="beside input_ranges"):
            TrainSettings(converters="io:dac=8", input_ranges="learnt:decay=0.1")
        with pytest.raises(UserError, match="expected std > 0"):
            engine(net(), "io:dac=8,learnt=true", input_ranges="learnt:std=0")


def _where(layers: Any) -> Any:
    from noiserobust.analog.where import Where

    return Where(layers=layers)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return few_digits(200)


def settings(**changes: Any) -> TrainSettings:
    given: dict[str, Any] = {"epochs": 2, "batch_size": 40, "model": "digits:4", "select_draws": 1}
    return TrainSettings(**given | changes)


LEARNT = "io:dac=5,adc=7,noise=0.05,learnt=true"
FIXED = "io:dac=5,adc=7,percentile=99.0,images=90"


@pytest.fixture(scope="module")
def runs(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    return {text: fit(settings(converters=text), folder, splits=splits) for text in (LEARNT, FIXED)}


class TestRuns:
    @pytest.mark.parametrize("converters", [LEARNT, FIXED])
    def test_resumed_bit_for_bit(self, converters: str, runs: dict[str, Run], splits: Splits, tmp_path: Path) -> None:
        def stop(line: dict[str, Any]) -> None:
            if line["epoch"] == 0:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(settings(converters=converters), tmp_path, splits=splits, on_epoch=stop)
        again = fit(settings(converters=converters), tmp_path, splits=splits)
        first, second = (read_checkpoint(run.checkpoint) for run in (runs[converters], again))
        assert first.digest == second.digest
        assert first.about["ranges"] == second.about["ranges"]
        assert len(first.about["ranges"]) == 4

    def test_a_run_without_is_named_as_ever(self, splits: Splits, tmp_path: Path) -> None:
        assert settings().identity(splits) == settings(converters="none", input_ranges=None).identity(splits)
        assert settings(converters=IO).identity(splits) != settings().identity(splits)
        assert settings(converters=LEARNT).label == f"plain, {LEARNT}"

    def test_evaluation_has_the_ranges_of_training(self, runs: dict[str, Run], splits: Splits) -> None:
        """Where it has the same converters, or converters that are learnt; and says so."""
        for text, run in runs.items():
            rows = {}
            for ranges in ("trained", "new"):
                if ranges == "new" and "learnt" in text:
                    continue
                result = evaluate(run, splits, "gaussian:0", 1, chips=Chips(converters=text, ranges=ranges))
                rows[ranges] = result.rows
                (told,) = result.ranges.values()
                assert told.endswith("4 layers " + ("found in training" if ranges == "trained" else "calibrated now"))
            named = text if "learnt" in text else f"{text},learnt=true"
            assert set(rows["trained"]["converters"]) == {named}
            if "new" in rows:
                assert set(rows["new"]["converters"]) == {text}
                values = [rows[how].set_index("metric")["value"]["loss"] for how in rows]
                assert values[0] != values[1]

    def test_the_log_is_what_evaluation_finds(self, runs: dict[str, Run], splits: Splits) -> None:
        run = runs[FIXED]
        held_out = splits.train.split(run.settings.validation, Stream(0, "validation"))[1]
        kept = read_checkpoint(run.checkpoint).about["log"]
        rows = evaluate(
            run, Splits(splits.train, held_out), "gaussian:0", 1, chips=Chips(converters=FIXED)
        ).rows.set_index("metric")["value"]
        assert rows["loss"] == pytest.approx(kept["loss"], rel=1e-4)

    def test_refusals(self, runs: dict[str, Run], splits: Splits) -> None:
        plain = net()
        data = batch().inputs, batch().labels
        cases: list[tuple[Any, Any, Chips, str]] = [
            (plain, data, Chips(converters=LEARNT), "expected ranges of 0.weight that training found"),
            (runs[LEARNT], splits, Chips(converters=LEARNT, ranges="new"), "expected ranges of"),
            (plain, data, Chips(ranges="old"), "expected ranges trained or new"),
            (plain, data, Chips(converters=LEARNT, ranges={"0.weight": [{"inputs": -1}]}), "expected finite ranges"),
        ]
        for model, given, chips, fragment in cases:
            with pytest.raises(UserError, match=fragment):
                evaluate(model, given, "gaussian:0", 1, chips=chips)

    def test_ranges_of_ones_own_loop(self) -> None:
        model = net()
        one = engine(model, "io:dac=4,adc=6,learnt=true")
        Method.parse("plain").step(one, batch(), Progress(0, 1))
        chips = Chips(converters="io:dac=4,adc=6,learnt=true", ranges=one.ranges)
        assert len(evaluate(model, (batch().inputs, batch().labels), "gaussian:0", 1, chips=chips).rows) == 2
