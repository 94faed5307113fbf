"""Randomized Sharpness-Aware Training: tables 1 to 13, figures 1 to 5 and the numbers of its text, as grids.

No table survived in our text; which cells they have is inferred (published/README.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from noiserobust.papers.grid.artefacts import Cell, artefact
from noiserobust.papers.grid.derived import Best, Drawn, Passes
from noiserobust.papers.grid.measured import step_time
from noiserobust.papers.grid.quantity import Accuracy
from noiserobust.papers.grid.scale import MINI, Grid
from noiserobust.training import Engine, Progress, TrainSettings
from noiserobust.training.probability import Always, Cos1, Cos2, Line, Piecewise, Probability, Sin1, Sin2
from noiserobust.training.rules.asam import ASAM
from noiserobust.training.rules.base import Method, Plain
from noiserobust.training.rules.esam import ESAM
from noiserobust.training.rules.gsam import GSAM
from noiserobust.training.rules.looksam import LookSAM
from noiserobust.training.rules.rst import GRST, RST
from noiserobust.training.rules.sam import SAM, Climbing
from noiserobust.training.rules.ssam import SSAM

PAPER = "rst"

RECIPE = TrainSettings(
    data="cifar10",
    epochs=200,
    batch_size=256,
    lr=0.1,
    weight_decay=5e-4,
    label_smoothing=0.0,
    select_on="none",
    validation=0.0,
    precision="bf16",
)
"""200 epochs are the paper's; its list of settings is lost: the rest are SAM's usual ones, and bf16 autocast. The last
epoch is kept."""

SETS = ("CIFAR-10", "CIFAR-100")
NETWORKS = ("ResNet-18", "WRN-28-10")
WIDE = "WRN-28-10"
RHO = {"CIFAR-10": 0.05, "CIFAR-100": 0.1, "ImageNet": 0.05}
ASAM_RHO = {"CIFAR-10": 0.5, "CIFAR-100": 1.0}
CUTOUT = {"CIFAR-10": 16, "CIFAR-100": 8}
IMAGENET: dict[str, Any] = {"epochs": 100, "lr": 0.1, "weight_decay": 1e-4}
VIT: dict[str, Any] = {"optimizer": "Adam", "lr": 1e-4, "weight_decay": 0.0}
VIT_NETWORK = "ViT-S/16 for CIFAR"
PRINTED = {VIT_NETWORK: "ViT-S16"}

LOST = (
    "The paper's list of settings (appendix C) is lost: batch 256, lr 0.1, weight decay 5e-4, rho 0.05 (CIFAR-100 0.1) "
    "are SAM's usual ones, ours to answer for; no label smoothing. The paper averages 5 trainings "
    "(ImageNet: 3), the scale paper 5 of all, mini and small 3. "
    "Where one data set stands for both CIFARs (all scales but paper), both columns are the same runs, with CIFAR-10's "
    "settings."
)
STEPPED = (
    "The paper's steps are 0.1, 0.2 ... 0.9; the scale mini has 0.2, 0.4, 0.6, 0.8, the scale small 0.2, 0.5, 0.8."
)
VIT_NOTE = (
    "ViT-S16 on CIFAR scales images to 224 pixels; Adam with lr 1e-4 and no weight decay (lost); table 3's further "
    "augmentation is not stated and left out."
)

STEPS = tuple(tenths / 10 for tenths in range(1, 10))
FAMILIES: dict[str, Callable[[float], float | Probability]] = {
    "constant": lambda p: p,
    "piecewise1": lambda b: Piecewise(0.0, b),
    "piecewise2": lambda b: Piecewise(1.0, b),
    "piecewise3": lambda a: Piecewise(a, 0.5),
    "linear1": lambda m: rising(m),
    "linear2": lambda b: Line(_exact(1 - 2 * b), b),
}
"""Section 3.2's groups, each a function of its one parameter: a_c, b_p (a_p 0), b_p (a_p 1), a_p (b_p 0.5), the
probability m in the middle, b_l (1/2 in the middle)."""
TRIGONOMETRIC = {"cos1": Cos1(), "cos2": Cos2(), "sin1": Sin1(), "sin2": Sin2()}


def rising(m: float) -> Line:
    """The line through m in the middle of training and (0, 0) or (1, 1), whichever keeps it in [0, 1]."""
    return Line(_exact(2 * m), 0.0) if m <= 0.5 else Line(_exact(2 - 2 * m), _exact(2 * m - 1))


def parameters(at: Grid) -> list[float]:
    """The parameters of a group that a scale trains."""
    return [0.2, 0.4, 0.6, 0.8] if at.scale is MINI else at.few(STEPS, (0.2, 0.5, 0.8))


Rule = Callable[[str], Method]
"""The method that a row of a table trains with, by the data set."""


def run(at: Grid, network: str, data: str, rule: Rule, *, cutout: bool = False, **changes: Any) -> TrainSettings:
    """A run with the settings that ``network`` and ``data`` have in the paper, as far as they are known."""
    known = known_data(at, data)
    given = dict(IMAGENET if data == "ImageNet" else VIT if network == VIT_NETWORK else {}) | changes
    return at.run(known, network, rule(known), **given, **({"cutout": CUTOUT[known]} if cutout else {}))


def known_data(at: Grid, data: str) -> str:
    """The data set whose settings a run has: CIFAR-10's where that stands for CIFAR-100, too."""
    return "CIFAR-10" if data == "CIFAR-100" and at.scale.data[data] == at.scale.data["CIFAR-10"] else data


