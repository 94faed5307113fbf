"""ESAM's grid: its runs are those that the paper describes."""

from __future__ import annotations

import pytest

from noiserobust.papers import esam
from noiserobust.papers.grid import MINI, PAPER, artefacts_of, grid_of
from noiserobust.training.rules.base import Plain
from noiserobust.training.rules.esam import ESAM
from noiserobust.training.rules.sam import SAM

AT = grid_of("esam", PAPER)


@pytest.mark.parametrize(
    ("network", "data", "decays", "method"),
    [
        ("ResNet-18", "CIFAR-100", [5e-4, 1e-3, 1e-3], ESAM(0.05, 0.6, 0.5)),
        ("PyramidNet-110", "CIFAR-100", [5e-4, 5e-4, 5e-4], ESAM(0.2, 0.6, 0.5)),
        ("ResNet-50", "ImageNet", [1e-4, 1e-4, 1e-4], ESAM(0.05, 0.6, 0.7, m=128)),
    ],
)
def test_weight_decay_and_strengths_of_a_network(network: str, data: str, decays: list[float], method: ESAM) -> None:
    of = esam.runs(AT, data, network)
    assert [run.weight_decay for run in of.values()] == decays
    assert [run.method for run in of.values()] == [Plain(), SAM(method.rho, m=method.m), method]


def test_each_part_alone() -> None:
    of = esam.ablated(AT, "CIFAR-10", "ResNet-18")
    assert of["ESAM-SWP"].method == ESAM(0.05, 0.6, 1.0)
    assert of["ESAM-SDS"].method == ESAM(0.05, 1.0, 0.5)


def test_one_panel_where_one_data_set_stands_for_both() -> None:
    assert esam.different(grid_of("esam", MINI)) == ["CIFAR-10"]
    assert esam.different(AT) == ["CIFAR-10", "CIFAR-100"]


def test_the_logged_subsets_are_those_of_the_trainings_batches() -> None:
    logs = [cell.quantity.runs[0].log[0] for cell in artefacts_of("esam")["figure5"].cells(AT)]
    assert {log.m for log in logs} == {128, 256}  # type: ignore[attr-defined]


def test_a_paper_has_its_own_number_of_copies() -> None:
    assert [grid_of(paper, PAPER).scale.seeds for paper in ("esam", "rst")] == [3, 5]
    assert grid_of("rst", MINI).scale is MINI
