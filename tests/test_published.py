"""The numbers transcribed from the papers: every cell once, and each table lost what it is said to have lost."""

from __future__ import annotations

import csv
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "noiserobust" / "papers" / "published"
COLUMNS = ["artefact", "row", "column", "quantity", "value", "noise_std", "weight_std"]
QUANTITIES = {
    "accuracy", "top5_accuracy", "error", "gain", "images_per_second", "speed", "seconds_per_step", "minutes",
    "extra_minutes", "flops", "time", "memory", "extra_propagations",
}  # fmt: skip
# paper -> number of cells of table 1, table 2, ...
CELLS = {
    "incorruptible": (35, 25, 32, 28, 16, 16, 8, 9, 9),
    "rwp": (72, 36, 24, 6, 36, 9, 6, 6, 6, 6),
    "saf": (69, 2, 96),
    "esam": (48, 16, 72),
    "rst": (16, 0, 18, 6, 8, 18, 18, 18, 8, 22, 22, 12, 20),
}
OTHERS = {"rst": {"figure1": 4, "figure2": 6, "text": 6}}
LOST = {"rwp": {"table6": 3}, "saf": {"table1": 18}, "rst": {f"table{n}": c for n, c in enumerate(CELLS["rst"], 1)}}
"""Cells whose numbers the text lost: of RST's tables all."""


@cache
def lines(paper: str) -> list[dict[str, str]]:
    with open(FOLDER / f"{paper}.csv", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == COLUMNS
        return list(reader)


def test_one_file_per_paper() -> None:
    assert {path.stem for path in FOLDER.glob("*.csv")} == set(CELLS)


@pytest.mark.parametrize("paper", CELLS)
class TestPaper:
    def test_every_table_has_its_cells(self, paper: str) -> None:
        tables = {f"table{number}": count for number, count in enumerate(CELLS[paper], 1)}
        assert Counter(line["artefact"] for line in lines(paper)) == Counter(tables | OTHERS.get(paper, {}))
        lost = Counter(line["artefact"] for line in lines(paper) if not line["value"])
        assert lost == Counter(LOST.get(paper, {}))

    def test_keys_are_unique_and_plain(self, paper: str) -> None:
        keys = Counter(tuple(line[name] for name in COLUMNS[:4]) for line in lines(paper))
        assert max(keys.values()) == 1
        assert all(part and part == part.strip() and part.isascii() for key in keys for part in key)
        assert {line["quantity"] for line in lines(paper)} <= QUANTITIES

    def test_values_are_possible(self, paper: str) -> None:
        for line in lines(paper):
            if not line["value"]:
                assert not line["noise_std"], line
                assert not line["weight_std"], line
                continue
            value = float(line["value"])
            assert value > 0, line
            if line["quantity"] in ("accuracy", "top5_accuracy", "error"):
                assert value <= 100, line
            for spread in (line["noise_std"], line["weight_std"]):
                assert not spread or 0 <= float(spread) < 6, line  # the widest printed is 5.75 points

    def test_only_the_noise_paper_prints_a_noise_spread(self, paper: str) -> None:
        """There, every cell has both spreads except the noise-free column, which has one."""
        for line in lines(paper):
            noisy = paper == "incorruptible" and line["column"] != "sigma 0"
            assert bool(line["noise_std"]) is noisy, line
            assert line["weight_std"] or paper != "incorruptible", line


def test_gains_are_the_differences_of_the_accuracies_printed_beside_them() -> None:
    """A check between columns: a misread digit in either would show."""
    table = {
        (line["row"], line["column"], line["quantity"]): float(line["value"])
        for line in lines("esam")
        if line["artefact"] == "table3"
    }
    gains = {key: value for key, value in table.items() if key[2] == "gain"}
    assert len(gains) == 16
    for (row, column, _), gain in gains.items():
        sgd = row.split(", ")[0] + ", SGD"
        assert table[row, column, "accuracy"] - table[sgd, column, "accuracy"] == pytest.approx(gain, abs=0.0051)


@pytest.mark.parametrize(("paper", "reference"), [("saf", ("SGD", "AdamW")), ("esam", ("SAM",))])
def test_speeds_are_the_ratios_of_the_images_per_second(paper: str, reference: tuple[str, ...]) -> None:
    """Rounding and a few slips of the papers (README) leave at most 0.9 points between the two."""
    known = [line for line in lines(paper) if line["value"]]
    rates = {
        (line["artefact"], line["row"], line["column"]): float(line["value"])
        for line in known
        if line["quantity"] == "images_per_second"
    }
    for line in known:
        if line["quantity"] == "speed":
            table, row, column = line["artefact"], line["row"], line["column"]
            network = row.split(", ")[0]
            bases = (rates.get((table, f"{network}, {method}", column)) for method in reference)
            base = next(rate for rate in bases if rate)
            assert 100 * rates[table, row, column] / base == pytest.approx(float(line["value"]), abs=0.9), line
