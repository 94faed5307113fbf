"""Which weights are analog is one value, in training as in evaluation; a checkpoint remembers it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import architectures
import pytest
import torch
from commands import TINY
from methods import few_digits
from torch import Tensor, nn

from noiserobust import UserError, Where, evaluate, keep_digital, sensitivity
from noiserobust.analog.filters import filter_noise
from noiserobust.cli import main
from noiserobust.data import Batch, Splits
from noiserobust.evaluation import Stop
from noiserobust.noise import Gaussian
from noiserobust.rng import Stream
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.training import ASAM, RWP, Engine, Method, Progress, Run, TrainSettings, fit

WHERE = Where(include=["*.kernel@1"], exclude=["2.weight"])


class Kernel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Kernel(), nn.Tanh(), nn.Linear(8, 4), nn.Linear(4, 3))


def moved(method: Method, where: Where) -> dict[str, Tensor]:
    """What the step's perturbation adds to each weight."""
    model, x = net(), torch.randn(16, 6)
    engine = Engine(model, torch.optim.SGD(model.parameters(), 0.1), where=where)
    clean = {name: p.detach().clone() for name, p in model.named_parameters()}
    seen: dict[str, Tensor] = {}

    def look(*_: object) -> None:
        seen.update({name: p.detach() - clean[name] for name, p in model.named_parameters()})

    last = model[3].register_forward_hook(look)
    method.step(engine, Batch(x, torch.arange(16) % 3), Progress(1, 9))
    last.remove()
    return seen


class TestRules:
    @pytest.mark.parametrize("method", [RWP(Gaussian(0.1)), ASAM(0.5, perturb="analog")], ids=["rwp", "asam"])
    def test_what_is_analog_is_perturbed(self, method: Method) -> None:
        touched = {name for name, step in moved(method, WHERE).items() if step.any()}
        assert touched == {"0.kernel", "3.weight"}
        touched = {name for name, step in moved(method, Where()).items() if step.any()}
        assert touched == {"2.weight", "3.weight"}

    def test_filters_lie_along_the_axis_that_was_named(self) -> None:
        """Mixed RWP's noise of a weight is as large as its filters: those of outputs, where the axis is known."""
        model, stream = net(), Stream(0, "filters")
        engine = Engine(model, torch.optim.SGD(model.parameters(), 0.1), where=WHERE)
        noise = dict(zip(engine.weights.names, filter_noise(engine.weights, 0.1, stream), strict=True))
        kernel = model[0].kernel.detach()
        field = stream.child("0.kernel").normal((8, 6))
        torch.testing.assert_close(noise["0.kernel"], 0.1 * kernel.norm(dim=0) * field.T)

    def test_clipping_leaves_digital_weights_alone(self) -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        engine = Engine(model, optimizer, weight_clip=1.1, where=WHERE)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        engine.gradient(Batch(torch.randn(4, 6), torch.arange(4) % 3))
        engine.commit()
        clipped = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert clipped == {"0.kernel", "3.weight"}

    @pytest.mark.filterwarnings("default")
    def test_rwp_perturbs_all_matrices_of_gpt2(self) -> None:
        model, _ = architectures.language("GPT2")
        engine = Engine(model, torch.optim.SGD(model.parameters(), 0.1))
        assert len(engine.weights.noisy.weights) == 9
        clean = {weight.name: weight.parameter.detach().clone() for weight in engine.weights.noisy.weights}
        with engine.perturbed(RWP(Gaussian(0.1)).perturbation(Progress(0, 9)), 0):
            for weight in engine.weights.noisy.weights:
                if not weight.tied:
                    rows = weight.as_rows(weight.parameter.detach() - clean[weight.name])
                    scale = weight.as_rows(clean[weight.name]).abs().amax(1)
                    assert (rows / scale[:, None]).std().item() == pytest.approx(0.1, rel=0.1)


DIGITS = TrainSettings(epochs=1, batch_size=200, model="digits:4", method="rwp:gaussian(0.3)", select_draws=1)
HEAD = dataclasses.replace(DIGITS, exclude=["head.*"])


