"""What an evaluation under noise costs: a model of three terms, fitted to small networks, checked on larger ones.

For D draws of a network with W analog weights in L tensors over N inputs, each of F floating-point operations (FLOP)
and A activations (elements that layers write), the model is

    seconds = D (noise(W, L) + N forward(F, A)),   noise = a W + b L,   forward = c F + d A.

The coefficients a and b (for each noise) and c and d (for each family of networks) are fitted to small sizes on one
thread and then predict sizes they have not seen, ResNet-50 at full size among them. It writes what was measured as
rows, and prints from those the coefficients, the deviations, and two plans far past this machine, each with the rates
that it assumes (docs/scale.md).

    python experiments/cost_model.py --measure          # anew: about two minutes on one core
    python experiments/cost_model.py                    # from the published rows

Times are CPU time, the least of several repetitions, so that a busy machine does not lengthen them much.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from noiserobust.analog.noisy import NoisyWeights
from noiserobust.memory import keep_memory
from noiserobust.models import ModelSpec
from noiserobust.noise import NoiseModel
from noiserobust.report.table import as_markdown
from noiserobust.rng import Stream
from noiserobust.storage.files import write_atomically

NOISES = ["gaussian:0.05", "pcm:t=1d"]
NAMES = ["forward", *NOISES]
"""What is timed of each network: a pass over one input, and a draw of each noise, put in and taken out."""


@dataclass
class Case:
    """A network at one size, an input of one sample, and whether the coefficients are fitted to it."""

    family: str
    name: str
    model: nn.Module
    sample: Tensor
    fitted: bool
    batch: int


class Encoder(nn.Module):
    """``layers`` transformer blocks of width ``d``; one input is a sequence of 64 tokens."""

    def __init__(self, d: int, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(d, 4, 4 * d, dropout=0.0, batch_first=True) for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def cases() -> list[Case]:
    networks = []
    for width in (8, 16, 24, 32, 64):
        model = ModelSpec.parse(f"resnet18:width={width}").build(3, 10)
        name = f"ResNet-18, width {width}, 32 x 32"
        networks.append(Case("convolutional", name, model, torch.randn(1, 3, 32, 32), width < 32, 20))
    for size, batch in ((64, 24), (224, 4)):
        model = torchvision.models.resnet50()
        name = f"ResNet-50, {size} x {size}"
        networks.append(Case("convolutional", name, model, torch.randn(1, 3, size, size), False, batch))
    for d in (64, 128, 192, 256, 512, 1024):
        networks.append(Case("transformer", f"2 blocks, d = {d}", Encoder(d), torch.randn(1, 64, d), d < 256, 4))
    return networks


def counted(case: Case) -> tuple[int, int, int, int]:
    """W, L, F, A of one input."""
    activations = 0

    def count(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal activations
        activations += output.numel() if isinstance(output, Tensor) else 0

    leaves = [module for module in case.model.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(count) for leaf in leaves]
    # In training mode, since a fused attention of eval mode hides its products from the counter.
    case.model.train()
    with FlopCounterMode(display=False) as flops:
        case.model(case.sample.expand(2, *case.sample.shape[1:]))
    for handle in handles:
        handle.remove()
    case.model.eval()
    weights = NoisyWeights(case.model).weights
    return sum(w.parameter.numel() for w in weights), len(weights), flops.get_total_flops() // 2, activations // 2


def least(act: Callable[[], object], budget: float = 1.0) -> float:
    """CPU seconds of ``act``: the least of at least three repetitions, after one to warm up."""
    act()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < 30):
        started = time.process_time()
        act()
        times.append(time.process_time() - started)
    return min(times)


@torch.no_grad()
def measured(case: Case) -> dict[str, float]:
    """Seconds of a forward pass per input, and of one draw of each noise, put in and taken out again."""
    inputs = case.sample.expand(case.batch, *case.sample.shape[1:]).contiguous()
    if case.family == "convolutional":
        case.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    noisy = NoisyWeights(case.model)

    def draw(noise: NoiseModel) -> None:
        with noisy.perturbed(noise, Stream(0, "cost")):
            pass

    seconds = {"forward": least(lambda: case.model(inputs)) / case.batch}
    for text in NOISES:
        seconds[text] = least(functools.partial(draw, NoiseModel.parse(text)), budget=0.5)
    return seconds


def fitted(rows: list[tuple[float, float, float]]) -> tuple[float, float]:
    """Non-negative (p, q) that make p x + q y closest to the seconds, in relative terms, of rows (x, y, seconds)."""
    table = np.array([[x / seconds, y / seconds] for x, y, seconds in rows])
    p, q = nnls(table, np.ones(len(rows)))[0]
    return float(p), float(q)


def measure() -> pd.DataFrame:
    """A line per network: its sizes, and the seconds of each of :data:`NAMES`."""
    torch.set_num_threads(1)
    keep_memory()  # as the command line does
    rows = []
    for case in cases():
        sizes = dict(zip(("weights", "tensors", "flops", "activations"), counted(case), strict=True))
        about = {"family": case.family, "network": case.name, "fitted": case.fitted, "batch": case.batch}
        when = {"date": date.today().isoformat(), "torch": torch.__version__}
        rows.append(about | sizes | measured(case) | when)
    return pd.DataFrame(rows)


def coefficients(rows: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """(a, b) of each noise and (c, d) of each family, fitted to the small networks."""
    small = rows[rows["fitted"]]
    found = {name: fitted([*zip(small["weights"], small["tensors"], small[name], strict=True)]) for name in NOISES}
    for family, of in small.groupby("family"):
        found[str(family)] = fitted([*zip(of["flops"], of["activations"], of["forward"], strict=True)])
    return found


def text_of(rows: pd.DataFrame) -> str:
    """The tables of docs/scale.md as Markdown."""
    known = coefficients(rows)
    terms = [["term", "per weight or FLOP", "per tensor or activation"]]
    for text in NOISES:
        a, b = known[text]
        terms.append([f"noise, {text}", f"{1e9 * a:.2f} ns per weight", f"{1e6 * b:.0f} µs per tensor"])
    for family in rows["family"].unique():
        c, d = known[family]
        rate = f"{1e-9 / c:.1f} GFLOP/s" if c else "0"
        terms.append([f"forward, {family}", rate, f"{1e9 * d:.2f} ns per activation"])
    networks = [["network", "W (million)", "GFLOP per input", *(f"{name}: measured (model)" for name in NAMES)]]
    off: dict[str, list[float]] = {name: [] for name in NAMES}
    for row in rows.to_dict("records"):
        c, d = known[row["family"]]
        said = {"forward": c * row["flops"] + d * row["activations"]}
        said |= {text: known[text][0] * row["weights"] + known[text][1] * row["tensors"] for text in NOISES}
        cells = []
        for name in NAMES:
            deviation = said[name] / row[name] - 1
            cells.append(f"{1e3 * row[name]:.3g} ms ({100 * deviation:+.0f} %)")
            if not row["fitted"]:
                off[name].append(deviation)
        mark = ", fitted" if row["fitted"] else ""
        networks.append([row["network"] + mark, f"{row['weights'] / 1e6:.2f}", f"{row['flops'] / 1e9:.3g}", *cells])
    worst = ", ".join(f"{n} {100 * min(d):+.0f} to {100 * max(d):+.0f} %" for n, d in off.items())
    deviation = f"Deviation of the model at sizes that it was not fitted to: {worst}."
    (full,) = rows[rows["network"] == "ResNet-50, 224 x 224"].to_dict("records")
    plans = [*resnet50(full["weights"], full["flops"], full), *seven_billion()]
    return "\n\n".join([as_markdown(terms), as_markdown(networks), deviation, *plans]) + "\n"


DRAWS, IMAGES = 1000, 50_000
PEAK, USED, BANDWIDTH, LINK = 400e12, 0.3, 2e12, 50e9
"""Assumed of one GPU: bf16 FLOP/s, the share of them that a forward pass reaches, bytes/s of memory and of its link."""
TRAFFIC = 36
"""Bytes moved per float32 weight and draw: scale 4, field written 4 and scaled 8, sum 12, copies in and back 8."""


def resnet50(w: int, flops: int, seconds: Mapping[Hashable, float]) -> list[str]:
    """ImageNet's test images under 1,000 draws."""
    forward, days = DRAWS * IMAGES * seconds["forward"], 86400
    gpu_noise, gpu_forward = DRAWS * TRAFFIC * w / BANDWIDTH, DRAWS * IMAGES * flops / (PEAK * USED)
    total = gpu_noise + gpu_forward
    rows = []
    for text in NOISES:
        days_of_core = (forward / days, (forward + DRAWS * seconds[text]) / days)
        noise = f"{DRAWS * seconds[text] / 60:.0f} min"
        rows.append([f"one core here, {text}", f"{days_of_core[0]:.0f} d", noise, f"{days_of_core[1]:.0f} d"])
    for gpus in (1, 8):
        where = f"{gpus} GPU{'s' if gpus > 1 else ''}, assumed rates"
        minutes = [f"{seconds_ / gpus / 60:.1f} min" for seconds_ in (gpu_forward, total)]
        rows.append([where, minutes[0], f"{gpu_noise / gpus:.2f} s", minutes[1]])
    head = f"ResNet-50, {IMAGES:,} images, {DRAWS:,} draws: {DRAWS * IMAGES * flops:.2g} FLOP."
    return [head, as_markdown([["where", "forward", "noise", "in all"], *rows])]


