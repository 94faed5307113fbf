"""Claim: accuracy under noise costs its forward passes and at most 5 % more; what people use costs up to ten times it.

Every case evaluates one CIFAR network on the same images under noise draws, in turn, in one process, from image files
to accuracies; "ours:10" is ten draws. ``floor`` is what none can undercut with the plain network: its forward passes
alone, on tensors that are there, in the fastest memory format and batch size. Rows go to
docs/results/speed_evaluation.csv.

    python experiments/benchmarks/evaluation.py --cases floor:3 ours:10 "ours unfolded:10" loop:3
    python experiments/benchmarks/evaluation.py --noise pcm --cases floor:3 ours:10 "aihwkit tiles:1"

``--checkpoint`` evaluates a trained network, which "ours to a precision" needs; ``--accuracy CHECKPOINT...`` compares
the accuracies of float32, bfloat16 and folded batch norm on the same draws; ``--memory`` measures memory.

``--data`` is a folder with train and test/CLASS/*.png (or .jpg); without one, synthetic images are written. aihwkit,
aihwkit-lightning and CrossSim are compared where they are installed.
"""

from __future__ import annotations

import argparse
import copy
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from common import RESULTS, add_rows, in_turn, machine, markdown, ratios, timed
from PIL import Image
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

from noiserobust import evaluate
from noiserobust.data import Dataset, load
from noiserobust.evaluation import Target
from noiserobust.evaluation.settings import grouped
from noiserobust.models import ModelSpec
from noiserobust.models.compute import autocast
from noiserobust.rng import Stream, seeded
from noiserobust.storage.checkpoints import read_checkpoint

SIGMA, DAY = 0.1, 86400.0
NOISE = {"gaussian": f"gaussian:{SIGMA}", "pcm": "pcm:t=1d"}
OUT = RESULTS / "speed_evaluation.csv"