def sgd(data: str) -> Method:
    """The base optimizer."""
    return Plain()


def sam(at: Grid) -> Callable[[str], SAM]:
    return lambda data: SAM(at.rho(RHO[data]))


def rst(at: Grid, p: float | Probability) -> Rule:
    """RST of the base optimizer and SAM."""
    return rst_of(sam(at), p)


def g_rst(at: Grid, p: float = 0.5, a: float = 2.0) -> Rule:
    """G-RST with SAM: p a is the regularisation in units of SAM's."""
    return g_rst_of(sam(at), p, a)


def rst_of(rule: Rule, p: float | Probability) -> Rule:
    return lambda data: RST(rule(data), p)


def g_rst_of(rule: Callable[[str], Climbing], p: float = 0.5, a: float = 2.0) -> Rule:
    return lambda data: GRST(rule(data), p, a=a)


def group(at: Grid, family: str) -> dict[str, Rule]:
    """A group of schedules by the names of their rows."""
    return {f"RST {family} {value:g}": rst(at, FAMILIES[family](value)) for value in parameters(at)}


def trigonometric(at: Grid) -> dict[str, Rule]:
    return {f"RST {name}": rst(at, p) for name, p in TRIGONOMETRIC.items()}


def error(settings: TrainSettings) -> Accuracy:
    return Accuracy(settings, unit="error")


def extra(settings: TrainSettings) -> Passes:
    """Extra expected propagations per step."""
    return Passes(settings, "extra_propagations")


def rows(
    at: Grid, network: str, rules: Mapping[str, Rule], sets: Sequence[str] = SETS, named: bool = True, **changes: Any
) -> Iterator[Cell]:
    """Errors: a row per rule, a column per data set."""
    prefix = f"{PRINTED.get(network, network)}, " if named else ""
    for name, rule in rules.items():
        for data in sets:
            yield Cell(prefix + name, data, error(run(at, network, data, rule, **changes)))


# --- tables -----------------------------------------------------------------------------------------------------------


@artefact(PAPER, "SGD and SAM: error, time, extra propagations", note=(
    f"{LOST} Minutes are those of the training steps on this machine (the paper's: four A100), on CIFAR-10."
))  # fmt: skip
def table1(at: Grid) -> Iterator[Cell]:
    for network in NETWORKS:
        for name, rule in {"SGD": sgd, "SAM": sam(at)}.items():
            yield from rows(at, network, {name: rule})
            timed = run(at, network, "CIFAR-10", rule)
            yield Cell(f"{network}, {name}", "CIFAR", step_time(timed, "minutes"))
            yield Cell(f"{network}, {name}", "CIFAR", extra(timed))


