"""A teacher's term in the loss: against loops written from its equation, with every rule, in whole runs."""

import copy
import importlib
import math
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch
from methods import METHODS
from torch import nn
from torch.nn import functional

from noiserobust import UserError
from noiserobust.data import Batch, load
from noiserobust.errors import Diverged
from noiserobust.storage.checkpoints import find_checkpoints, read_checkpoint
from noiserobust.training import Engine, Method, Plain, Progress, Teacher, TrainSettings, fit, load_run
from noiserobust.training.estimates import expected_seconds
from noiserobust.training.runs import run_of

AT = Progress(0, 10, 6, 10)
WEIGHT, TAU = 0.7, 3.0


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
    return nn.Sequential(*layers).double()


def batch(samples: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, 1, 4, 4, generator=generator, dtype=torch.float64)
    return Batch(inputs, torch.randint(4, (samples,), generator=generator), torch.arange(samples))


def engine(model: nn.Module, teacher: nn.Module, weight: float = WEIGHT, tau: float = TAU) -> Engine:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Engine(model, optimizer, samples=12, classes=4, teacher=Teacher(teacher, weight, tau))


def written_out(model: nn.Module, teacher: nn.Module, data: Batch, weight: float, tau: float) -> torch.Tensor:
    """The mean loss, from the equation: sum p log(p / q), by torch's own KL of distributions."""
    with torch.no_grad():
        theirs = torch.distributions.Categorical(logits=copy.deepcopy(teacher).eval()(data.inputs) / tau)
    logits = model(data.inputs)
    divergence = torch.distributions.kl_divergence(theirs, torch.distributions.Categorical(logits=logits / tau))
    own = -functional.log_softmax(logits, 1)[torch.arange(len(data)), data.labels]
    return ((1 - weight) * own + weight * tau**2 * divergence).mean()


@pytest.mark.parametrize("weight", [0.3, 1.0])
@pytest.mark.parametrize("rule", ["plain", "sam:0.4"])
def test_step_is_that_of_a_loop_from_the_equation(rule: str, weight: float) -> None:
    model, teacher, data = network(0), network(1), batch()
    twin = copy.deepcopy(model)
    out = Method.parse(rule).step(engine(model, teacher, weight), data, AT)

    loss = written_out(twin, teacher, data, weight, TAU)
    torch.testing.assert_close(out.loss, loss.detach(), rtol=1e-12, atol=0)
    gradients = torch.autograd.grad(loss, list(twin.parameters()))
    if rule.startswith("sam"):
        length = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        climbed = copy.deepcopy(twin)
        with torch.no_grad():
            for parameter, g in zip(climbed.parameters(), gradients, strict=True):
                parameter.add_(g, alpha=0.4 / length)
        gradients = torch.autograd.grad(written_out(climbed, teacher, data, weight, TAU), list(climbed.parameters()))
    for parameter, before, g in zip(model.parameters(), twin.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), before.detach() - 0.1 * g, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("text", METHODS)
def test_every_rule_takes_a_teacher_and_leaves_it_as_it_was(text: str) -> None:
    rule = Method.parse(text)
    model, teacher = network(0), network(1).train()
    alone = copy.deepcopy(model)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    rule.step(engine(model, teacher), batch(), AT)
    rule.step(Engine(alone, torch.optim.SGD(alone.parameters(), lr=0.1), samples=12, classes=4), batch(), AT)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(module.training for module in teacher.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_teacher_answers_once_a_batch_and_anew_for_the_next() -> None:
    teacher, calls = network(1), []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    student = engine(network(0), teacher)
    for step in range(3):  # SAM makes two passes a step
        Method.parse("sam:0.1").step(student, batch(), Progress(step, 3))
    assert len(calls) == 3


def test_micro_batches_give_the_whole_batch() -> None:
    model, teacher = network(0).eval(), network(1)
    twin = copy.deepcopy(model)
    Plain().step(engine(model, teacher), batch().split(3), AT)
    Plain().step(engine(twin, teacher), batch(), AT)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_an_equal_teacher_with_all_the_weight_teaches_nothing() -> None:
    model = network(0).eval()
    before = copy.deepcopy(model)
    Plain().step(engine(model, copy.deepcopy(model), weight=1.0), batch(), AT)
    for one, other in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("weight", "tau"), [(0.0, 2.0), (1.5, 2.0), (math.nan, 2.0), (0.5, 0.0), (0.5, math.inf)])
