"""Code of one's own by ``package.module:Name``: read, written, pickled, found again by other processes, never started
by a file."""

from __future__ import annotations

import json
import pickle
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from processes import python
from torch import nn

from noiserobust.data import Batch, DataSource, load
from noiserobust.errors import UserError
from noiserobust.minima import Random
from noiserobust.models import DigitsNet, ModelSpec, build
from noiserobust.noise import Gaussian, NoiseModel, Sum
from noiserobust.spec import Described
from noiserobust.storage.checkpoints import read_checkpoint, save_checkpoint
from noiserobust.sweep import Local, sweep
from noiserobust.tasks.metrics import Metric, known_metrics
from noiserobust.training import RWP, Engine, Method, Progress, Schedule, TrainSettings

SOURCE = """
from dataclasses import dataclass, field
from typing import ClassVar
import torch
from torch import nn
from noiserobust.minima import Random
from noiserobust.models import ModelSpec
from noiserobust.noise import Gaussian, NoiseModel, reference_scale
from noiserobust.noise.base import additive
from noiserobust.training import Method, Schedule

@dataclass(frozen=True)
class Ripple(NoiseModel):
    strength_field: ClassVar[str] = "size"
    size: float = 0.1
    waves: int = 3

    def write(self, below, clean, stream):
        return additive(below, stream.normal(clean.shape).sin(), self.size * reference_scale(clean))

@dataclass(frozen=True)
class Ramp(Schedule):
    top: float
    def __call__(self, progress):
        return self.top * progress.step / progress.steps

@dataclass(frozen=True)
class Half(Method):
    noise: NoiseModel = field(default_factory=lambda: Gaussian(0.1))
    def perturbation(self, progress):
        return Random(self.noise)
    def perturbed_step(self, engine, batch, progress, perturbation):
        with engine.perturbed(perturbation, progress.step):
            out = engine.gradient(batch)
        engine.commit()
        return out

@dataclass(frozen=True)
class Net(ModelSpec):
    width: int = 8
    def build(self, channels, classes):
        return net(channels, classes, self.width)

def net(channels, classes, width: int = 8):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, width), nn.ReLU(), nn.Linear(width, classes))

class Undecorated(NoiseModel):
    size: float

@dataclass(frozen=True)
class Unsaid(NoiseModel):
    size: float

def share(logits, labels, above: float = 0.5):
    return (logits.softmax(1).amax(1) > above).float().mean()

def blobs(samples: int = 40, *, spread=1.0):
    y = torch.arange(samples) % 2
    x = torch.ones(samples, 1, 8, 8) * y[:, None, None, None] * spread
    return (x, y), (x, y)

def nothing():
    return 5

number = 7
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "own_parts.py").write_text(SOURCE)
    (folder / "faulty_parts.py").write_text("raise ValueError('first\\nsecond')\n")
    package = folder / "own_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "inner.py").write_text(SOURCE)
    return folder


@pytest.fixture(autouse=True)
def in_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It is the present folder, and not on Python's path."""
    monkeypatch.chdir(home)
    yield
    for name in [name for name in sys.modules if name.startswith(("own_pa", "faulty_parts"))]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("family", "text", "written"),
    [
        (NoiseModel, "own_parts:Ripple", "own_parts:Ripple(0.1)"),
        (NoiseModel, "own_parts:Ripple()", "own_parts:Ripple(0.1)"),
        (NoiseModel, "own_parts:Ripple(0.2)", "own_parts:Ripple(0.2)"),
        (NoiseModel, "own_parts:Ripple:0.2", "own_parts:Ripple(0.2)"),
        (NoiseModel, "own_parts:Ripple:0.2,waves=5", "own_parts:Ripple(0.2,waves=5)"),
        (NoiseModel, " own_parts:Ripple( size=0.2 , waves = 5 ) ", "own_parts:Ripple(0.2,waves=5)"),
        (NoiseModel, "own_package.inner:Ripple(0.2)", "own_package.inner:Ripple(0.2)"),
        (NoiseModel, "gaussian:0.1+own_parts:Ripple(0.2)", "gaussian:0.1+own_parts:Ripple(0.2)"),
        (NoiseModel, "own_parts:Ripple:0.2,waves=5+gaussian:0.1", "own_parts:Ripple(0.2,waves=5)+gaussian:0.1"),
        (NoiseModel, "noiserobust.noise:Gaussian(0.1)", "gaussian:0.1"),
        (Method, "rwp:own_parts:Ripple(0.2)", "rwp:own_parts:Ripple(0.2)"),
        (Method, "rwp:own_parts:Ripple(0.2),draws=2", "rwp:own_parts:Ripple(0.2),draws=2"),
        (Method, "rwp:gaussian(0.1)+own_parts:Ripple(0.2)", "rwp:gaussian(0.1)+own_parts:Ripple(0.2)"),
        (Method, "own_parts:Half(own_parts:Ripple(0.2))", "own_parts:Half(own_parts:Ripple(0.2))"),
        (Method, "own_parts:Half:gaussian(0.2)", "own_parts:Half(gaussian(0.2))"),
        (Method, "sam:own_parts:Ramp(0.2)", "sam:own_parts:Ramp(0.2)"),
        (Schedule, "own_parts:Ramp(1)", "own_parts:Ramp(1.0)"),
        (ModelSpec, "own_parts:Net(4)", "own_parts:Net(4)"),
        (ModelSpec, "own_parts:net", "own_parts:net"),
        (ModelSpec, "own_parts:net(4)", "own_parts:net(width=4)"),
        (ModelSpec, "own_parts:net(width=8)", "own_parts:net"),
        (DataSource, "own_parts:blobs(20,spread=2)", "own_parts:blobs(samples=20,spread=2)"),
        (Metric, "own_parts:share(0.9)", "own_parts:share(above=0.9)"),
    ],
)
def test_it_is_read_and_written(family: type[Described], text: str, written: str) -> None:
    one = family.parse(text)
    assert str(one) == written
    assert family.parse(str(one)) == one
    assert hash(family.parse(str(one))) == hash(one)
    assert pickle.loads(pickle.dumps(one)) == one


