"""Efficient Sharpness-aware Minimization: tables 1 to 3, figures 1 and 3 to 6, as grids. Figure 2 is a diagram."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from noiserobust.noise import Gaussian
from noiserobust.papers.grid.artefacts import Cell, artefact
from noiserobust.papers.grid.derived import Computed, gain, percent
from noiserobust.papers.grid.measured import heights, step_time
from noiserobust.papers.grid.quantity import Accuracy, Logged, logging
from noiserobust.papers.grid.scale import Grid
from noiserobust.training import TrainSettings
from noiserobust.training.rules.base import Method, Plain
from noiserobust.training.rules.esam import ESAM
from noiserobust.training.rules.sam import SAM

PAPER = "esam"

RECIPE = TrainSettings(
    data="cifar10",
    epochs=200,
    batch_size=128,
    lr=0.05,
    weight_decay=5e-4,
    label_smoothing=0.0,
    select_on="test",
    select_noise=Gaussian(0.0),
    select_draws=1,
)
"""Appendix A.3. "Best test accuracies": the epoch kept is the best on the *test* images."""

CIFAR = ("CIFAR-10", "CIFAR-100")
RHO = {"ResNet-18": 0.05, "WRN-28-10": 0.1, "PyramidNet-110": 0.2, "ResNet-50": 0.05, "ResNet-101": 0.05}
BETA = {"ResNet-18": 0.6, "WRN-28-10": 0.5, "PyramidNet-110": 0.6, "ResNet-50": 0.6, "ResNet-101": 0.6}
GAMMA = {"ResNet-18": 0.5, "WRN-28-10": 0.5, "PyramidNet-110": 0.5, "ResNet-50": 0.7, "ResNet-101": 0.7}
"""Share of the tensors perturbed, and of the samples kept."""

IMAGENET: dict[str, Any] = {"epochs": 90, "batch_size": 512, "lr": 0.2, "weight_decay": 1e-4}
M_SHARPNESS = 128
"""Samples of one card on ImageNet, which climb together in SAM and ESAM."""
OF_NETWORK: dict[str, dict[str, Any]] = {
    "ResNet-18": {},
    "WRN-28-10": {"batch_size": 256},
    "PyramidNet-110": {"epochs": 300, "batch_size": 256, "lr": 0.1},
    "ResNet-50": IMAGENET,
    "ResNet-101": IMAGENET,
}
SHARP_DECAY = {"ResNet-18": 1e-3, "WRN-28-10": 1e-3}
"""Weight decay of SAM and ESAM where it is not SGD's."""

ESAM_NOTE = (
    "ESAM here scales its step by the norm over the chosen tensors over beta, not over 1 - beta as printed. "
    "Speeds are of steps timed on this machine in turn with plain ones, in percent of SAM's. By count of passes SDS "
    "alone pays only for gamma < 2/3 (ranking the samples is a forward pass of the whole batch), and ESAM takes 1.7 of "
    "plain training's time to SAM's 2."
)


def trained(at: Grid, data: str, network: str, method: Method) -> TrainSettings:
    changes = dict(OF_NETWORK[network])
    if network in SHARP_DECAY and not isinstance(method, Plain):
        changes["weight_decay"] = SHARP_DECAY[network]
    return at.run(data, network, method, **changes)


def plain(at: Grid, data: str, network: str) -> TrainSettings:
    return trained(at, data, network, Plain())


def sam(at: Grid, data: str, network: str) -> TrainSettings:
    return trained(at, data, network, SAM(at.rho(RHO[network]), m=m_sharpness(at, data)))


def esam(at: Grid, data: str, network: str, beta: float | None = None, gamma: float | None = None) -> TrainSettings:
    """ESAM with the paper's beta and gamma unless they are given."""
    beta, gamma = beta or BETA[network], gamma or GAMMA[network]
    return trained(at, data, network, ESAM(at.rho(RHO[network]), beta, gamma, m=m_sharpness(at, data)))


def m_sharpness(at: Grid, data: str) -> int | None:
    """How many samples climb together: on ImageNet those of one card."""
    return M_SHARPNESS if at.as_published and data == "ImageNet" else None


def runs(at: Grid, data: str, network: str) -> dict[str, TrainSettings]:
    """SGD, SAM and ESAM."""
    return {"SGD": plain(at, data, network), "SAM": sam(at, data, network), "ESAM": esam(at, data, network)}


def ablated(at: Grid, data: str, network: str) -> dict[str, TrainSettings]:
    """The same with each of ESAM's two parts alone."""
    parts = {"ESAM-SWP": esam(at, data, network, gamma=1.0), "ESAM-SDS": esam(at, data, network, beta=1.0)}
    whole = runs(at, data, network)
    return {"SGD": whole["SGD"], "SAM": whole["SAM"], **parts, "ESAM": whole["ESAM"]}


def speed(run: TrainSettings, reference: TrainSettings) -> Computed:
    """Speed in percent of the reference's; both were timed in turn with plain steps, so that a busy machine cancels."""
    return percent(step_time(reference, "time"), step_time(run, "time"))