def test_meaningless_weights_and_temperatures_are_refused(weight: float, tau: float) -> None:
    with pytest.raises(UserError, match="expected a"):
        Teacher(network(0), weight, tau)
    with pytest.raises(UserError, match="expected a"):
        TrainSettings(teacher="there", teacher_weight=weight, temperature=tau)


def test_teacher_of_the_trained_weights_and_tasks_without_logits_are_refused() -> None:
    model = network(0)
    with pytest.raises(UserError, match=r"weights of its own.*deepcopy"):
        engine(model, model)
    regression = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(regression.parameters(), lr=0.1)
    asked = Engine(regression, optimizer, task="regression", teacher=Teacher(nn.Linear(3, 2)))
    with pytest.raises(UserError, match="logits of probabilities, got regression"):
        Plain().step(asked, Batch(torch.randn(4, 3), torch.randn(4, 2)), AT)


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    few = load("digits")
    few = replace(few, train=few.train.subset(range(256)), test=few.test.subset(range(64)))
    settings = TrainSettings(epochs=2, batch_size=64, select_on="none")
    return few, settings, fit(settings, tmp_path_factory.mktemp("runs"), splits=few)


def test_run_learns_from_a_checkpoint_and_resumes_bit_for_bit(teacher_run: tuple, tmp_path) -> None:
    few, settings, teacher = teacher_run
    taught = replace(settings, seed=1, method="rwp:gaussian(0.1)", teacher=str(teacher.folder), temperature=4)
    whole = fit(taught, tmp_path / "whole", splits=few)
    assert whole.label == "rwp:gaussian(0.1), distilled 0.5 tau 4"
    with pytest.raises(KeyboardInterrupt):
        fit(taught, tmp_path / "cut", splits=few, on_epoch=_interrupt)
    again = fit(taught, tmp_path / "cut", splits=few)
    one, other = (read_checkpoint(run.checkpoint).digest for run in (whole, again))
    assert one == other
    alone = fit(replace(settings, seed=1, method="rwp:gaussian(0.1)"), tmp_path / "alone", splits=few)
    assert read_checkpoint(alone.checkpoint).digest != one
    assert not pd.Series(whole.log["train_loss"]).equals(alone.log["train_loss"])


def test_a_plain_teacher_is_trained_first_once_and_teaches_as_if_it_were_given(teacher_run: tuple, tmp_path) -> None:
    few, settings, _ = teacher_run
    noisy = {"method": "rwp:gaussian(0.1)", "weight_clip": 1.2, "average": "ema:0.9", "converters": "io:dac=6,adc=6"}
    taught = replace(settings, **noisy, teacher="plain", teacher_weight=0.9, log="path_length")
    assert taught.teacher_run == settings
    run = fit(taught, tmp_path, splits=few)
    plain = run_of(settings, tmp_path, few)
    assert {folder.name for folder in tmp_path.iterdir()} >= {run.folder.name, plain.folder.name}
    before = plain.checkpoint.stat().st_mtime_ns
    second = fit(replace(taught, weight_clip=1.5), tmp_path, splits=few)  # has the same teacher
    assert plain.checkpoint.stat().st_mtime_ns == before
    given = fit(replace(taught, teacher=str(plain.folder)), tmp_path / "given", splits=few)
    digests = [read_checkpoint(one.checkpoint).digest for one in (run, given, second)]
    assert digests[0] == digests[1] != digests[2]
    assert load_run(run.folder).settings == taught
    # Other weights of the teacher are another run.
    assert taught.identity(few) != replace(taught, lr=0.01).identity(few)
    assert expected_seconds(taught, few) > expected_seconds(settings, few)