def test_what_functions_give() -> None:
    assert build("own_parts:net(width=4)", 1, 2)[1].out_features == 4
    assert len(load("own_parts:blobs(20)").train) == 20
    assert set(known_metrics(["top5", "own_parts:share(0.9)"])) == {"top5", "own_parts:share(0.9)"}
    with pytest.raises(UserError, match="expected image_size only with an image folder, got 8 for own_parts:blobs"):
        load("own_parts:blobs", image_size=8)


def test_its_label_is_without_its_strength() -> None:
    noise = NoiseModel.parse("own_parts:Ripple(0.2,waves=5)+gaussian:0.1")
    assert noise.without_strength(0.2) == "own_parts:Ripple(waves=5)+gaussian:0.1"
    assert noise.scaled(0.5) == Sum((NoiseModel.parse("own_parts:Ripple(0.1,waves=5)"), Gaussian(0.05)))


@pytest.mark.parametrize(
    ("family", "text", "fragment"),
    [
        (NoiseModel, "own_parts:Riple(0.1)", "AttributeError: module 'own_parts' has no attribute 'Riple'"),
        (NoiseModel, "no_parts:Ripple(0.1)", "got 'no_parts:Ripple(0.1)'; one of your own is package.module:Name"),
        (
            NoiseModel,
            "faulty_parts:Ripple",
            "faulty_parts:Ripple: expected code that can be imported, got ValueError: first",
        ),
        (NoiseModel, "__main__:Ripple(0.1)", "__main__:Ripple: expected code that can be imported, got AttributeError"),
        (NoiseModel, "own_parts:Half", "expected a noise model, got 'own_parts:Half'"),
        (NoiseModel, "own_parts:number", "which is no class of these"),
        (NoiseModel, "own_parts:net", "which is no class of these"),
        (NoiseModel, "own_parts:Undecorated(0.1)", "write @dataclass(frozen=True) above it"),
        (NoiseModel, "own_parts:Unsaid.strength", "which is no class of these"),
        (NoiseModel, "own_parts:Ripple(0.1),waves=5", "expected a noise model ("),
        (NoiseModel, "own_parts:Ripple(0.1,2,3)", "expected at most 2 values in order"),
        (NoiseModel, "own_parts:Ripple(colour=red)", "Ripple has no setting 'colour' (it has size, waves)"),
        (Method, "rwb:gaussian(0.2)", "did you mean rwp?"),
        (Method, "own_parts:Ripple", "expected a method, got"),
        (ModelSpec, "own_parts:net(4,5)", "expected at most 1 values in order"),
        (ModelSpec, "own_parts:net(depth=4)", "own_parts:net has no setting 'depth' (it has width)"),
        (ModelSpec, "own_parts:net(wide)", "own_parts:net: width: expected a whole number, got 'wide'"),
        (DataSource, "own_parts:number", "which is no class of these"),
        (Metric, "own_parts:number", "which is no class of these"),
    ],
)
def test_a_mistake_is_one_line(family: type[Described], text: str, fragment: str) -> None:
    with pytest.raises(UserError) as caught:
        family.parse(text)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_noise_says_what_its_strength_is() -> None:
    noise = NoiseModel.parse("own_parts:Unsaid(0.1)")
    for ask in (lambda: noise.strength, lambda: noise.is_identity, lambda: noise.scaled(2.0)):
        with pytest.raises(UserError, match="expected own_parts:Unsaid to say what its strength is"):
            ask()
    with pytest.raises(UserError, match="expected a default of the field strength"):
        type("Mine", (NoiseModel,), {"__annotations__": {"strength": float}})


