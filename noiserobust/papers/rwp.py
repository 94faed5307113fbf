"""Efficient Generalization Improvement Guided by Random Weight Perturbation: tables 1 to 10, figures 2 to 11, as grids.

Figure 1 is a diagram. RWP here is the paper's: filter-wise noise, its gradient mixed with the clean one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from noiserobust.papers.grid.artefacts import Cell, artefact
from noiserobust.papers.grid.derived import Passes, times
from noiserobust.papers.grid.measured import (
    fine_tuned,
    heights,
    initial_radius,
    norms_of_filters,
    on_corrupted,
    step_time,
)
from noiserobust.papers.grid.quantity import Accuracy, Logged, logging
from noiserobust.papers.grid.scale import SMALL, Grid
from noiserobust.training import TrainSettings
from noiserobust.training.rules.base import Method, Plain
from noiserobust.training.rules.rwp_mixed import MixedRWP
from noiserobust.training.rules.sam import SAM

PAPER = "rwp"

RECIPE = TrainSettings(
    data="cifar10",
    epochs=200,
    batch_size=256,
    lr=0.1,
    weight_decay=1e-3,
    label_smoothing=0.0,
    cutout=16,
    select_on="none",
    validation=0.0,
)
"""Section 4.1. The last epoch is kept. Cutout is not said to be of any size: 16 pixels on CIFAR-10, 8 on CIFAR-100."""

NETWORKS = ("VGG16-BN", "ResNet-18", "WRN-16-8", "WRN-28-10")
CIFAR = ("CIFAR-10", "CIFAR-100")
RHO = {"CIFAR-10": 0.05, "CIFAR-100": 0.1, "ImageNet": 0.05}
M_SHARPNESS = 128
"""Samples that climb together on ImageNet (section 4.1)."""
GAMMA = {"CIFAR-10": 0.01, "CIFAR-100": 0.01, "ImageNet": 0.005}
OF_DATA: dict[str, dict[str, Any]] = {
    "CIFAR-10": {},
    "CIFAR-100": {"cutout": 8},
    "ImageNet": {"cutout": 0, "epochs": 90, "weight_decay": 1e-4},
}


def trained(at: Grid, data: str, network: str, method: Method, length: float = 1.0, **changes: Any) -> TrainSettings:
    """The paper's run; Cutout stays at the scale paper, the smaller ones train too briefly for it."""
    changes = OF_DATA[data] | changes if at.as_published else changes
    return at.run(data, network, method, length, **changes)


def plain(at: Grid, data: str, network: str, length: float = 1.0) -> TrainSettings:
    return trained(at, data, network, Plain(), length)


def rwp(
    at: Grid, data: str, network: str, length: float = 1.0, gamma: float | None = None, **rule: Any
) -> TrainSettings:
    """RWP at a published gamma, by default the paper's for ``data``; of alpha 1 nothing is left but plain training."""
    if rule.get("alpha") == 1:
        return plain(at, data, network, length)
    return trained(at, data, network, MixedRWP(at.gamma(GAMMA[data] if gamma is None else gamma), **rule), length)


def sam(at: Grid, data: str, network: str, length: float = 1.0, rho: float | None = None, **rule: Any) -> TrainSettings:
    """SAM at a published radius, by default the paper's for ``data``."""
    if rule.get("alpha") == 1:
        return plain(at, data, network, length)
    if at.as_published and data == "ImageNet":
        rule = {"m": M_SHARPNESS} | rule
    return trained(at, data, network, SAM(at.rho(RHO[data] if rho is None else rho), **rule), length)


RULES: dict[str, Callable[..., TrainSettings]] = {"SGD": plain, "RWP": rwp, "SAM": sam}

TIME_NOTE = (
    "FLOPs: forward and backward passes of the whole run, counted. Time: a step timed on this machine, times the "
    "number of epochs; RWP's is that of the longer (noisy) of its two halves, which is what a step takes if each has a "
    "processor and the two need not wait for each other's gradients. On one processor RWP takes SAM's two passes."
)