def test_a_teacher_that_diverges_is_said_as_the_teacher(teacher_run: tuple, tmp_path) -> None:
    few, settings, _ = teacher_run
    taught = replace(settings, method="rwp:gaussian(0.1)", teacher="plain", lr=1e4)
    with pytest.raises(Diverged, match=r"the teacher that rwp.* asks for .* its plain training diverged in epoch 0"):
        fit(taught, tmp_path, splits=few)
    assert taught.teacher_run is not None
    said = {run: run_of(run, tmp_path, few).failure.read_text() for run in (taught, taught.teacher_run)}
    assert said[taught].startswith("the teacher that rwp")
    assert said[taught].endswith("--teacher CHECKPOINT\n")
    assert said[taught.teacher_run].startswith("training diverged in epoch 0")
    assert "strength" not in said[taught.teacher_run]  # plain training has none
    with pytest.raises(UserError, match=r"expected a finished run, got .* the teacher that rwp"):
        find_checkpoints([str(run_of(taught, tmp_path, few).folder)])


def test_runs_name_depends_on_the_teachers_weights_not_on_their_place(teacher_run: tuple, tmp_path) -> None:
    few, settings, teacher = teacher_run
    copied = tmp_path / "elsewhere.safetensors"
    copied.write_bytes(teacher.checkpoint.read_bytes())
    here, there = (replace(settings, teacher=str(path)) for path in (teacher.folder, copied))
    assert here.identity(few) == there.identity(few) != settings.identity(few)
    initial = replace(settings, initial=str(copied), teacher="initial")
    assert initial.identity(few) == replace(initial, teacher=str(copied)).identity(few)


def test_teachers_that_name_no_network(teacher_run: tuple, tmp_path) -> None:
    """They have the student's, without its adapters; a folder of transformers has its own."""
    few, settings, teacher = teacher_run
    torch.save(teacher.network.state_dict(), tmp_path / "net.pt")
    bare = replace(settings, initial=str(tmp_path / "net.pt"), lora="rank=2", teacher="initial", epochs=1)
    named = replace(bare, initial=str(teacher.folder))
    digests = [
        read_checkpoint(fit(one, tmp_path / name, splits=few).checkpoint).digest
        for name, one in (("a", bare), ("b", named))
    ]
    assert digests[0] == digests[1]
    with pytest.raises(UserError, match=r"^the teacher: .*net.pt does not fit"):
        fit(replace(settings, model="digits:8", teacher=str(tmp_path / "net.pt")), tmp_path, splits=few)
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4, "num_channels": 1}
    for width in (8, 12):
        config = transformers.ViTConfig(hidden_size=width, intermediate_size=8, num_labels=10, **sizes)
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path / f"vit{width}")
    narrow = replace(settings, model=f"transformers:{tmp_path / 'vit8'}", epochs=1)
    for teacher_of in (narrow, replace(narrow, lora="rank=2")):
        for width in (8, 12):  # another network than the student's, too
            fit(replace(teacher_of, teacher=str(tmp_path / f"vit{width}")), tmp_path / "runs", splits=few)
        fit(replace(teacher_of, teacher="plain"), tmp_path / "runs", splits=few)