def test_what_a_function_does_wrong_is_one_line() -> None:
    with pytest.raises(UserError, match=r"own_parts:nothing: expected a function that returns Splits or .* got int"):
        load("own_parts:nothing")
    with pytest.raises(UserError, match=r"expected a function that returns a torch.nn.Module, got tuple"):
        build("own_parts:blobs", 1, 2)


class TestFiles:
    @pytest.mark.parametrize(
        ("family", "text"),
        [
            (NoiseModel, "own_parts:Ripple(0.1)"),
            (NoiseModel, "gaussian:0.1+own_parts:Ripple(0.1)"),
            (Method, "rwp:own_parts:Ripple(0.1)"),
            (Method, "own_parts:Half"),
            (ModelSpec, "own_parts:net"),
            (DataSource, "own_parts:blobs"),
            (Metric, "own_parts:share"),
        ],
    )
    def test_text_out_of_a_file_imports_nothing(self, family: type[Described], text: str) -> None:
        with pytest.raises(UserError, match=r"expected code that you name yourself, got .* out of a file"):
            family.parse(text, imports=False)
        assert "own_parts" not in sys.modules

    def test_what_is_imported_already_is_known(self) -> None:
        one = Method.parse("rwp:own_parts:Ripple(0.1)")
        assert Method.parse("rwp:own_parts:Ripple(0.1)", imports=False) == one

    @pytest.mark.parametrize("text", ["os:system", "os:getcwd", "own_parts:net", "builtins:print"])
    def test_a_function_is_not_even_then(self, text: str) -> None:
        ModelSpec.parse("own_parts:net")
        for family in (ModelSpec, DataSource, Metric):
            with pytest.raises(UserError, match="expected code that you name yourself"):
                family.parse(text, imports=False)

    @pytest.mark.parametrize("text", ["own_parts:Net(4)", "own_parts:net(width=4)", "factory:own_parts:net"])
    def test_a_checkpoint_is_built_when_its_code_is_named(self, text: str, tmp_path: Path) -> None:
        spec = ModelSpec.parse(text)
        about = {"model": text, "channels": 1, "classes": ["a", "b"]}
        path = save_checkpoint(tmp_path / "a.safetensors", spec.build(1, 2).state_dict(), about)
        sys.modules.pop("own_parts", None)
        with pytest.raises(UserError, match=r"expected --model own_parts|expected --model factory"):
            read_checkpoint(path).build()
        assert "own_parts" not in sys.modules
        assert read_checkpoint(path).build(spec)


BASE = TrainSettings(model=DigitsNet(4), epochs=2, batch_size=400, select_draws=1)


