"""Speed on the device: training steps in plain steps, evaluations in bare passes, draws of small networks together."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import timed
from loops import Setup
from rules import RULES, of_rule
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

import noiserobust as nr
from experiments.gpu.rows import Rows
from noiserobust.evaluation.settings import grouped
from noiserobust.models import ModelSpec
from noiserobust.models.compute import autocast
from noiserobust.rng import Stream, seeded

ROUNDS, PATIENCE = 9, 3.0
"""Rounds of a pair that is timed in turn, and the seconds after which no further one begins (three at least)."""
TARGETS = {"RWP": 1.03, "SAM": 2.0}
"""What a step is to cost on a GPU at most, in plain steps; an evaluation 1.03 bare passes."""
NOISES = {"gaussian": "gaussian:0.1", "pcm": "pcm:t=1d"}
SMALL = {"digits:16": (1, 8), "resnet18:width=8": (3, 32), "resnet18:width=16": (3, 32)}
"""Small networks, and the channels and size of their images."""


def in_turns(
    first: Callable[[], object], second: Callable[[], object], device: str, rounds: int = ROUNDS
) -> dict[str, object]:
    """Seconds of both (medians), and the median and quartiles of second over first, each round timing both in turn."""
    for call in (first, second) * 2:
        call()
    began, pairs = time.perf_counter(), list[tuple[float, float]]()
    while len(pairs) < rounds and (len(pairs) < min(3, rounds) or time.perf_counter() - began < PATIENCE):
        order = (first, second) if len(pairs) % 2 else (second, first)
        taken = {call: timed(call, device) for call in order}
        pairs.append((taken[first], taken[second]))
    seconds = np.array(pairs)
    low, ratio, high = np.quantile(seconds[:, 1] / seconds[:, 0], [0.25, 0.5, 0.75])
    base, own = np.median(seconds, axis=0)
    numbers = {"ratio": ratio, "q1": low, "q3": high, "seconds": own, "base_seconds": base}
    return {name: float(value) for name, value in numbers.items()} | {"rounds": len(pairs)}


def waits(call: Callable[[], object], device: str) -> list[str] | None:
    """The places where ``call`` makes the host wait for the device; None where that cannot be seen."""
    if not device.startswith("cuda"):
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waiting = [one for one in caught if "called a synchronizing" in str(one.message)]
    return sorted({f"{Path(one.filename).name}:{one.lineno}" for one in waiting})


class Speed:
    """All that is timed on a device; ``tiny`` makes it small."""

    def __init__(self, device: str, tiny: bool) -> None:
        self.device, self.tiny = device, tiny
        self.rounds = 1 if tiny else ROUNDS

    def step(self, name: str, batch: int) -> dict[str, object]:
        """Steps of a rule beside as many plain ones, and whether they wait."""
        rule, setup = RULES[name], Setup(4 if self.tiny else 64, batch, self.device)
        steps = rule.steps if self.tiny else rule.steps * max(1, 6 // rule.steps)
        own, plain = of_rule(rule.text, steps, setup), of_rule("plain", steps, setup)
        found = in_turns(plain, own, self.device, self.rounds)
        waiting = waits(own, self.device)
        found |= {"rule": rule.text, "batch": batch, "width": setup.width, "precision": setup.precision, "steps": steps}
        found |= {"bound": rule.bound, "target": TARGETS.get(name), "waits": waiting}
        for part in ("seconds", "base_seconds"):
            found[part] = float(found[part]) / steps  # type: ignore[arg-type]
        return found

    def evaluation(self, noise: str, precision: Any, images: int) -> dict[str, object]:
        """An evaluation of some draws beside as many bare passes; and what each further draw costs."""
        draws, spec = (1, "resnet18:width=4") if self.tiny else (5, "resnet18")
        model = built(spec, 3, self.device)
        x = Stream(0, "gpu", "images").normal((images, 3, 32, 32))
        labels = torch.arange(images) % 10
        options = {"device": self.device, "precision": precision, "channels_last": True}
        on_device = x.to(self.device, memory_format=torch.channels_last)

        def bare(count: int, size: int) -> None:
            with torch.no_grad(), autocast(torch.device(self.device), precision):
                for _ in range(count):
                    for batch in on_device.split(size):
                        model(batch)

        def ours(count: int) -> None:
            nr.evaluate(model, (x, labels), NOISES[noise], count, **grouped(options))

        sizes = (images,) if self.tiny else (128, 512, 2048)
        for size in sizes:
            bare(1, size)
        size = min(sizes, key=lambda size: timed(partial(bare, 1, size), self.device))
        found = in_turns(partial(bare, draws, size), partial(ours, draws), self.device, min(3, self.rounds))
        more = timed(partial(ours, 3 * draws), self.device) - float(found["seconds"])  # type: ignore[arg-type]
        further = more / (2 * draws) / (float(found["base_seconds"]) / draws)  # type: ignore[arg-type]
        about = {"noise": NOISES[noise], "precision": precision, "images": images, "draws": draws, "batch": size}
        return found | about | {"model": spec, "further_draw": further, "target": 1.03}

    def together(self, spec: str) -> dict[str, object]:
        """Draws of a small network in one call (vmap) beside one after the other: with the noise, and passes alone."""
        channels, size = SMALL[spec]
        draws, images = (2, 20) if self.tiny else (32, 1000)
        model = built(spec, channels, self.device)
        x = Stream(0, "gpu", "images").normal((images, channels, size, size), device=self.device)
        noisy = partial(self.noisy, model, draws)
        kept = noisy()
        parameters, buffers = stack_module_state(kept)  # type: ignore[arg-type]
        skeleton = copy.deepcopy(model).to("meta")

        def one(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Tensor:
            return functional_call(skeleton, (own, state), (x,))  # type: ignore[no-any-return]

        @torch.no_grad()
        def in_one_call() -> Tensor:
            return vmap(one)(parameters, buffers)  # type: ignore[no-any-return]

        @torch.no_grad()
        def one_by_one() -> Tensor:
            return torch.stack([network(x) for network in kept])

        expected = one_by_one()
        apart = float((in_one_call() - expected).abs().max() / expected.abs().max())
        assert apart < 0.02, f"outputs differ by {apart} of the largest"
        found = in_turns(one_by_one, in_one_call, self.device, self.rounds)
        noise = min(timed(noisy, self.device) for _ in range(2)) / draws
        return found | {"model": spec, "draws": draws, "images": images, "apart": apart, "noise_seconds": noise}

    @staticmethod
    def noisy(model: nn.Module, draws: int) -> Sequence[nn.Module]:
        """Copies of the network, each with a draw of the noise in its weights."""
        copies = []
        for draw in range(draws):
            with nr.perturbed(model, "gaussian:0.1", draw=draw):
                copies.append(copy.deepcopy(model))
        return copies


def built(spec: str, channels: int, device: str) -> nn.Module:
    with seeded(Stream(0, "gpu", "net")):
        model = ModelSpec.parse(spec).build(channels, 10)
    return model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def run(rows: Rows) -> None:
    speed = Speed(rows.options.device, rows.options.tiny)
    # What the targets are about comes first; the large batch when the small one is through.
    for batch in (2,) if speed.tiny else (128, 512):
        for name in ("RWP", "SAM", "LookSAM-5", "F-SAM") if speed.tiny else RULES:
            rows.each(f"step {name}, batch {batch}", partial(speed.step, name, batch))
        for noise in NOISES:
            for precision in ("fp32",) if speed.tiny else ("fp32", "bf16"):
                images = {2: 10, 128: 10_000, 512: 1_000}[batch]
                name = f"evaluation {noise} {precision}, {images} images"
                rows.each(name, partial(speed.evaluation, noise, precision, images))
        for spec in list(SMALL)[: 1 if speed.tiny else 3] if batch < 512 else ():
            rows.each(f"draws together {spec}", partial(speed.together, spec))