def test_a_teacher_of_somebodys_code_is_started_by_name(teacher_run: tuple, tmp_path, monkeypatch) -> None:
    """Another network than the student's, which its checkpoint may name and may not start."""
    few, settings, _ = teacher_run
    (tmp_path / "nets_of_mine.py").write_text(
        "from torch import nn\n"
        "def net(width=4): return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    large = fit(replace(settings, model="nets_of_mine:net(width=9)"), tmp_path / "runs", splits=few)
    small = replace(settings, model="nets_of_mine:net", teacher=str(large.folder), epochs=1)
    with pytest.raises(UserError, match=r"^the teacher: expected --teacher-model nets_of_mine:net\(width=9\)"):
        fit(small, tmp_path / "runs", splits=few)
    with pytest.raises(UserError, match=r"^the teacher: .* does not fit"):
        fit(replace(small, teacher_model="nets_of_mine:net"), tmp_path / "runs", splits=few)
    for student in (small, replace(small, model="digits:8")):
        taught = fit(replace(student, teacher_model="nets_of_mine:net(width=9)"), tmp_path / "runs", splits=few)
        assert taught.label == "plain, distilled 0.5 tau 2"
    # A file of its weights alone teaches the same.
    torch.save(dict(read_checkpoint(large.checkpoint).weights), tmp_path / "bare.pt")
    named = replace(small, teacher_model="nets_of_mine:net(width=9)")
    digests = [
        read_checkpoint(fit(one, tmp_path / name, splits=few).checkpoint).digest
        for name, one in (("a", named), ("b", replace(named, teacher=str(tmp_path / "bare.pt"))))
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("student", ["digits:4", "nets_of_ours:small"])
def test_a_teacher_whose_code_changed_is_noticed(teacher_run: tuple, tmp_path, monkeypatch, student: str) -> None:
    """As the student's code is: of finished runs, of interrupted ones, and in sweeps."""
    few, settings, _ = teacher_run
    code = (
        "import torch\nfrom torch import nn\n"
        "def small(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "class Wide(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Linear(64, 9), nn.Linear(9, 10)\n"
        "    def forward(self, x): return self.b(torch.{}(self.a(x.flatten(1))))\n"
    )
    (tmp_path / "nets_of_ours.py").write_text(code.format("relu"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "nets_of_ours", raising=False)
    large = fit(replace(settings, model="nets_of_ours:Wide"), tmp_path / "runs", splits=few)
    taught = replace(settings, model=student, teacher=str(large.folder), teacher_model="nets_of_ours:Wide", epochs=2)
    run = fit(taught, tmp_path / "runs", splits=few)
    assert fit(taught, tmp_path / "runs", splits=few).folder == run.folder

    def stop(line: dict) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(taught, tmp_path / "halves", splits=few, on_epoch=stop)
    (tmp_path / "nets_of_ours.py").write_text(code.format("tanh"))
    importlib.reload(sys.modules["nets_of_ours"])
    for folder in ("runs", "halves"):
        with pytest.raises(UserError, match=r"expected the teacher with .* got one of nets_of_ours:Wide that answers"):
            fit(taught, tmp_path / folder, splits=few)
    (tmp_path / "nets_of_ours.py").write_text(code.format("relu"))
    importlib.reload(sys.modules["nets_of_ours"])
    assert fit(taught, tmp_path / "halves", splits=few).checkpoint.read_bytes() == run.checkpoint.read_bytes()


def test_wrong_teachers_are_one_clear_line(teacher_run: tuple, tmp_path) -> None:
    few, settings, teacher = teacher_run
    with pytest.raises(UserError, match="give --initial too"):
        replace(settings, teacher="initial")
    for alone in ({"temperature": 3}, {"teacher_model": "digits:8"}):
        with pytest.raises(UserError, match="give --teacher CHECKPOINT"):
            replace(settings, **alone)
    with pytest.raises(UserError, match="expected no teacher_model, got digits:8; a plain teacher is digits"):
        replace(settings, teacher="plain", teacher_model="digits:8")
    with pytest.raises(UserError, match=r"sees .* as this run does"):
        fit(replace(settings, teacher=str(teacher.folder), mean=(0.1,), std=(0.2,)), tmp_path, splits=few)
    with pytest.raises(UserError, match="there is none"):
        fit(replace(settings, teacher=str(tmp_path / "none")), tmp_path, splits=few)


def _interrupt(line: dict) -> None:
    raise KeyboardInterrupt