class TestOtherProcesses:
    METHOD = "own_parts:Half(own_parts:Ripple(0.1,waves=2))"

    def test_an_interrupted_run_goes_on_in_another(self, tmp_path: Path) -> None:
        flags = ["--model", "own_parts:net(width=4)", "--method", self.METHOD, "--epochs", "2", "--batch-size", "400"]
        train = ["train", *flags, "--select-noise", "own_parts:Ripple(0.1)", "--out", str(tmp_path)]
        self.run(
            f"""
            from noiserobust.cli import main
            from noiserobust.training import trainer
            save = trainer.Trainer._save
            def stop(self):
                save(self)
                raise KeyboardInterrupt
            trainer.Trainer._save = stop
            main({train})
            """,
            expect=130,
        )
        (run,) = tmp_path.iterdir()
        assert (run / "resume.pt").is_file()
        self.run(f"from noiserobust.cli import main; main({train})")
        assert [path.name for path in tmp_path.iterdir()] == [run.name]
        assert len((run / "log.csv").read_text().splitlines()) == 3
        stored = read_checkpoint(run).about["settings"]
        assert (stored["method"], stored["select_noise"]) == (self.METHOD, "own_parts:Ripple(0.1)")
        assert Method.parse(stored["method"]) == Method.parse(json.loads(json.dumps(stored["method"])))

    def test_workers_find_what_lies_beside_the_program(self, tmp_path: Path) -> None:
        noise = NoiseModel.parse("own_parts:Ripple(0.2)")
        vary: dict[str, Any] = {"method": [self.METHOD, RWP(noise)]}
        base = replace(BASE, model=ModelSpec.parse("own_parts:net(width=4)"), epochs=1)
        rows = [
            sweep(base, vary, [noise], 1, tmp_path / str(count), options={"images": 60}, executor=Local(count))
            for count in (1, 2)
        ]
        pd.testing.assert_frame_equal(*(one.drop(columns=["model", "commit"]) for one in rows))
        assert set(rows[1]["method"]) == {self.METHOD, "rwp:own_parts:Ripple(0.2)"}
        assert set(rows[1]["noise"]) == {"own_parts:Ripple(0.2)"}

    def test_a_pickle_is_opened_elsewhere(self, home: Path, tmp_path: Path) -> None:
        objects = [Method.parse(self.METHOD), ModelSpec.parse("own_package.inner:net(width=4)")]
        (tmp_path / "pickle").write_bytes(pickle.dumps(objects))
        out = self.run(
            "import pickle; [rule, spec] = pickle.load(open('pickle', 'rb')); spec.build(1, 2); print(rule, spec)",
            cwd=tmp_path,
        )
        assert out.strip() == f"{self.METHOD} own_package.inner:net(width=4)"

    def run(self, code: str, cwd: Path | None = None, expect: int = 0) -> str:
        run = python("-c", textwrap.dedent(code), cwd=cwd, check=False)
        assert run.returncode == expect, run.stderr
        return run.stdout


def test_a_rule_without_its_step_says_so() -> None:
    @dataclass(frozen=True)
    class Unfinished(Method):
        def perturbation(self, progress: Progress) -> Random:
            return Random(Gaussian(0.1), draws=1)

    network = nn.Linear(2, 2)
    engine = Engine(network, torch.optim.SGD(network.parameters(), lr=0.1))
    with pytest.raises(UserError, match="expected Unfinished to define perturbed_step beside its perturbation"):
        Unfinished().step(engine, Batch(torch.ones(3, 2), torch.tensor([0, 1, 0])), Progress(0, 1))


def test_a_network_of_one_size_takes_no_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from torch.nn import *\nclass Own(Sequential):\n    def __init__(self, width=3):\n"
    (tmp_path / "own_size.py").write_text(f"{code}        super().__init__(Flatten(), Linear(64, width))\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert build("own_size:Own(width=4)", 1, 4)[1].out_features == 4
    with pytest.raises(UserError, match=r"expected package.module:Name, got own_size.py:Own; write own_size:Own"):
        build("own_size.py:Own", 1, 4)
    with pytest.raises(UserError, match="arrays become data by a function of your own"):
        load("digits.npz")
