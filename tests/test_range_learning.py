"""Ranges of converters in training: which loss they learn of, and what averages of the weights make of them."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from methods import Failure, batch, few_digits, normed_net, sgd, smooth_net
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from noiserobust.analog.converters import Converters, Converting
from noiserobust.analog.ranges import InputRanges, TrainedRanges
from noiserobust.errors import UserError
from noiserobust.evaluation import Chips, evaluate
from noiserobust.models import DigitsNet
from noiserobust.models.modes import recalibrated
from noiserobust.storage.checkpoints import Checkpoint, read_checkpoint, save_checkpoint
from noiserobust.training import Engine, Method, Plain, Progress, TrainSettings, fit

IO = "io:dac=4,learnt=true"


def learning(model: nn.Module, start: float = 0.5, **more: Any) -> Engine:
    """An engine whose ranges begin at ``start`` and learn from the first step on."""
    engine = sgd(model, lr=0.1, converters=IO, input_ranges="learnt:batches=1,decay=0.0", **more)
    for ranges in engine.periphery.ranges:
        ranges.batches = 1
        ranges.inputs.data.fill_(start)
    return engine


def ranges_of(engine: Engine) -> list[Tensor]:
    return [ranges.inputs.detach().clone() for ranges in engine.periphery.ranges]


def gradients_at(engine: Engine) -> list[Tensor]:
    """The ranges' gradients at the weights as they are now, taken on a twin of the network."""
    twin = copy.deepcopy(engine.model)
    converting = Converting(twin, Converters.parse(IO), training=InputRanges(decay=0.0))
    found = []
    for layer, ranges in zip(converting.layers, engine.periphery.ranges, strict=True):
        own = layer.crossbars[0].ranges
        assert isinstance(own, TrainedRanges)
        own.load_state_dict(ranges.state_dict())
        found.append(own)
    part = batch(dtype=torch.float64)
    with converting.applied(engine.stream()):
        nn.functional.cross_entropy(twin(part.inputs), part.labels).backward()
    return [own.inputs.grad for own in found if own.inputs.grad is not None]


