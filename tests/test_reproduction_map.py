"""The map of what is reproduced: agreement of rows that are known, and the page as it stands."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from commands import refused
from scipy import stats

from noiserobust import UserError
from noiserobust.cli import main
from noiserobust.papers.grid import artefacts_of, reproduction_map
from noiserobust.papers.grid.estimate import in_words
from noiserobust.papers.grid.markdown import copies_of
from noiserobust.papers.grid.reproduction_map import agreement, most_shown, read_all
from noiserobust.storage.rows import read_rows

ROOT = Path(__file__).parent.parent


def rows(cells: dict[str, tuple[float, list[float]]], column: str = "sigma 0.1") -> pd.DataFrame:
    lines = [
        {"row": row, "column": column, "quantity": "accuracy", "published": printed, "replicate": copy, "draw": draw}
        | {"value": value + shift}
        for row, (printed, copies) in cells.items()
        for copy, value in enumerate(copies)
        for draw, shift in enumerate((-1.0, 1.0))
    ]
    return pd.DataFrame(lines)


def test_agreement_in_sign_and_size() -> None:
    """Effects on the first row: +10 printed as +9 (inside 10 +- 2.5), +1 printed as -3, -20 printed as -1 (outside)."""
    known = rows(
        {"SGD": (50, [60, 61, 62]), "SAM": (59, [70, 72, 71]), "RWP": (47, [61, 61, 64]), "other": (49, [40, 41, 42])}
    )
    cells, ranks, effects, signs, within = agreement(known)
    assert cells == "4 (accuracy)"
    assert ranks == f"{stats.spearmanr([61, 71, 62, 41], [50, 59, 47, 49]).statistic:+.2f}"
    assert effects == ""  # three are too few
    assert (signs, within) == ("2 of 3", "1 of 3")
    assert agreement(known.assign(published=float("nan"))) == ["none printed", "", "", "", ""]


def test_no_difference_has_no_sign() -> None:
    """Two networks with the same accuracies, whose means differ in the last bit, agree with no printed effect."""
    values = [98.2, 98.2 + 0.1, 98.3 - 1e-14]
    known = rows({"SGD": (50, values), "RWP": (51, [value + 1e-14 for value in values]), "SAM": (49, values)})
    assert agreement(known)[3] == "0 of 2"


def test_copies_are_those_of_the_cells() -> None:
    known = rows({"SGD": (50, [60, 61, 62]), "SAM": (59, [70, 72])})
    times = rows({"SGD": (1, [1])}).assign(quantity="time")
    assert copies_of(most_shown(pd.concat([known, times]))) == "2 to 3"
    assert copies_of(pd.concat([known, times])) == "1 to 3"
    assert copies_of(known[known["row"] == "SGD"]) == "3"


def test_the_page_is_what_the_published_rows_say() -> None:
    page = (ROOT / "docs" / "reproduction_map.md").read_text()
    (mini,) = read_all([ROOT / "docs" / "results" / "incorruptible-mini.parquet"]).values()
    one = agreement(mini[mini["artefact"] == "table1"])
    assert f"| mini | 3 | {' | '.join(one)} |" in page


def test_bad_rows_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "got none; reproduce some" in refused(["reproduce", "map", "--out", str(tmp_path)], capsys)
    other = str(ROOT / "docs" / "results" / "cifar10.parquet")
    assert "expected rows of reproduce" in refused(["reproduce", "map", other, "--out", str(tmp_path)], capsys)


def test_the_command_names_every_artefact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction_map, "_left", lambda artefact: "left")  # costs take seconds
    main(["reproduce", "map", str(ROOT / "docs" / "results" / "saf-mini.parquet"), "--out", str(tmp_path)])
    text = (tmp_path / "map.md").read_text()
    assert "| figure1 | Accuracy against training speed, ImageNet | mini | 3 |" in text
    assert "| table1 | RWP at several strengths in training and in test | none |" in text


def test_what_is_left_is_the_cost_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven trainings of 200 epochs of 50,000 images, one pass each."""
    monkeypatch.setattr(reproduction_map, "_flops", lambda *network: 4e9)
    reproduction_map._seconds.cache_clear()
    left = reproduction_map._left(artefacts_of("incorruptible")["table1"])
    reproduction_map._seconds.cache_clear()
    assert left == f"7 trainings, {in_words(7 * 200 * 50_000 * 4e9 / 120e12)}; cifar100"


@pytest.mark.parametrize(
    ("column", "value"), [("value", "x"), ("published", "x"), ("quantity", None), ("row", None), ("paper", "drop")]
)
def test_foreign_rows_are_refused_by_their_file(column: str, value: str | None, tmp_path: Path) -> None:
    rows = read_rows(ROOT / "docs" / "results" / "rwp-mini.parquet").head(4)
    spoilt = rows.drop(columns=column) if value == "drop" else rows.assign(**{column: value})
    file = tmp_path / "rwp-other.parquet"
    spoilt.to_parquet(file)
    with pytest.raises(UserError, match=r"got .*rwp-other.parquet"):
        read_all([file])