def costs(run: TrainSettings, method: str, row: str, column: str, length: float = 1.0) -> Iterator[Cell]:
    """FLOPs and time in units of plain training."""
    yield Cell(row, column, times(Passes(run), length))
    yield Cell(row, column, times(step_time(run, "time", halves=method == "RWP"), length))


@artefact(PAPER, "Accuracy, FLOPs and time on CIFAR-10 and CIFAR-100", note=TIME_NOTE)
def table1(at: Grid) -> Iterator[Cell]:
    for data in CIFAR:
        for network in NETWORKS:
            for method, rule in RULES.items():
                run, row = rule(at, data, network), f"{network}, {method}"
                yield Cell(row, data, Accuracy(run))
                yield from costs(run, method, row, data)


@artefact(PAPER, "The same computation: half the epochs for SAM and RWP", note=TIME_NOTE)
def table2(at: Grid) -> Iterator[Cell]:
    for network in NETWORKS:
        for method, rule in RULES.items():
            length = 1.0 if method == "SGD" else 0.5
            run, row = rule(at, "CIFAR-100", network, length), f"{network}, {method}"
            yield Cell(row, "CIFAR-100", Accuracy(run))
            yield from costs(run, method, row, "CIFAR-100", length)


CORRUPTED_NOTE = (
    "At the scales mini and small the corrupted images are of our own making, not CIFAR-10-C: seven corruptions "
    "(Gaussian, shot and impulse noise, blur, contrast, brightness, pixelation), five severities each."
)


def corrupted(at: Grid, run: TrainSettings, data: str, severity: int | None) -> Any:
    folder = at.lying(f"{data}-C") if at.as_published else None
    return on_corrupted(run, folder, severity, at.scale)


@artefact(PAPER, "Accuracy on corrupted images at severity 5", note=CORRUPTED_NOTE)
def table3(at: Grid) -> Iterator[Cell]:
    for data in CIFAR:
        for network in NETWORKS:
            for method in ("SGD", "SAM", "RWP"):
                run = RULES[method](at, data, network)
                yield Cell(f"{network}, {method}", f"{data}-C", corrupted(at, run, data, 5))


def with_adam(at: Grid, data: str, network: str, **changes: Any) -> dict[str, TrainSettings]:
    """Adam, and SAM and RWP on top of it, at the strengths of appendices D and E."""
    common: dict[str, Any] = {"optimizer": "Adam", "lr": 1e-4, "weight_decay": 0.0} | changes
    return {
        "Adam": trained(at, data, network, Plain(), **common),
        "Adam-SAM": trained(at, data, network, SAM(at.rho(0.001)), **common),
        "Adam-RWP": trained(at, data, network, MixedRWP(at.gamma(0.001)), **common),
    }


FINE_TUNED_NOTE = (
    "At the scales mini and small the network was trained here on the first half of the classes before it is "
    "fine-tuned on all of them. At the scale paper it is DeiT-small as published for ImageNet (its file, "
    "deit_small_patch16_224-cd65a155.pth, in the folder of data). The weight decay is not stated: none here."
)


@artefact(PAPER, "Fine-tuning", note=FINE_TUNED_NOTE)
def table4(at: Grid) -> Iterator[Cell]:
    start = at.lying("deit_small_patch16_224-cd65a155.pth") if at.as_published else None
    for data in CIFAR:
        for method, run in with_adam(at, data, "DeiT-S", epochs=20, batch_size=128).items():
            yield Cell(f"DeiT-small, {method}", data, fine_tuned(run, start))


@artefact(PAPER, "Accuracy, FLOPs and time on ImageNet", note=TIME_NOTE + (
    " The paper prints SGD's FLOPs on the ResNets as 2. There, and at the scale paper, 128 "
    "samples climb together in SAM."
))  # fmt: skip
def table5(at: Grid) -> Iterator[Cell]:
    for network in ("VGG16-BN", "ResNet-18", "ResNet-50"):
        known = network if network == "ResNet-50" else f"ImageNet {network}"
        for method, rule in RULES.items():
            run, row = rule(at, "ImageNet", known), f"{network}, {method}"
            yield Cell(row, "ImageNet", Accuracy(run))
            yield Cell(row, "ImageNet", Accuracy(run, unit="top5_accuracy"))
            yield from costs(run, method, row, "ImageNet")


