"""What must be true on the device: each check raises where it is not, and says what it measured."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import noiserobust as nr
from experiments.gpu.rows import Rows
from noiserobust.analog.folding import Folding
from noiserobust.analog.noisy import NoisyWeights
from noiserobust.data import Batch
from noiserobust.evaluation.settings import grouped
from noiserobust.models import ModelSpec
from noiserobust.noise import NoiseModel
from noiserobust.noise.in_place import add_in_place, adds_in_place
from noiserobust.rng import Stream, seeded
from noiserobust.training import Engine, Method, Progress, TrainSettings, fit

NOT_ALONE = {"chips": "needs a folder", "aihwkit": "the own noise of aihwkit's models"}
TEXTS = {"compensate": "pcm:t=1d+compensate:global"}
IN_PLACE = ("gaussian:0.1", "gaussian:0.1,reference=layer", "gaussian:0.1,reading=literal")
CONVERTERS = ("io:dac=8,adc=8,noise=0.06", "io:dac=8,adc=8,learnt=true", "io:dac=8,adc=8,percentile=99.9")
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "not folded": {"fold": False},
    "channels last": {"channels_last": True},
    "converters": {"converters": "io:dac=8,adc=8,noise=0.02"},
    "recalibration": {"recalibration": 32},
    "times": {"noises": "pcm", "times": ["25s", "1d"], "compensation": ["none", "global", "column"], "reads": 2},
    "to a precision": {"precision_target": 15.0},
}
FORMATS = {2: [torch.contiguous_format], 4: [torch.contiguous_format, torch.channels_last]}
"""Memory formats of weights of so many dimensions."""
POINTS, NATS = 8.0, 0.05
"""Accuracy and loss by which another way may differ from the plain one, on the same draws: of other roundings."""


class Checks:
    """All checks on a device; ``tiny`` makes them small."""

    def __init__(self, device: str, tiny: bool, work: Path) -> None:
        self.device, self.tiny, self.work = torch.device(device), tiny, work
        self.stance = "force_eager" if tiny else "default"  # to compile takes longer than all the rest
        self.size, self.images = (8, 40) if tiny else (16, 256)
        inputs = Stream(0, "gpu", "inputs").normal((self.images, 3, self.size, self.size))
        self.data = inputs, (Stream(0, "gpu", "labels").uniform((self.images,)) * 10).long()

    def all(self) -> Iterator[tuple[str, Callable[[], dict[str, object]]]]:
        """Names and checks."""
        for kind in ("normal", "uniform", "laplace"):
            yield f"stream {kind}", partial(self.stream, kind)
        for text in IN_PLACE:
            yield f"in place {text}", partial(self.in_place, text)
        for name, member in NoiseModel.registry.items():
            if name not in NOT_ALONE:
                yield f"noise {name}", partial(self.noise, TEXTS.get(name, member.example))
        for precision in ("fp32", "bf16", "fp16"):
            for name, member in Method.registry.items():
                yield f"rule {name} {precision}", partial(self.rule, member.example, precision)
        for text in CONVERTERS:
            yield f"training with {text}", partial(self.converters, text)
        for way, options in WAYS.items():
            yield f"evaluation {way}", partial(self.evaluation, options)
        yield "folded norms", self.folded
        yield "DDP with one process", self.ddp
        for precision in ("bf16",) if self.tiny else ("fp32", "bf16", "fp16"):
            yield f"training run {precision}", partial(self.run, precision)
        if not self.tiny:
            yield "tests with a device", self.tests
        yield "compiled evaluation", partial(self.evaluation, {"compile": True})
        yield "compiled training", self.compiled

    def net(self, device: torch.device | str | None = None) -> nn.Module:
        """A small network with batch norm; the same weights on every device."""
        with seeded(Stream(0, "gpu", "net")):
            model = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1),
                nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
            )  # fmt: skip
        return model.to(device or self.device)

    def batch(self, device: torch.device | str | None = None) -> Batch:
        inputs, labels = (part[:32].to(device or self.device) for part in self.data)
        return Batch(inputs, labels, torch.arange(32, device=inputs.device))

    def stream(self, kind: str) -> dict[str, object]:
        """The same name gives the same numbers, whole or in part; torch's own generator is left alone."""
        shape, stream = (300 if self.tiny else 3000, 700), Stream(0, "gpu", kind)
        make = partial(getattr(stream, kind), shape, device=self.device)
        before = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()
        field = make()
        after = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()
        assert torch.equal(before, after), "the global generator has moved"
        assert torch.equal(field, make()), "another draw of the same name"
        assert torch.equal(field[100:200], make(rows=(100, 200))), "other rows than those of the whole"
        mean, variance = float(field.mean()), float(field.var())
        wanted = {"normal": (0, 1), "uniform": (0.5, 1 / 12), "laplace": (0, 2)}[kind]
        assert abs(mean - wanted[0]) < 0.02, f"mean {mean}"
        assert abs(variance - wanted[1]) < 0.04 * wanted[1], f"variance {variance}"
        return {"mean": mean, "variance": variance}

    def in_place(self, text: str) -> dict[str, object]:
        """Noise added where the weights lie is the noise of a sample, bit for bit, in every memory format."""
        noise, stream = NoiseModel.parse(text), Stream(0, "gpu", "in place")
        for shape in ((48, 16, 3, 3), (512, 600)):
            for format in FORMATS[len(shape)]:
                weight = Stream(0, "gpu", "weight").normal(shape, device=self.device).to(memory_format=format)
                assert adds_in_place(noise, weight), "it is not added in place"
                wanted = noise.sample(weight, stream)
                add_in_place(noise, [(weight, stream)])
                assert torch.equal(weight, wanted), f"another sum for {shape}"
        return {}

    def noise(self, text: str) -> dict[str, object]:
        """A draw is repeated, restored bit for bit, and as large as on the CPU."""
        with seeded(Stream(0, "gpu", "layer")):
            host = nn.Linear(200 if self.tiny else 4096, 64, bias=False)
        model = copy.deepcopy(host).to(self.device)
        clean = model.weight.detach().clone()
        first, again, here = (self._draw(one, text) for one in (model, model, host))
        assert torch.equal(first, again), "another draw of the same name"
        assert torch.equal(model.weight, clean), "the weights are not restored"
        assert first.isfinite().all()
        std, cpu = float(first.std()), float(here.std())
        assert 0.6 * cpu < std < 1.7 * cpu, f"standard deviation {std}, {cpu} on the CPU"
        return {"noise": text, "std": std, "std_cpu": cpu}

    @staticmethod
    def _draw(model: nn.Module, text: str) -> Tensor:
        """What a draw adds to the weights, in units of each row's largest."""
        weight = model.weight.detach().clone()  # type: ignore[operator, union-attr]
        with nr.perturbed(model, text, draw=1):
            return ((model.weight - weight) / weight.abs().amax(1, keepdim=True)).detach()  # type: ignore[operator]

    def engine(self, model: nn.Module, seed: int = 0, **options: Any) -> Engine:
        scaler = torch.amp.GradScaler(self.device.type) if options.get("precision") == "fp16" else None
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        return Engine(model, optimizer, scaler=scaler, seed=seed, samples=32, classes=10, **options)

    def steps(self, text: str, engine: Engine, data: Batch) -> list[float]:
        """The mean losses of some steps, past the epoch at which rules begin; weights stay finite."""
        method, count, losses = Method.parse(text), 2 if self.tiny else 12, []
        method.prepare(engine)
        for step in range(count):
            # Every step is an epoch of its own, so that rules which remember samples have met them.
            losses.append(
                method.step(engine, data, Progress(count + step, 2 * count, 6 + step, 6 + count)).losses.mean()
            )
        assert all(p.isfinite().all() for p in engine.model.parameters()), "weights are not finite"
        return torch.stack(losses).float().cpu().tolist()

    def rule(self, text: str, precision: str) -> dict[str, object]:
        """Steps are finite; in float32, where a rule draws nothing, they are those of the CPU to rounding."""
        losses = self.steps(text, self.engine(self.net(), precision=precision), self.batch())
        assert all(loss < 10 for loss in losses), f"losses {losses}"
        if precision != "fp32":
            return {"rule": text, "loss": losses[-1]}
        here = [self.steps(text, self._on_cpu(seed), self.batch("cpu")) for seed in (0, 1)]
        apart = max(abs(a - b) for a, b in zip(losses, here[0], strict=True))
        assert apart < 0.02 or here[0] != here[1], f"losses {losses}, {here[0]} on the CPU"
        return {"rule": text, "loss": losses[-1], "loss_cpu": here[0][-1], "apart": apart, "draws": here[0] != here[1]}

    def _on_cpu(self, seed: int) -> Engine:
        model = self.net("cpu")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        return Engine(model, optimizer, precision="fp32", seed=seed, samples=32, classes=10)

    def converters(self, text: str) -> dict[str, object]:
        """Training with DAC and ADC around every layer, in bf16, too; learnt ranges move."""
        found: dict[str, object] = {}
        for precision in ("fp32", "bf16"):
            engine = self.engine(self.net(), precision=precision, converters=text)
            found[precision] = self.steps("rwp:gaussian(0.05)", engine, self.batch())[-1]
        return found

    def evaluation(self, options: dict[str, Any]) -> dict[str, object]:
        """Means under noise; of another way to compute the same, beside those of the plain way."""
        options = dict(options)
        noise = options.pop("noises", "gaussian:0.05")
        if {"converters", "recalibration"} & set(options):
            options["calibration"] = self.data
        with torch.compiler.set_stance(self.stance):
            values = self._means(noise, **options)
        if not set(options) <= {"precision", "fold", "channels_last", "compile"}:
            return values
        plain = self._means(noise)
        apart = {name: abs(values[name] - plain[name]) for name in ("accuracy", "loss")}
        assert apart["accuracy"] <= POINTS, f"accuracies {values['accuracy']} and {plain['accuracy']}"
        assert apart["loss"] <= NATS, f"losses {values['loss']} and {plain['loss']}"
        return values | {f"{name}_apart": value for name, value in apart.items()}

    def _means(self, noise: str, **options: Any) -> dict[str, object]:
        given = grouped({"device": str(self.device), "draws": 2 if self.tiny else 4, **options})
        rows = nr.evaluate(self.net(), self.data, noise, **given).rows
        assert rows["value"].notna().all(), "values are missing"
        return {name: float(value) for name, value in rows.groupby("metric")["value"].mean().items()}

    def folded(self) -> dict[str, object]:
        """All batch norms are folded; what torch lets convolutions do to float32 is said."""
        with seeded(Stream(0, "gpu", "net")):
            model = ModelSpec.parse("resnet18:width=8").build(3, 10).eval().to(self.device)
        count = len(Folding(NoisyWeights(model), self.batch().inputs).pairs)
        assert count == 20, f"{count} of 20 batch norms"
        convolutions = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
        return {"norms": count, "convolutions": convolutions}

    def compiled(self) -> dict[str, object]:
        """Steps of a compiled network are those of the network itself, to rounding."""
        losses = {}
        for name in ("plain", "compiled"):
            model = self.net()
            with torch.compiler.set_stance(self.stance):
                if name == "compiled":
                    model = torch.compile(model)  # type: ignore[assignment]
                losses[name] = self.steps("sam:0.05", self.engine(model, precision="fp32"), self.batch())
        apart = max(abs(a - b) for a, b in zip(losses["plain"], losses["compiled"], strict=True))
        assert apart < 0.02, f"losses {losses}"
        return {"apart": apart}

    def ddp(self) -> dict[str, object]:
        """DDP with one process trains as no DDP does."""
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        try:
            apart = 0.0
            for text in ("plain", "rwp:gaussian(0.1)", "sam:0.05", "rwp-mixed:0.01"):
                whole = self.steps(text, self.engine(self.net(), precision="fp32"), self.batch())
                model = DistributedDataParallel(self.net())
                parts = self.steps(text, self.engine(model, precision="fp32"), self.batch())
                apart = max(apart, *(abs(a - b) for a, b in zip(whole, parts, strict=True)))
            assert apart < 0.02, f"losses differ by {apart}"
        finally:
            dist.destroy_process_group()
        return {"backend": backend, "apart": apart}

    def run(self, precision: str) -> dict[str, object]:
        """A whole training run with a log, a choice of the epoch and a checkpoint, and its evaluation."""
        folder = self.work / "checks"
        settings = TrainSettings(
            data="digits", model="digits:4", method="rwp:gaussian(0.05)", epochs=1 if self.tiny else 3,  # type: ignore
            batch_size=400, precision=precision, device=str(self.device), log=("ascent_sharpness:0.05",),  # type: ignore
        )  # fmt: skip
        made = fit(settings, folder)
        given = grouped({"device": str(self.device), "images": 100, "draws": 2})
        rows = nr.evaluate(str(made.folder), noises="gaussian:0.05", **given).rows
        return {"accuracy": float(rows[rows["metric"] == "accuracy"]["value"].mean())}

    def tests(self) -> dict[str, object]:
        """The project's own tests that have a case for a device, where pytest is there."""
        files = ["tests/test_noise.py", "tests/test_data.py"]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", "cuda"]
        root = Path(__file__).parents[2]
        done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=60, check=False)
        lines = done.stdout.strip().splitlines()[-15:]
        assert done.returncode == 0, "\n".join(lines or done.stderr.splitlines()[-5:])
        return {"said": lines[-1]}


def run(rows: Rows) -> None:
    options = rows.options
    for name, check in Checks(options.device, options.tiny, Path(options.work)).all():
        rows.each(name, check)