@pytest.fixture(scope="module")
def digits() -> Splits:
    return few_digits(200)


@pytest.fixture(scope="module")
def run(digits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(HEAD, tmp_path_factory.mktemp("runs"), splits=digits)


class TestRuns:
    def test_names_have_patterns_where_there_are_some(self, digits: Splits) -> None:
        name = DIGITS.identity(digits)
        assert dataclasses.replace(DIGITS, exclude=()).identity(digits) == name
        assert dataclasses.replace(DIGITS, exclude="none").identity(digits) == name
        further = dataclasses.replace(DIGITS, exclude="head.* conv1.*")
        assert len({name, HEAD.identity(digits), further.identity(digits)}) == 3
        assert dataclasses.replace(DIGITS, exclude="head.*") == HEAD

    def test_the_log_looks_at_the_analog_weights(self, run: Run) -> None:
        weights = read_checkpoint(run.checkpoint).weights
        analog = [weights[f"{name}.weight"] for name in ("conv1.conv", "conv2.conv", "conv3.conv")]
        assert run.log["max_weight"].iloc[-1] == pytest.approx(max(w.abs().max().item() for w in analog))
        ratios = [(w.abs().max() / w.square().mean().sqrt()).item() for w in analog]
        assert run.log["max_over_rms"].iloc[-1] == pytest.approx(sum(ratios) / 3)

    def test_a_checkpoint_is_evaluated_as_it_was_trained(self, run: Run, digits: Splits) -> None:
        own = evaluate(run, digits, draws=2)
        assert set(own.rows["analog"]) == {"-head.*"}
        assert "as it was trained: -head.*" in next(iter(own.coverage.values())).summary
        named = evaluate(run, digits, draws=2, where=Where(exclude=["head.*"]))
        assert own.rows["value"].tolist() == named.rows["value"].tolist()
        whole = evaluate(run, digits, draws=2, where=Where(exclude=["none"]))
        assert set(whole.rows["analog"]) == {""}
        (seen,) = whole.coverage.values()
        assert "trained with -head.*, evaluated with every layer as it is" in seen.summary
        bare = evaluate({"rwp:gaussian(0.3)": run.network}, digits, draws=2)
        assert whole.rows["value"].tolist() == pytest.approx(bare.rows["value"].tolist())
        assert whole.rows["value"].tolist() != own.rows["value"].tolist()

    def test_a_design_starts_from_there(self, run: Run, digits: Splits) -> None:
        found = sensitivity(run, digits, "gaussian:0.3", draws=2).summary()
        assert "head.weight" not in set(found["layer"])
        everything = sensitivity(run, digits, "gaussian:0.3", draws=2, where=Where(exclude=["none"])).summary()
        assert "head.weight" in set(everything["layer"])
        kept = keep_digital(run, digits, "gaussian:0.3", draws=2, stop=Stop(max_layers=1))
        assert list(kept.where().exclude)[:1] == ["head.*"]

    def test_a_pattern_without_a_weight_is_refused_before_training(self, digits: Splits, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="pattern that matches a parameter, got 'heat"):
            fit(dataclasses.replace(DIGITS, exclude=["heat.*"]), tmp_path, splits=digits)

    def test_on_the_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main(["train", *TINY, "--exclude", "head.*", "conv3.*", "--out", str(tmp_path)])
        about = read_checkpoint(next(tmp_path.glob("*/model.safetensors"))).about
        assert about["settings"]["exclude"] == ["head.*", "conv3.*"]
        capsys.readouterr()
        rows = ["--draws", "1", "--out", str(tmp_path / "rows.parquet")]
        main(["evaluate", str(tmp_path), *rows])
        assert "as it was trained: -head.* -conv3.*" in capsys.readouterr().out
        main(["evaluate", str(tmp_path), "--exclude", "none", *rows])
        assert "trained with -head.* -conv3.*, evaluated with every layer as it is" in capsys.readouterr().out
