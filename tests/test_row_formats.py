"""Rows as parquet, CSV and JSON lines: the same values and types from each, and the ledger beside any of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from noiserobust import UserError
from noiserobust.evaluation import evaluate, trajectories
from noiserobust.storage.rows import read_rows, write_rows

SUFFIXES = (".parquet", ".csv", ".jsonl")
ODD = pd.DataFrame(
    {
        "commit": ["12e4567", "0123", "1.0", None, ""],
        "noise": ['say "x", y', "two\nlines", "nan", "null", "ü±, "],
        "value": [0.1, 1e-300, float("nan"), float("inf"), -float("inf")],
        "strength": [1.0, 2.0, 3.0, 4.0, 5.0],
        "draw": [0, 1, 2, 3, 2**62],
        "none": [np.nan] * 5,
        "flag": [True, False, True, True, False],
        "count": [1, 2, 3, 4, 5],
    }
)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_values_and_types_come_back_exactly(suffix: str, tmp_path: Path) -> None:
    write_rows(ODD, tmp_path / f"rows{suffix}")
    pd.testing.assert_frame_equal(read_rows(tmp_path / f"rows{suffix}"), ODD, check_exact=True)


def test_lines_are_json_that_any_reader_takes(tmp_path: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    lines = write_rows(ODD, tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=refuse)["draw"] for line in lines] == ODD["draw"].tolist()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_evaluation_goes_on_from_any_of_them(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, data, out = nn.Linear(6, 3), (torch.randn(20, 6), torch.randint(3, (20,))), tmp_path / f"rows{suffix}"
    first = evaluate(net, data, ["gaussian:0", "gaussian:0.1"], 2, out=out).rows
    (tmp_path / f"rows{suffix}.ledger").unlink()  # the file alone is enough
    monkeypatch.setattr("noiserobust.evaluation.on_chips.ModelOnChips.score", lambda *a, **k: {}["computed again"])
    again = evaluate(net, data, ["gaussian:0", "gaussian:0.1"], 2, out=out).rows
    pd.testing.assert_frame_equal(again, first, check_exact=True)
    stored = read_rows(out)
    assert stored.dtypes.to_dict() == read_rows(write_rows(stored, tmp_path / "twin.parquet")).dtypes.to_dict()
    order = ["draw", "strength", "metric"]
    pd.testing.assert_frame_equal(
        *(rows.sort_values(order, ignore_index=True) for rows in (stored, first[stored.columns])), check_exact=True
    )


def test_a_csv_of_another_program(tmp_path: Path) -> None:
    for quote in ("", '"'):
        head, text = (
            ",".join(f"{quote}{word}{quote}" for word in words) for words in (["noise", "draw", "value"], ["0.10"])
        )
        (tmp_path / "other.csv").write_text(f"\ufeff{head}\r\n{text},0,1.5\r\n0.20,1,NA\r\n", encoding="utf-8")
        rows = read_rows(tmp_path / "other.csv")
        assert rows["noise"].tolist() == ["0.10", "0.20"]
        assert rows.dtypes[["draw", "value"]].tolist() == [np.dtype("int64"), np.dtype("float64")]


def test_rows_that_pandas_wrote(tmp_path: Path) -> None:
    rows = pd.DataFrame({"noise": ["a", "b"], "analog": ["", ""], "t": [np.nan, np.nan], "value": [1.0, 2.5]})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    pd.testing.assert_frame_equal(read_rows(tmp_path / "rows.csv"), rows)
    rows.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    pd.testing.assert_frame_equal(read_rows(tmp_path / "rows.jsonl"), rows, check_dtype=False)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    for name, text in {"a.csv": "", "b.jsonl": "[1]\n", "c.jsonl": "{", "d.csv": 'a,"b\n1,2\n'}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="cannot be read as"):
            read_rows(tmp_path / name)


def test_unknown_suffixes_are_refused_before_work(tmp_path: Path) -> None:
    def started(model: nn.Module, *inputs: object) -> None:
        raise AssertionError("work began")

    net = nn.Linear(6, 3)
    net.register_forward_pre_hook(started)
    for name in ("rows.xlsx", "rows.txt"):
        with pytest.raises(UserError, match=r"ends in \.parquet, \.csv or \.jsonl, got"):
            evaluate(net, (torch.zeros(4, 6), torch.zeros(4, dtype=torch.long)), out=tmp_path / name)
    with pytest.raises(UserError, match=r"ends in \.parquet"):
        trajectories("nowhere", out=tmp_path / "rows.txt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("answer", 7, None), ("answer", "x", None), ("draw", 1e25, "a whole number as draw"), ("read", 1e999, "as read")],
)
def test_what_a_person_wrote_into_a_cell_counts_or_is_refused(
    column: str, value: object, message: str | None, tmp_path: Path
) -> None:
    net, data, out = nn.Linear(6, 3), (torch.ones(20, 6), torch.arange(20) % 3), tmp_path / "rows.jsonl"
    evaluate(net, data, "gaussian:0.1", 2, out=out)
    (tmp_path / "rows.jsonl.ledger").unlink()
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    out.write_text("\n".join(json.dumps(line | {column: value}) for line in lines))
    if message is None:  # computed anew
        assert len(evaluate(net, data, "gaussian:0.1", 3, out=out).rows) == 6
        return
    with pytest.raises(UserError, match=message):
        evaluate(net, data, "gaussian:0.1", 3, out=out)