@artefact(PAPER, "Extra propagations of the schedules: the formulas, and counted", note=(
    "The published table holds the formulas: a_c, 1 + 2 a_p b_p - b_p - a_p, p_l(T/2). Counted: the mean of p over "
    "1000 steps."
))  # fmt: skip
def table2(at: Grid) -> Iterator[Cell]:
    for family, make in FAMILIES.items():
        p = make(0.3)
        if isinstance(p, Piecewise):
            formula = 1 + 2 * p.a * p.b - p.b - p.a
        else:
            formula = p.at(0.5) if isinstance(p, Probability) else p
        yield Cell(f"{family} 0.3", "formula", Drawn(((0.0, formula),), "extra_propagations"))
        yield Cell(f"{family} 0.3", "counted", extra(run(at, "ResNet-18", "CIFAR-10", rst(at, p))))


@artefact(PAPER, "SGD, SAM and G-RST at p 0.5", note=f"{LOST} {VIT_NOTE}")
def table3(at: Grid) -> Iterator[Cell]:
    rules = {"SAM": sam(at), "G-RST constant 0.5": g_rst(at)}
    for network in NETWORKS:
        yield from rows(at, network, {"SGD": sgd} | rules)
    yield from rows(at, VIT_NETWORK, {"Adam": sgd} | rules, epochs=1200)


@artefact(PAPER, "SGD, SAM and G-RST at p 0.5, ImageNet", note=f"{LOST} On ImageNet: 100 epochs, lr 0.1, decay 1e-4.")
def table4(at: Grid) -> Iterator[Cell]:
    for network in ("ResNet-50", "ResNet-101"):
        yield from rows(at, network, {"SGD": sgd, "SAM": sam(at), "G-RST constant 0.5": g_rst(at)}, ("ImageNet",))


@artefact(PAPER, "Trigonometric schedules", note=LOST)
def table5(at: Grid) -> Iterator[Cell]:
    yield from rows(at, WIDE, trigonometric(at))


WITH_CUTOUT = f"{LOST} Cutout of 16 pixels (CIFAR-100: 8; digits: 4)."


@artefact(PAPER, "Constant schedules with Cutout", note=f"{WITH_CUTOUT} {STEPPED}")
def table6(at: Grid) -> Iterator[Cell]:
    yield from rows(at, WIDE, group(at, "constant"), cutout=True)


@artefact(PAPER, "First group of piecewise schedules with Cutout", note=f"{WITH_CUTOUT} {STEPPED}")
def table7(at: Grid) -> Iterator[Cell]:
    yield from rows(at, WIDE, group(at, "piecewise1"), cutout=True)


@artefact(PAPER, "First group of linear schedules with Cutout", note=f"{WITH_CUTOUT} {STEPPED}")
def table8(at: Grid) -> Iterator[Cell]:
    yield from rows(at, WIDE, group(at, "linear1"), cutout=True)


@artefact(PAPER, "Trigonometric schedules with Cutout", note=WITH_CUTOUT)
def table9(at: Grid) -> Iterator[Cell]:
    yield from rows(at, WIDE, trigonometric(at), cutout=True)


@artefact(PAPER, "VGG16-BN: constant schedules", note=f"{LOST} {STEPPED}")
def table10(at: Grid) -> Iterator[Cell]:
    yield from rows(at, "VGG16-BN", {"SGD": sgd} | group(at, "constant") | {"SAM": sam(at)})


@artefact(PAPER, "ViT-S16: constant schedules", note=f"{LOST} {VIT_NOTE} {STEPPED}")
def table11(at: Grid) -> Iterator[Cell]:
    yield from rows(at, VIT_NETWORK, {"Adam": sgd} | group(at, "constant") | {"SAM": sam(at)}, epochs=300)