class Bench:
    """One network, its images as files, and every way to evaluate it, by the name of the case."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder, self.device = args, folder, torch.device(args.device)
        with seeded(Stream(0, "net")):
            self.network = ModelSpec.parse(args.model).build(3, 10).eval().to(self.device)
        if args.checkpoint:
            self.network = read_checkpoint(args.checkpoint).build(None, 3, 10).eval().to(self.device)
        self.draws = args.draws
        self.cases: dict[str, Callable[[], object]] = {
            "floor": lambda: self.floor("fp32"),
            "floor bf16": lambda: self.floor("bf16"),
            "ours": lambda: self.ours(),
            "ours unfolded": lambda: self.ours(fold=False),
            "ours compiled": lambda: self.ours(compile=True),
            "ours bf16": lambda: self.ours(precision="bf16"),
            "ours bf16 unfolded": lambda: self.ours(precision="bf16", fold=False),
            "ours bf16 compiled": lambda: self.ours(precision="bf16", compile=True),
            "ours to a precision": lambda: self.ours(precision_target=0.5),
            "ours to a precision by bf16": lambda: self.ours(precision_target=Target(0.5, by_bf16=True)),
            "loop": self.loop,
            "aihwkit tiles": self.tiles,
            "aihwkit to digital": lambda: self.tiles(digital=True),
            "aihwkit-lightning": self.lightning,
            "CrossSim": self.crosssim,
        }

    def case(self, name: str, draws: str) -> Callable[[], None]:
        """The case ``name`` with so many draws (none: ``--draws``)."""

        def run() -> None:
            self.draws = int(draws or self.args.draws)
            self.cases[name]()

        return run

    @cached_property
    def inputs(self) -> list[Tensor]:
        """The images on the device, channels last, in batches of the size that is fastest here."""
        images = load(str(self.folder)).test
        assert isinstance(images, Dataset)
        x = images.normalized().to(self.device, memory_format=torch.channels_last)
        network = self.channels_last

        @torch.no_grad()
        def seconds(size: int) -> float:
            part = x[: max(100, min(size, len(x)))].split(size)
            action = lambda: [network(batch) for batch in part]  # noqa: E731
            action()
            return min(timed(action, self.device) for _ in range(3)) / sum(map(len, part))

        self.batch = min((25, 50, 100, 500), key=seconds)
        return list(x.split(self.batch))

    @cached_property
    def channels_last(self) -> nn.Module:
        return copy.deepcopy(self.network).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def floor(self, precision: Any) -> None:
        for _ in range(self.draws):
            with autocast(self.device, precision):
                for batch in self.inputs:
                    self.channels_last(batch)

    def ours(self, **options: Any) -> None:
        network = self.args.checkpoint or copy.deepcopy(self.network).to(memory_format=torch.channels_last)
        options = grouped({"channels_last": True, **options})
        evaluate(network, str(self.folder), NOISE[self.args.noise], self.draws, **options)

    @torch.no_grad()
    def loop(self) -> None:
        """As it is usually written: copy the network, add noise, go through a DataLoader."""
        loader = torch.utils.data.DataLoader(ImageFolder(self.folder / "test", ToTensor()), batch_size=128)
        for draw in range(self.draws):
            torch.manual_seed(draw)
            noisy, right = copy.deepcopy(self.network), 0
            for module in noisy.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    self._add_noise(module.weight)
            for x, y in loader:
                right += (noisy(x.to(self.device)).argmax(1).cpu() == y).sum().item()

    def _add_noise(self, weight: Tensor) -> None:
        if self.args.noise == "gaussian":
            largest = weight.abs().flatten(1).amax(1).view(-1, *[1] * (weight.dim() - 1))
            weight.add_(SIGMA * largest * torch.randn_like(weight))
        else:
            weight.copy_(self.noise_model().apply_noise(weight, DAY))

    def noise_model(self) -> Any:
        """aihwkit's, at its own scale: the largest weight of what it is given."""
        from aihwkit.inference.noise.base import BaseNoiseModel
        from aihwkit.inference.noise.pcm import PCMLikeNoiseModel

        class Gaussian(BaseNoiseModel):
            def apply_programming_noise_to_conductance(self, g_target: Tensor) -> Tensor:
                return g_target + SIGMA * self.g_converter.g_max * torch.randn_like(g_target)

            def generate_drift_coefficients(self, g_target: Tensor) -> Tensor:
                return torch.zeros_like(g_target)

            def apply_drift_noise_to_conductance(self, g_prog: Tensor, nu: Any, t_inference: float) -> Tensor:
                return g_prog

        return Gaussian() if self.args.noise == "gaussian" else PCMLikeNoiseModel(g_max=25.0)

    @torch.no_grad()
    def tiles(self, digital: bool = False) -> None:
        """aihwkit's inference tiles with perfect inputs and outputs, programmed anew for each draw."""
        from aihwkit.nn.conversion import convert_to_analog, convert_to_digital
        from aihwkit.simulator.configs import InferenceRPUConfig

        config = InferenceRPUConfig()
        config.forward.is_perfect, config.noise_model, config.drift_compensation = True, self.noise_model(), None
        analog = convert_to_analog(self.network, config).eval()
        for draw in range(self.draws):
            torch.manual_seed(draw)
            analog.program_analog_weights()
            if self.args.noise == "pcm":
                analog.drift_analog_weights(DAY)
            network = convert_to_digital(analog).eval() if digital else analog
            for batch in self.inputs:
                network(batch)

    @torch.no_grad()
    def lightning(self) -> None:
        """AIHWKIT-Lightning's layers, which draw noise anew for each batch."""
        analog = peers.lightning(self.network, SIGMA)
        for _ in range(self.draws):
            for batch in self.inputs:
                analog(batch)

    @torch.no_grad()
    def crosssim(self) -> None:
        """CrossSim's crossbars with perfect converters and wires, programmed anew for each draw."""
        network = peers.crosssim(self.network, f"gaussian {SIGMA}" if self.args.noise == "gaussian" else "PCMJoshi")
        for draw in range(self.draws):
            peers.program(network, draw)
            for batch in self.inputs:
                network(batch)


