"""The training rules that are timed, what bounds each from below, and steps of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from loops import CLASSES, Setup
from torch import nn

from noiserobust.training import RST, Engine, Method, Progress
from noiserobust.training.checkpointing import checkpointed
from noiserobust.training.compiling import compiled

EPOCH = 10
"""The epoch that all steps lie in: past the start of SAF and MESA."""


@dataclass(frozen=True)
class Rule:
    """A rule, the ratio it is meant to stay below, and what bounds it from below by counting passes.

    A plain step is a forward pass of 1/3 and a backward pass of 2/3 of its time.
    """

    text: str
    target: float | None
    bound: float
    why: str
    steps: int = 1
    """Steps that are timed together: a period of the rule, or one step for each side of its coin."""


RULES = {
    "RWP": Rule("rwp:gaussian(0.1)", 1.05, 1.0, "one pass; normals, a copy of the weights, its return"),
    "RWP, 2 draws": Rule("rwp:gaussian(0.1),draws=2", None, 2.0, "two passes"),
    "RWP Laplace": Rule("rwp:laplace(0.05)", 1.10, 1.0, "one pass; a logarithm a weight"),
    "mixed RWP": Rule("rwp-mixed:0.01", 2.05, 2.0, "two passes"),
    "SAM": Rule("sam:0.05", 2.00, 2.0, "two passes"),
    "ASAM": Rule("asam:0.5", 2.05, 2.0, "two passes"),
    "GSAM": Rule("gsam:0.05", None, 2.0, "two passes"),
    "SSAM": Rule("ssam:0.05", None, 2.0, "two passes; a mask every 100 steps, not in these"),
    "LookSAM-5": Rule("looksam:0.05,k=5", 1.20, 1.2, "(2 + 4) / 5 passes", steps=5),
    "ESAM(.6, .5)": Rule("esam:0.05", 1.75, 1.7, "1/3 + 2/3 (1 + .6) / 2 + 1/3 + .5 passes", steps=2),
    "SAF": Rule("saf:0.3", 1.03, 1.0, "one pass"),
    "MESA": Rule("mesa:0.8", 1.40, 1.33, "one pass and a forward pass in eval mode"),
    "RST(.5)": Rule("rst:sam(0.05),p=0.5", 1.55, 1.5, "(2 + 1) / 2 passes", steps=2),
    "RST(.8)": Rule("rst:sam(0.05),p=0.8", None, 1.8, "(4 x 2 + 1) / 5 passes", steps=5),
    "G-RST(.5)": Rule("g-rst:sam(0.05),p=0.5", 1.55, 1.5, "(2 + 1) / 2 passes", steps=2),
    "AMP": Rule("amp:0.5", None, 2.0, "two passes"),
    "ARWP": Rule("arwp:0.01", None, 1.0, "one pass; noise and a mean square for every weight"),
    "mixed ARWP": Rule("arwp-mixed:0.01", None, 2.0, "two passes"),
    "LPF-SGD, 8 draws": Rule("lpf-sgd:0.001,draws=8", None, 1.0, "eight passes of an eighth of the batch each"),
    "SAMSON": Rule("samson:0.5", None, 2.0, "two passes"),
    "F-SAM": Rule("f-sam:0.1", None, 2.0, "two passes"),
    "VaSSO": Rule("vasso:0.1", None, 2.0, "two passes"),
}


OPTIONS = {
    "compiled": ("plain", "compile"),
    "compiled, RWP": ("rwp:gaussian(0.1)", "compile"),
    "compiled, SAM": ("sam:0.1", "compile"),
    "checkpointing": ("plain", "checkpointing"),
    **{f"`io:{text}`": ("plain", f"io:{text}") for text in ("dac=8,adc=8", "dac=8,adc=8,noise=0.06")},
    "`io:dac=8,adc=8,learnt=true`": ("plain", "io:dac=8,adc=8,learnt=true"),
}
"""What a step is asked for beside its rule: a rule, and compile, checkpointing or converters."""


def of_option(name: str, setup: Setup) -> Callable[[], object]:
    """A step of one of ``OPTIONS``."""
    text, option = OPTIONS[name]
    kept = ExitStack()  # open as long as the program runs

    def wrap(model: nn.Module) -> nn.Module:
        if option == "checkpointing":
            return kept.enter_context(checkpointed(model))
        return compiled(model, torch.device(setup.device)) if option == "compile" else model

    step = of_rule(text, 1, setup, wrap, converters=option if option.startswith("io:") else "none")

    def run() -> ExitStack:
        step()
        return kept

    return run


def of_rule(
    text: str,
    steps: int,
    setup: Setup,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    ranks: int = 1,
    converters: str = "none",
) -> Callable[[], object]:
    """So many steps of one of our rules; of a coin's as many heads as tails."""
    method, model, data = Method.parse(text), wrap(setup.model()), setup.data(setup.batch // ranks)
    engine = Engine(
        model,
        setup.sgd(model),
        precision=setup.precision,
        samples=setup.batch,
        classes=CLASSES,
        converters=converters,
        scaler=torch.amp.GradScaler(setup.device) if setup.precision == "fp16" else None,
    )
    numbers, first = iter(range(10**9)), 0
    method.prepare(engine)
    if "saf" in engine.memory:
        engine.memory["saf"]["epochs"].fill_(EPOCH - 3)  # as if every sample had been seen three epochs ago
    if isinstance(method, RST):
        # Coins are named by the step, so that steps of which a share p is heads can be looked for.
        heads = round(steps * method.probability(_at(first)))
        while sum(method.coin(engine, _at(first + step)) for step in range(steps)) != heads:
            first += 1
        numbers = iter([*range(first, first + steps)] * 10**4)

    def run() -> None:
        for _ in range(steps):
            method.step(engine, data, _at(next(numbers)))

    return run


def _at(step: int) -> Progress:
    return Progress(step, 10**6, EPOCH, 100)