@artefact(PAPER, "Seconds per step", note=(
    "RWP: the longer (noisy) of its two halves, which is what a step takes if each half has a processor and nothing is "
    "lost in communication; the paper's two ran under DDP. Its numbers for RWP are lost; the text says 44 to 46 % less "
    "than SAM."
))  # fmt: skip
def table6(at: Grid) -> Iterator[Cell]:
    for data in (*CIFAR, "ImageNet"):
        network = "ImageNet ResNet-18" if data == "ImageNet" else "ResNet-18"
        for method in ("SGD", "SAM", "RWP"):
            run = RULES[method](at, data, network)
            yield Cell(f"ResNet-18, {method}", data, step_time(run, "seconds_per_step", halves=method == "RWP"))
        run = rwp(at, data, network)
        yield Cell("ResNet-18, RWP on one processor", data, step_time(run, "seconds_per_step"))


@artefact(PAPER, "RWP's two gradients: of the same batch or of different ones", note=(
    "Different: the noisy gradient is that of the batch before."
))  # fmt: skip
def table7(at: Grid) -> Iterator[Cell]:
    for data in CIFAR:
        yield Cell("ResNet-18, SGD", data, Accuracy(plain(at, data, "ResNet-18")))
        yield Cell("ResNet-18, RWP same batch", data, Accuracy(rwp(at, data, "ResNet-18", batches="same")))
        yield Cell("ResNet-18, RWP different batches", data, Accuracy(rwp(at, data, "ResNet-18")))


@artefact(PAPER, "SAM's two gradients: of the same batch or of different ones", note=(
    "Different: a step climbs the gradient of the batch before."
))  # fmt: skip
def table8(at: Grid) -> Iterator[Cell]:
    for data in CIFAR:
        yield Cell("ResNet-18, SGD", data, Accuracy(plain(at, data, "ResNet-18")))
        yield Cell("ResNet-18, SAM same batch", data, Accuracy(sam(at, data, "ResNet-18")))
        yield Cell("ResNet-18, SAM different batches", data, Accuracy(sam(at, data, "ResNet-18", batches="different")))


@artefact(PAPER, "A vision transformer, from scratch", note="The weight decay is not stated: none here.")
def table9(at: Grid) -> Iterator[Cell]:
    for data in CIFAR:
        for method, run in with_adam(at, data, "ViT", epochs=400).items():
            yield Cell(f"ViT, {method}", data, Accuracy(run))


artefact(PAPER, "Fine-tuning (table 4 once more)", name="table10", note=FINE_TUNED_NOTE)(table4)


# --- figures ----------------------------------------------------------------------------------------------------------


@artefact(PAPER, "The loss along a filter-normalised random direction", kind="landscape",
          note="The paper does not say how many directions; here the mean over several. It draws accuracy beside the "
          "loss.")  # fmt: skip
def figure2(at: Grid) -> Iterator[Cell]:
    for part in ("train", "test"):
        for method in ("SAM", "RWP"):
            run = RULES[method](at, "CIFAR-10", "ResNet-18")
            lines = heights(run, part, 2000 if at.as_published else 300, dimensions=1, pairs=5)
            yield Cell(method, part, lines)


RADII, RADIUS_GAMMAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5), (0.005, 0.01, 0.02, 0.03)


@artefact(PAPER, "Accuracy against the radius of the perturbation", kind="magnitudes",
          x="radius (RWP: mean at initialization)", y="accuracy (%)")  # fmt: skip