def image_folder(target: Path, source: Path | None, images: int) -> None:
    """``images`` test images in ten classes as files under ``target``: sampled evenly from ``source``, or synthetic."""
    random = np.random.default_rng(0)
    for index in range(10):
        for part, count in (("train", 1), ("test", images // 10)):
            if source is None:
                folder = target / part / f"class{index}"
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number}.png")
                continue
            name = sorted(path.name for path in (source / "test").iterdir() if path.is_dir())[index]
            files = sorted((source / "test" / name).iterdir())
            (target / part / name).mkdir(parents=True)
            for file in random.choice(np.array(files, dtype=object), count, replace=False):
                shutil.copy(file, target / part / name)


MEMORY = """
import resource, sys, torch
from torch import nn
from noiserobust import evaluate

torch.set_num_threads(1)
noise, draws, levels, layers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), 60
model = nn.Sequential(nn.Flatten(), *(nn.Linear(1000, 1000, bias=False) for _ in range(layers)))
data = torch.randn(4, 1000), torch.arange(4)
evaluate(nn.Sequential(nn.Flatten(), nn.Linear(1000, 4)), data, noise, draws=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
noises = [noise] if levels == 1 else [f"gaussian:{0.01 * (1 + level)}" for level in range(levels)]
evaluate(model, data, noises, draws=draws)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (4e6 * layers))
"""


def memory() -> list[dict[str, object]]:
    """Peak memory beside the network, in copies of its analog weights (60 layers of a million)."""
    rows = []
    for noise, draws, levels in (
        ("gaussian:0.1", 1, 1), ("gaussian:0.1", 10, 1), ("gaussian:0.1", 3, 10), ("pcm:t=1d", 1, 1), ("pcm:t=1d", 3, 1)
    ):  # fmt: skip
        command = [sys.executable, "-c", MEMORY, noise, str(draws), str(levels)]
        copies = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        rows.append({"noise": noise, "draws": draws, "levels": levels, "copies": round(copies, 2)})
        print(rows[-1], flush=True)
    return rows


def accuracies(checkpoints: list[str], folder: Path, draws: int) -> list[dict[str, object]]:
    """Points of accuracy by which the others differ from plain float32, draw by draw, on the same draws."""
    rows: list[dict[str, object]] = []
    ways: dict[str, dict[str, Any]] = {"bf16": {"precision": "bf16"}, "folded": {"fold": True}}
    for checkpoint in checkpoints:
        for noise in ("gaussian:0.05", "gaussian:0.1", "gaussian:0.2"):
            values = {}
            for name, options in {"plain": {}, **ways}.items():
                made = evaluate(checkpoint, str(folder), noise, draws=draws, **grouped({"fold": False, **options})).rows
                values[name] = made[made["metric"] == "accuracy"]["value"].to_numpy()
            for name in ways:
                difference = values[name] - values["plain"]
                about = {"checkpoint": Path(checkpoint).parent.name, "noise": noise, "draws": draws, "compared": name}
                about |= {"accuracy": values["plain"].mean(), "mean": difference.mean(), "std": difference.std(ddof=1)}
                rows.append(about | {"largest": np.abs(difference).max()})
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--noise", choices=list(NOISE), default="gaussian")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cases", nargs="+", default=["floor", "ours", "loop"])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--checkpoint")
    parser.add_argument("--accuracy", nargs="+", metavar="CHECKPOINT", help="compare accuracies instead of times")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    args = parser.parse_args()
    if args.memory:
        table = add_rows(args.out.with_name("speed_evaluation_memory.csv"), [machine() | row for row in memory()])
        print(markdown(table))
        return
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        image_folder(Path(folder), args.data, args.images)
        if args.accuracy:
            about = {**machine(), "images": args.images}
            rows = [about | row for row in accuracies(args.accuracy, Path(folder), args.draws)]
            add_rows(args.out.with_name("speed_evaluation_accuracy.csv"), rows)
            return
        bench = Bench(args, Path(folder))
        bench.case("floor", "1")()
        about = machine(args.device, ["aihwkit", "aihwkit_lightning"])
        about["model"] = Path(args.checkpoint).parent.name if args.checkpoint else args.model
        about |= {"noise": args.noise, "images": args.images, "draws": args.draws}
        about |= {"real_images": args.data is not None, "floor_batch": bench.batch}
        rows = []
        cases = {text: bench.case(*text.partition(":")[::2]) for text in args.cases}
        # One thread's own time is what it computed, whoever else had the core in between.
        clock = time.process_time if args.threads == 1 and args.device == "cpu" else time.perf_counter
        about["clock"] = clock.__name__
        try:
            for number, case, seconds, calm in in_turn(cases, args.rounds, args.device, warm_up=0, clock=clock):
                name, draws = case.partition(":")[0], int(case.partition(":")[2] or args.draws)
                timing = {"round": number, "case": name, "draws": draws, "seconds": round(seconds / draws, 4)}
                rows.append({**about, **timing, "calm": calm})
                print(f"{name}: {seconds / draws:.3f} s a draw", flush=True)
        except KeyboardInterrupt:
            print("interrupted: the rounds so far are kept")
    table = add_rows(args.out, rows)
    print(markdown(ratios(table[table["run"] == table["run"].max()], "floor").round(3)))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