def seven_billion() -> list[str]:
    """A decoder of 32 blocks, d = 4096, gated feed-forward of 11008, vocabulary 32,000, sharded over G GPUs."""
    d, hidden, blocks, vocabulary, tokens = 4096, 11008, 32, 32000, 300_000
    w = blocks * (4 * d * d + 3 * d * hidden) + d * vocabulary
    rows = []
    for gpus in (1, 8, 64, 512):
        # Weights and their backup in bf16, and the largest weight's field, deviation and sum in float32.
        memory = (2 * w + 2 * w + 12 * d * vocabulary) / gpus
        noise = TRAFFIC * w / gpus / BANDWIDTH
        compute = 2 * w * tokens / gpus / (PEAK * USED)
        # Every GPU gets the other shards once per batch of 64 sequences of 2,048 tokens.
        batches = max(1, round(tokens / (gpus * 2048 * 64)))
        gather = batches * 2 * w * (gpus - 1) / gpus / LINK
        seconds = (noise, compute, gather)
        hours = 1000 * (noise + max(compute, gather)) / 3600
        rows.append([str(gpus), f"{memory / 2**30:.2f} GiB", *(f"{1e3 * s:.3g} ms" for s in seconds), f"{hours:.2g} h"])
    head = ["G", "memory per GPU", "noise per draw", "forward per draw", "gathering per draw", "1,000 draws"]
    about = f"Decoder of {w / 1e9:.2f} billion analog weights in bf16, {tokens:,} tokens per draw, on G GPUs:"
    return [about, as_markdown([head, *rows])]


@dataclass
class CostModel:
    """Flags of the program."""

    measure: bool = False
    """Time everything on this machine, and write the rows."""
    rows: Path = Path("docs/results/cost_model.csv")
    """Where the rows lie."""

    def run(self) -> None:
        if self.measure:
            timed = measure()
            write_atomically(self.rows, lambda file: timed.to_csv(file, index=False, float_format="%.6g"))
        print(text_of(pd.read_csv(self.rows)))


if __name__ == "__main__":
    from start import start

    start(CostModel)