def figure3(at: Grid) -> Iterator[Cell]:
    for rho in RADII:
        yield Cell("SAM", "CIFAR-100", Accuracy(sam(at, "CIFAR-100", "ResNet-18", rho=rho)), x=at.rho(rho))
    for gamma in RADIUS_GAMMAS:
        run = rwp(at, "CIFAR-100", "ResNet-18", gamma=gamma)
        yield Cell("RWP", "CIFAR-100", Accuracy(run), x=initial_radius(run, at.gamma(gamma)))


@artefact(PAPER, "Norms of the filters", kind="histogram", x="norm of a filter", y="density")
def figure4(at: Grid) -> Iterator[Cell]:
    for method in ("SGD", "SAM", "RWP"):
        yield Cell(method, "CIFAR-100", norms_of_filters(RULES[method](at, "CIFAR-100", "ResNet-18")))


CURVES_NOTE = "Accuracy on held-out training images; at the scale paper on the test images."


def training_curves(at: Grid, data: str) -> Iterator[Cell]:
    network = "ImageNet ResNet-18" if data == "ImageNet" else "ResNet-18"
    for method in ("SGD", "SAM", "RWP"):
        yield Cell(method, "training loss", Logged(RULES[method](at, data, network), "train_loss"))
    for method in ("SGD", "SAM", "RWP"):
        run = RULES[method](at, data, network)
        # As published nothing is held out, and no epoch chosen.
        logged = Logged(logging(run, "accuracy", on=("test",)), "test/accuracy") if at.as_published else None
        yield Cell(method, "accuracy (%)", logged or Logged(run, "accuracy"))


def register_curves(name: str, data: str, remark: str = "") -> None:
    register = artefact(
        PAPER, f"Training curves, {data}{remark}", name=name, kind="epochs", x="epoch", note=CURVES_NOTE
    )
    register(partial(training_curves, data=data))


register_curves("figure5", "CIFAR-100")


@artefact(PAPER, "Accuracy on corrupted images", kind="strengths", x="severity", y="accuracy (%)",
          note=CORRUPTED_NOTE)  # fmt: skip
def figure6(at: Grid) -> Iterator[Cell]:
    for data, network in (("CIFAR-10", "ResNet-18"), ("CIFAR-100", "VGG16-BN")):
        for method in ("SGD", "SAM", "RWP"):
            run = RULES[method](at, data, network)
            yield Cell(method, f"{data}-C, {network}", corrupted(at, run, data, None))


ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SMALL_ALPHAS = (0.0, 0.2, 0.5, 0.8, 1.0)


@artefact(PAPER, "Weight of the clean gradient", kind="strengths", x="alpha (1: SGD)", y="accuracy (%)",
          note="SAM with mixed gradients at every other alpha at the scale mini; at small on a CPU RWP on one network "
          "alone.")  # fmt: skip
def figure7(at: Grid) -> Iterator[Cell]:
    small = at.scale is SMALL
    for network in ("ResNet-18",) if small else ("VGG16-BN", "ResNet-18"):
        for alpha in at.few(ALPHAS, SMALL_ALPHAS):
            yield Cell("RWP", network, Accuracy(rwp(at, "CIFAR-100", network, alpha=alpha)), x=alpha)
        for alpha in () if small else ALPHAS if at.as_published else ALPHAS[::2]:
            yield Cell("SAM, mixed", network, Accuracy(sam(at, "CIFAR-100", network, alpha=alpha)), x=alpha)


@artefact(PAPER, "Magnitude of the noise, with and without the clean gradient", kind="strengths", x="gamma",
          y="accuracy (%)")  # fmt: skip
def figure8(at: Grid) -> Iterator[Cell]:
    for network in ("VGG16-BN", "ResNet-18"):
        for row, alpha in (("RWP", 0.5), ("RWP without the clean gradient", 0.0)):
            for gamma in (0.005, 0.01, 0.015, 0.02):
                run = rwp(at, "CIFAR-100", network, gamma=gamma, alpha=alpha)
                yield Cell(row, network, Accuracy(run), x=at.gamma(gamma))


register_curves("figure9", "CIFAR-10")
register_curves("figure10", "CIFAR-100", " (figure 5 once more)")
register_curves("figure11", "ImageNet")