@artefact(PAPER, "RST and G-RST of ASAM and GSAM", note=(
    f"{LOST} The network is not known: ResNet-18 here. ASAM's rho is 0.5 (CIFAR-100 1.0), GSAM's alpha 0.4."
))  # fmt: skip
def table12(at: Grid) -> Iterator[Cell]:
    bases: dict[str, Callable[[str], Climbing]] = {
        "ASAM": lambda data: ASAM(at.rho(ASAM_RHO[data])),
        "GSAM": lambda data: GSAM(at.rho(RHO[data])),
    }
    rules: dict[str, Rule] = {}
    for name, base in bases.items():
        rules |= {name: base, f"RST {name} constant 0.5": rst_of(base, 0.5)}
        rules[f"G-RST {name} constant 0.5"] = g_rst_of(base)
    yield from rows(at, "ResNet-18", rules, named=False)


@artefact(PAPER, "RST of LookSAM, ESAM and SSAM", note=(
    f"{LOST} The network is not known: ResNet-18 here. LookSAM's k 5 counts the coin's heads, alpha 0.7; ESAM's beta "
    "0.6, gamma 0.5; SSAM perturbs half of the weights."
))  # fmt: skip
def table13(at: Grid) -> Iterator[Cell]:
    def with_rho(method: Callable[[float], Method]) -> Rule:
        return lambda data: method(at.rho(RHO[data]))

    rules: dict[str, Rule] = {"SGD": sgd}
    for name, base in {"LookSAM-5": with_rho(LookSAM), "ESAM": with_rho(ESAM), "SSAM": with_rho(SSAM)}.items():
        rules |= {name: base} | {f"RST {name} constant {p:g}": rst_of(base, p) for p in (0.5, 0.75)}
    yield from rows(at, "ResNet-18", rules, named=False)


@artefact(PAPER, "Costs that the text states", note=(
    "The paper calls 64 % the extra propagations of sinusoids; it is 2 / pi for sin1 and 1 - 2 / pi = 36 % for sin2."
))  # fmt: skip
def text(at: Grid) -> Iterator[Cell]:
    for network in NETWORKS:
        yield Cell(f"{network}, SAM", "CIFAR", step_time(run(at, network, "CIFAR-10", sam(at)), "time"))
    for name, rule in trigonometric(at).items():
        yield Cell(f"{WIDE}, {name}", "CIFAR", extra(run(at, WIDE, "CIFAR-10", rule)))


# --- figures ----------------------------------------------------------------------------------------------------------

EXTRA = "extra propagations"
ALWAYS_HALF = {"piecewise3": "a_p", "linear2": "b_l"}
"""Groups whose extra propagations are 1/2 whatever the parameter: drawn against that."""


def functions(at: Grid, family: str, column: str) -> Iterator[Cell]:
    """A group's probabilities as functions of the share of training."""
    for value in parameters(at):
        p = FAMILIES[family](value)
        yield Cell(f"{family} {value:g}", column, Drawn(drawn(p if isinstance(p, Probability) else Always(p))))


def drawn(p: Probability, points: int = 201) -> tuple[tuple[float, float], ...]:
    shares = [index / (points - 1) for index in range(points)]
    return tuple((share, p.at(share)) for share in shares)


def errors(at: Grid, network: str, family: str, data: str, column: str) -> Iterator[Cell]:
    """A group's errors against extra propagations, SGD and SAM at the ends, or against the parameter."""
    line, half = f"{network}, RST {family}", family in ALWAYS_HALF
    if not half:
        yield Cell(f"{line} SGD", column, error(run(at, network, data, sgd)), x=0.0)
    # In the first piecewise group a larger parameter costs less.
    for value in sorted(parameters(at), reverse=family == "piecewise1"):
        settings = run(at, network, data, rst(at, FAMILIES[family](value)))
        yield Cell(f"{line} {value:g}", column, error(settings), x=value if half else extra(settings))
    if not half:
        yield Cell(f"{line} SAM", column, error(run(at, network, data, sam(at))), x=1.0)


@artefact(PAPER, "Constant schedules: functions, extra time, error", kind="families", x=EXTRA, y="extra time",
          note=f"{LOST} {STEPPED} Extra time is timed on training steps, in units of SGD's.")  # fmt: skip
def figure1(at: Grid) -> Iterator[Cell]:
    yield from functions(at, "constant", "functions")
    for network in NETWORKS:
        for value in parameters(at):
            settings = run(at, network, "CIFAR-10", rst(at, value))
            timed = step_time(settings, "extra_time")
            yield Cell(f"{network}, RST constant {value:g}", "extra time", timed, x=extra(settings))
    for data in SETS:
        for network in NETWORKS:
            yield from errors(at, network, "constant", data, data)