@pytest.mark.parametrize(
    ("rule", "clean"),
    [
        ("plain", 1.0),
        ("sam:0.5", 0.0),
        ("sam:0.5,alpha=0.3", 0.3),
        ("f-sam:0.5", 0.0),
        ("gsam:0.5", 0.0),
        ("looksam:0.5", 0.0),
        ("g-rst:sam(0.5),p=1.0,a=2.0", -1.0),
        ("g-rst:gsam(0.5),p=1.0,a=0.6", 0.4),
        ("arwp-mixed:0.3,alpha=0.3,batches=same", 0.3),
        ("rwp-mixed:0.3,alpha=0.3,batches=same", 0.3),
    ],
)
def test_ranges_learn_of_every_pass_by_its_weight(rule: str, clean: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the rule does to the weights' gradients."""
    engine = learning(smooth_net())
    passes: list[list[Tensor]] = []
    applied = engine.periphery.converting.applied

    def watched(stream: Any) -> Any:
        passes.append(gradients_at(engine))
        return applied(stream)

    monkeypatch.setattr(engine.periphery.converting, "applied", watched)
    before = ranges_of(engine)
    Method.parse(rule).step(engine, batch(dtype=torch.float64), Progress(0, 4))
    assert len(passes) == 1 + (rule != "plain")
    for number, (old, new) in enumerate(zip(before, ranges_of(engine), strict=True)):
        first, last = passes[0][number], passes[-1][number]
        expected = clean * first + (1 - clean) * last
        assert abs(expected) > 1e-5
        torch.testing.assert_close(old - new, 0.1 * expected, rtol=1e-4, atol=1e-8)


def test_a_step_that_fails_leaves_nothing_to_ranges() -> None:
    """A first pass that counted is forgotten with the step."""
    engine, other = learning(smooth_net()), learning(smooth_net())
    rule = Method.parse("arwp-mixed:0.3,alpha=0.3,batches=same")
    with suppress(Failure), engine.stepping(Progress(0, 4)):
        engine.gradient(batch(dtype=torch.float64), weight=0.3)
        engine.take(share=1.0)
        raise Failure
    for one in (engine, other):
        rule.step(one, batch(dtype=torch.float64), Progress(0, 4))
    for mine, theirs in zip(ranges_of(engine), ranges_of(other), strict=True):
        assert torch.equal(mine, theirs)


def test_an_average_has_the_average_of_its_ranges() -> None:
    engine, seen = learning(smooth_net(), average="ema:0.8"), []
    theirs: AveragedModel | None = None
    held = nn.ParameterList(ranges.inputs for ranges in engine.periphery.ranges)
    for step in range(4):
        Plain().step(engine, batch(step=step, dtype=torch.float64), Progress(step, 4))
        theirs = theirs or AveragedModel(held, multi_avg_fn=get_ema_multi_avg_fn(0.8))
        theirs.update_parameters(held)
        seen.append(ranges_of(engine))
    assert theirs is not None
    with engine.kept():
        for mine, right in zip(ranges_of(engine), theirs.module.parameters(), strict=True):
            torch.testing.assert_close(mine, right.detach())
        assert engine.ranges != {}
        described = [one["inputs"] for layer in engine.ranges.values() for one in layer]
        assert described == [pytest.approx(one.item()) for one in theirs.module.parameters()]
    for mine, last in zip(ranges_of(engine), seen[-1], strict=True):
        assert torch.equal(mine, last)


def test_batch_norm_of_an_average_sees_the_converters() -> None:
    model = normed_net()
    engine = learning(model, average="ema:0.5")
    for step in range(3):
        Plain().step(engine, batch(step=step), Progress(step, 4))
    batches = [batch(step=step) for step in (7, 8)]
    with engine.kept():
        with engine.periphery.evaluated(engine.stream("any")), recalibrated(model, batches):
            right = [buffer.clone() for buffer in model.buffers()]
        with recalibrated(model, batches):
            digital = [buffer.clone() for buffer in model.buffers()]
    with engine.kept(batches):
        for mine, theirs in zip(model.buffers(), right, strict=True):
            torch.testing.assert_close(mine, theirs)
    assert any(not torch.allclose(a.float(), b.float()) for a, b in zip(right, digital, strict=True))


def test_a_run_keeps_the_average_of_its_ranges(tmp_path: Path) -> None:
    """The checkpoint's ranges move with the decay, and those of the run without an average are its own."""
    common: dict[str, Any] = {"model": DigitsNet(2), "epochs": 3, "batch_size": 32, "select_on": "none", "lr": 0.5}
    common |= {"converters": IO, "input_ranges": "learnt:batches=1,decay=0.2", "validation": 0.0}
    found = {}
    for average in (None, "ema:0.0", "ema:0.9"):
        run = fit(TrainSettings(**common, average=average), tmp_path, splits=few_digits(100))
        about = read_checkpoint(run.checkpoint).about
        found[average] = [one["inputs"] for layer in about["ranges"].values() for one in layer]
    assert found["ema:0.0"] == pytest.approx(found[None])
    assert all(abs(a - b) > 1e-3 for a, b in zip(found["ema:0.9"], found[None], strict=True))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    settings = TrainSettings(model="digits:8", epochs=1, select_draws=1, converters=IO)
    return read_checkpoint(fit(settings, tmp_path_factory.mktemp("runs")).checkpoint)


def with_first(checkpoint: Checkpoint, ranges: Any, path: Path) -> Path:
    """A copy whose first layer has other ranges."""
    known = checkpoint.about["ranges"]
    return save_checkpoint(
        path, checkpoint.weights, {**checkpoint.about, "ranges": {**known, next(iter(known)): ranges}}
    )


@pytest.mark.parametrize(
    "ranges",
    ["abc", 3, [1], {"inputs": 1}, []]
    + [[{"inputs": value, "outputs": None}] for value in (None, True, "x", [1.0], -1.0, float("nan"), 10**400, 1e300)]
    + [[{"inputs": 1.0, "outputs": value}] for value in (True, "x", [], [1.0], [1.0] * 3, [[1.0]] * 8, [True] * 8)]
    + [[{"inputs": 1.0}], [{"inputs": 1.0, "outputs": None}] * 2],
    ids=str,
)
def test_stored_ranges_that_fit_no_layer_are_refused(ranges: Any, trained: Checkpoint, tmp_path: Path) -> None:
    spoilt = with_first(trained, ranges, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"expected finite ranges >= 0 of conv1\.conv\.weight"):
        evaluate(str(spoilt), "digits", "gaussian:0.05", draws=1, images=20, chips=Chips(converters=IO))


@pytest.mark.parametrize("target", [None, 5.0])
def test_rows_of_other_ranges_are_not_taken(target: float | None, trained: Checkpoint, tmp_path: Path) -> None:
    def values(reach: float, out: Path) -> list[float]:
        copy = with_first(trained, [{"inputs": reach, "outputs": None}], tmp_path / f"{reach}.safetensors")
        rows = evaluate(
            str(copy),
            "digits",
            "gaussian:0.05",
            2,
            images=200,
            chips=Chips(converters=IO),
            out=out,
            precision_target=target,
        ).rows
        return rows["value"].tolist()

    first, other = (values(reach, tmp_path / f"{reach}.parquet") for reach in (3.0, 1e-3))
    assert first != other
    together = tmp_path / "both.parquet"
    assert [values(reach, together) for reach in (3.0, 1e-3, 1e-3, 3.0)] == [first, other, other, first]
