"""``noiserobust evaluate``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from noiserobust.analog.backends import Backend, Direct
from noiserobust.analog.converters import Converters
from noiserobust.cli.present import present
from noiserobust.data import Splits, load
from noiserobust.errors import UserError
from noiserobust.evaluation import Target, evaluate
from noiserobust.evaluation.settings import grouped
from noiserobust.models import ModelSpec
from noiserobust.models.compute import Precision
from noiserobust.noise import Compensation, Gaussian, NoiseModel
from noiserobust.storage.checkpoints import Checkpoint, find_checkpoints


@dataclass(frozen=True)
class Evaluate:
    """Evaluate checkpoints under weight noise: one row per checkpoint, noise and draw, and the table of their
    summary."""

    checkpoints: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoints (.safetensors, or a torch file of weights: .pt, .pth), runs' folders, folders of runs; LABEL=PATH
    gives the method another name."""
    noise: tuple[NoiseModel, ...] = field(default_factory=lambda: (Gaussian(0.05),))
    """Noise models, such as gaussian:0.05 or gaussian:0.1,reference=layer."""
    strengths: tuple[float, ...] = ()
    """Sweep: every noise, scaled to each of these strengths (its own number is then its unit: gaussian:1)."""
    draws: int = 10
    """Noise draws per checkpoint."""
    precision_target: float | None = None
    """Accuracy to ± this many points at 95 %, per checkpoint and noise, instead of a number of draws."""
    max_images: int = 1_000_000
    """To a precision: images' forward passes after which a checkpoint and noise is given up."""
    noise_std_draws: int = 0
    """To a precision: draws of a fixed design that measures the noise's standard deviation too, such as 150."""
    seed: int = 0
    """Names the draws."""
    times: tuple[str, ...] = ()
    """Times since programming at which every chip is read: 25s,1h,1y or 25s 1h 1y (default: the noise's own)."""
    reads: int = 1
    """Reads of every chip at each time."""
    compensation: tuple[Compensation, ...] = ("none",)
    """Drift compensation: none, global (per crossbar), column; several are compared on the same chips."""
    converters: tuple[Converters, ...] = (Converters(),)
    """Converters at the arrays' edges: none, or such as io:dac=8,adc=8,noise=0.06; several on the same chips."""
    recalibration: int = 0
    """Training images from which each chip's batch norms learn their statistics anew (0: they do not)."""
    data: str | None = None
    """digits, cifar10, cifar100, fashion-mnist, svhn, imagenet, an image folder or stream:FOLDER (default: what the
    first checkpoint was trained on)."""
    data_root: str = "data"
    """Where named data lie or are downloaded to."""
    image_size: int | None = None
    """Resize the images of a folder to this many pixels a side."""
    backend: Backend = field(default_factory=Direct)
    """What computes: direct (the network itself), or aihwkit, a full chip: converters, output noise, tiles."""
    images: int | None = None
    """Evaluate on a random sample of this many test images, stratified by class."""
    model: ModelSpec | None = None
    """Network of checkpoints that do not name theirs, such as resnet18:width=16."""
    batch_size: int | None = None
    """Images per forward pass (default: what suits the device)."""
    precision: Precision = "fp32"
    """fp32, or autocast to bf16 or fp16."""
    device: str | None = None
    """cpu, cuda, ..."""
    include: tuple[str, ...] = ()
    """Patterns of further parameters that are noisy."""
    exclude: tuple[str, ...] = ()
    """Patterns of parameters that stay digital."""
    fold: bool = True
    """Multiply batch norms into the noisy weights of the layers before them: equal to rounding, and faster."""
    compile: bool = False
    """Compile the network by torch.compile, once for all draws."""
    metrics: tuple[str, ...] = ()
    """Further metrics: perplexity, top5, or package.module:function of all logits and labels."""
    out: Path = Path("evaluation.parquet")
    """File for the rows; what it already holds is not computed again."""
    plot: Path | None = None
    """Picture of accuracy against strength, or against time where there are several times (PNG)."""
    table: Path | None = None
    """The table as Markdown."""

    def opened(self) -> tuple[list[Checkpoint], Splits]:
        """The checkpoints, and the data: those named, or what the first checkpoint was trained on."""
        checkpoints = find_checkpoints(self.checkpoints)
        if not checkpoints:
            raise UserError("expected at least one checkpoint, got none; runs/* names all runs of a folder")
        data, size = self.data, self.image_size
        if data is None:
            stored = checkpoints[0].about.get("settings", {})
            if "data" not in stored:
                raise UserError(f"expected --data: {checkpoints[0].path} does not say what it was trained on")
            data, size = stored["data"], size or stored.get("image_size")
        return checkpoints, load(data, self.data_root, size)

    def run(self) -> None:
        checkpoints, splits = self.opened()
        if self.strengths and not all(one.strength for one in self.noise):
            raise UserError("expected a noise with a strength to sweep, got one of 0; write its unit, as in gaussian:1")
        noises = [one.scaled(s / one.strength) for one in self.noise for s in self.strengths] or list(self.noise)
        target = None
        if self.precision_target is not None:
            target = Target(self.precision_target, max_images=self.max_images, noise_std_draws=self.noise_std_draws)
        elif self.noise_std_draws:
            raise UserError("expected --precision-target beside --noise-std-draws; whole passes give it anyway")
        times = [time for word in self.times for time in word.split(",")] or (None,)
        flags = "reads compensation converters recalibration backend batch_size precision device include exclude fold"
        flags += " compile model images metrics out"
        options = {name: getattr(self, name) for name in flags.split()} | {"times": times, "progress": True}
        result = evaluate(
            checkpoints, splits, noises, self.draws, self.seed, precision_target=target, **grouped(options)
        )
        present(result.rows, self.plot, self.table)
        for line in dict.fromkeys(found.summary for found in result.coverage.values()):
            print(f"coverage: {line}")
        left: dict[str, list[str]] = {}
        for name, reason in {pair for missing in result.uncovered.values() for pair in missing.items()}:
            left.setdefault(reason, []).append(name)
        for reason, names in left.items():
            print(f"without converters: {', '.join(sorted(names))}: {reason}")
        for line in filter(None, dict.fromkeys(result.conversion.values())):
            print(f"backend: {line}")
        print(f"rows: {self.out}")