@artefact(PAPER, "Piecewise and linear schedules: functions and errors", kind="families",
          x=EXTRA, y="test error (%)",
          note=f"{LOST} {STEPPED} Extra minutes of piecewise3 are timed at a_p 0.8 on training steps, on this machine "
          "(the paper's: four A100).")  # fmt: skip
def figure2(at: Grid) -> Iterator[Cell]:
    for family in list(FAMILIES)[1:]:
        yield from functions(at, family, f"{family}: p(t)")
        for data in SETS:
            for network in NETWORKS:
                against = f", against {ALWAYS_HALF[family]}" if family in ALWAYS_HALF else ""
                yield from errors(at, network, family, data, f"{family}: {data}{against}")
    for network in NETWORKS:
        best = {f"b {b:g}": rst(at, FAMILIES["piecewise1"](b)) for b in parameters(at)}
        for data in SETS:
            choices = tuple(error(run(at, network, data, rule)) for rule in best.values())
            yield Cell(f"{network}, RST piecewise1 best", data, Best(choices, tuple(best)))
        timed = run(at, network, "CIFAR-10", rst(at, FAMILIES["piecewise3"](0.8)))
        yield Cell(f"{network}, RST piecewise3", "CIFAR", step_time(timed, "extra_minutes"))


@artefact(PAPER, "Error against extra computation, all schedules", kind="families", x=EXTRA, y="test error (%)",
          note=f"{WIDE}. {LOST} {STEPPED}")  # fmt: skip
def figure3(at: Grid) -> Iterator[Cell]:
    rules: dict[str, Rule] = {"baseline SGD": sgd, "baseline SAM": sam(at)}
    for family, make in FAMILIES.items():
        rules |= {f"{family} {value:g}": rst(at, make(value)) for value in parameters(at)}
    for data in SETS:
        for row, rule in rules.items():
            settings = run(at, WIDE, data, rule)
            yield Cell(row, data, error(settings), x=extra(settings))


@artefact(PAPER, "Trigonometric schedules and their coins", kind="families", x="share of training", y="p",
          note="Dots: the coin X of seed 0 at the 100 steps of a run of 100.")  # fmt: skip
def figure4(at: Grid) -> Iterator[Cell]:
    for name, p in TRIGONOMETRIC.items():
        yield Cell(name, name, Drawn(drawn(p)))
        yield Cell(f"{name} coins", name, Drawn(coins(p), "coin"))


def coins(p: Probability, steps: int = 100) -> tuple[tuple[float, float], ...]:
    """The coins of a run of so many steps, as :class:`RST` tosses them at seed 0."""
    network = nn.Linear(1, 1)
    engine = Engine(network, torch.optim.SGD(network.parameters()))
    rule, places = RST(SAM(), p), [Progress(step, steps) for step in range(steps)]
    return tuple((place.step / steps, float(rule.coin(engine, place))) for place in places)


@artefact(PAPER, "G-RST: regularisation against probability", kind="image", x="p",
          y="test error (%); p a, the regularisation in units of SAM's",
          note=f"{WIDE} on CIFAR-100 (the paper does not say), a = gamma_rst / p; gamma_rst in steps of 0.25 (the "
          f"paper states its range alone). {LOST}")  # fmt: skip
def figure5(at: Grid) -> Iterator[Cell]:
    for gamma in at.few((0.5, 0.75, 1.0, 1.25, 1.5), (0.5, 1.0, 1.5)):
        for p in at.few((0.1, 0.3, 0.5, 0.7, 0.9), (0.1, 0.5, 0.9)):
            settings = run(at, WIDE, "CIFAR-100", g_rst(at, p, _exact(gamma / p)))
            yield Cell(f"{gamma:g}", "CIFAR-100", error(settings), x=p)


def _exact(value: float) -> float:
    """0.8, not 0.8000000000000000444, in a run's name."""
    return round(value, 6)
