"""ESAM's grid: its runs are those that the paper describes."""

from __future__ import annotations

import pytest

from noiserobust.papers import esam
from noiserobust.papers.grid import MINI, PAPER, grid_of
from noiserobust.training.rules.base import Plain
from noiserobust.training.rules.esam import ESAM
from noiserobust.training.rules.sam import SAM

AT = grid_of("esam", PAPER)


@pytest.mark.parametrize(
    ("network", "epochs", "batch", "lr", "sgd_decay", "decay", "method"),
    [
        ("ResNet-18", 200, 128, 0.05, 5e-4, 1e-3, ESAM(0.05, 0.6, 0.5)),
        ("WRN-28-10", 200, 256, 0.05, 5e-4, 1e-3, ESAM(0.1, 0.5, 0.5)),
        ("PyramidNet-110", 300, 256, 0.1, 5e-4, 5e-4, ESAM(0.2, 0.6, 0.5)),
        ("ResNet-50", 90, 512, 0.2, 1e-4, 1e-4, ESAM(0.05, 0.6, 0.7)),
        ("ResNet-101", 90, 512, 0.2, 1e-4, 1e-4, ESAM(0.05, 0.6, 0.7)),
    ],
)
def test_settings_of_the_papers_tables(
    network: str, epochs: int, batch: int, lr: float, sgd_decay: float, decay: float, method: ESAM
) -> None:
    """Tables 4 and 5 of the paper, beta and gamma of its section 3.1."""
    data = "ImageNet" if network in ("ResNet-50", "ResNet-101") else "CIFAR-100"
    of = esam.runs(AT, data, network)
    for name, expected in (("SGD", sgd_decay), ("SAM", decay), ("ESAM", decay)):
        run = of[name]
        assert (run.epochs, run.batch_size, run.lr, run.weight_decay) == (epochs, batch, lr, expected)
    assert [run.method for run in of.values()] == [Plain(), SAM(method.rho), method]


def test_each_part_alone() -> None:
    of = esam.ablated(AT, "CIFAR-10", "ResNet-18")
    assert of["ESAM-SWP"].method == ESAM(0.05, 0.6, 1.0)
    assert of["ESAM-SDS"].method == ESAM(0.05, 1.0, 0.5)


def test_one_panel_where_one_data_set_stands_for_both() -> None:
    assert esam.different(grid_of("esam", MINI)) == ["CIFAR-10"]
    assert esam.different(AT) == ["CIFAR-10", "CIFAR-100"]