def measured(of: dict[str, TrainSettings], network: str, data: str, gains: bool = False) -> Iterator[Cell]:
    """Accuracy and speed of every run."""
    for method, run in of.items():
        row = f"{network}, {method}"
        yield Cell(row, data, Accuracy(run))
        if gains and method != "SGD":
            yield Cell(row, data, gain(Accuracy(run), Accuracy(of["SGD"])))
        yield Cell(row, data, step_time(run, "images_per_second"))
        if method != "SGD":
            yield Cell(row, data, speed(run, of["SAM"]))


@artefact(PAPER, "Accuracy and speed on CIFAR-10 and CIFAR-100", note=ESAM_NOTE)
def table1(at: Grid) -> Iterator[Cell]:
    for network in ("ResNet-18", "WRN-28-10", "PyramidNet-110"):
        for data in CIFAR:
            yield from measured(runs(at, data, network), network, data)


@artefact(PAPER, "Accuracy and speed on ImageNet", note=ESAM_NOTE + (
    " 128 samples climb together in SAM and ESAM in the paper and at the scale paper, all of a batch at the others."
))  # fmt: skip
def table2(at: Grid) -> Iterator[Cell]:
    for network in ("ResNet-50", "ResNet-101"):
        yield from measured(runs(at, "ImageNet", network), network, "ImageNet")


@artefact(PAPER, "Stochastic weight perturbation and sharpness-sensitive data selection, each alone", note=ESAM_NOTE)
def table3(at: Grid) -> Iterator[Cell]:
    for network in ("ResNet-18", "WRN-28-10"):
        for data in CIFAR:
            yield from measured(ablated(at, data, network), network, data, gains=True)


# --- figures ----------------------------------------------------------------------------------------------------------


def different(at: Grid) -> list[str]:
    """CIFAR-10 and CIFAR-100, or only the first where one data set stands for both."""
    return list({at.scale.data[data]: data for data in reversed(CIFAR)}.values())[::-1]


@artefact(PAPER, "Speed against accuracy, PyramidNet-110 on CIFAR-100", kind="scatter", x="images per second",
          y="accuracy (%)")  # fmt: skip
def figure1(at: Grid) -> Iterator[Cell]:
    for method, run in runs(at, "CIFAR-100", "PyramidNet-110").items():
        yield Cell(method, "CIFAR-100", Accuracy(run), x=step_time(run, "images_per_second"))


SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@artefact(PAPER, "SWP's beta and SDS's gamma: accuracy against speed", kind="scatter", x="speed (% of SAM's)",
          y="accuracy (%)",
          note=ESAM_NOTE + " WRN-28-10 at the scale paper alone; one panel where one data set stands for both CIFARs."
          )  # fmt: skip
def figure3(at: Grid) -> Iterator[Cell]:
    for network in ("ResNet-18", "WRN-28-10") if at.as_published else ("ResNet-18",):
        for data in different(at):
            of = runs(at, data, network)
            rows = {f"SWP {beta:g}": esam(at, data, network, beta=beta, gamma=1.0) for beta in SHARES}
            rows |= {f"SDS {gamma:g}": esam(at, data, network, beta=1.0, gamma=gamma) for gamma in SHARES}
            for row, run in (of | rows).items():
                yield Cell(row, f"{network}, {data}", Accuracy(run), x=speed(run, of["SAM"]))


@artefact(PAPER, "Loss landscapes of ResNet-50 on ImageNet", kind="landscape",
          note="The paper's are means over 10 pairs of directions, 100 x 100 points each.")  # fmt: skip
def figure4(at: Grid) -> Iterator[Cell]:
    images, points, pairs = (2000, 41, 10) if at.as_published else (300, 11, 2)
    for method, run in runs(at, "ImageNet", "ResNet-50").items():
        yield Cell(method, "test", heights(run, "test", images, points=points, pairs=pairs))


def subsets(at: Grid, part: str) -> Iterator[Cell]:
    """Loss or cosine of the two subsets (:class:`~noiserobust.minima.ESAMSubset`) during training with ESAM."""
    lines = {"B+ at w + e": f"selected_perturbed_{part}", "B+ at w": f"selected_{part}"}
    lines |= {"B- at w + e": f"other_perturbed_{part}", "B- at w": f"other_{part}"}
    for network in ("ResNet-18", "WRN-28-10"):
        for data in different(at):
            trained = esam(at, data, network)
            measure = f"esam_subset:{at.rho(RHO[network])!r},gamma={GAMMA[network]!r},m={trained.batch_size}"
            run = logging(trained, measure)
            for row, column in lines.items():
                yield Cell(row, f"{network}, {data}", Logged(run, f"train/{run.log[0]}/{column}"))


SUBSET_NOTE = (
    "B+: the samples that SDS selects; B-: the others. Without label smoothing, in eval mode. The logged subsets climb "
    "SAM's whole step (beta 1)."
)


@artefact(PAPER, "Losses on the samples that SDS selects, and on the others", kind="epochs", x="epoch", y="loss",
          note=SUBSET_NOTE)  # fmt: skip
def figure5(at: Grid) -> Iterator[Cell]:
    yield from subsets(at, "loss")


@artefact(PAPER, "Cosines of the gradients on both with the whole batch's", kind="epochs", x="epoch", y="cosine",
          note=SUBSET_NOTE)  # fmt: skip
def figure6(at: Grid) -> Iterator[Cell]:
    yield from subsets(at, "cosine")
