"""Ranges that training found, in evaluations without training images or beside other runs; the page's table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from methods import few_digits

from noiserobust import UserError, evaluate
from noiserobust.data import Splits
from noiserobust.evaluation import Chips, paired, summarize
from noiserobust.storage.rows import read_rows
from noiserobust.training import Run, TrainSettings, fit

LEARNT, FIXED = "io:dac=5,adc=7,noise=0.05,learnt=true", "io:dac=5,adc=7,percentile=99.0,images=90"
BASE = TrainSettings(epochs=1, batch_size=40, model="digits:4", select_draws=1)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return few_digits(200)


@pytest.fixture(scope="module")
def runs(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    return {text: fit(replace(BASE, converters=text), folder, splits=splits) for text in (LEARNT, FIXED)}


def test_ranges_of_training_need_no_training_images(runs: dict[str, Run], splits: Splits) -> None:
    chips, seen = Chips(converters=FIXED), []
    for data in (splits, splits.test):
        seen.append(evaluate(runs[FIXED], data, "gaussian:0", 1, chips=chips).rows["value"])
    assert seen[0].equals(seen[1])
    with pytest.raises(UserError, match="expected calibration="):
        evaluate(runs[FIXED], splits.test, "gaussian:0", 1, chips=replace(chips, ranges="new"))


def test_the_same_ranges_by_two_texts_are_asked_for_once(runs: dict[str, Run], splits: Splits) -> None:
    once = evaluate(runs[FIXED], splits, "gaussian:0.1", 2, chips=Chips(converters=f"{FIXED},learnt=true"))
    twice = evaluate(runs[FIXED], splits, "gaussian:0.1", 2, chips=Chips(converters=[FIXED, f"{FIXED},learnt=true"]))
    assert twice.rows["value"].tolist() == once.rows["value"].tolist()
    assert len(twice.summary())


def test_a_run_without_ranges_is_named(runs: dict[str, Run], splits: Splits, tmp_path: Path) -> None:
    plain = fit(BASE, tmp_path, splits=splits)  # a teacher lies beside its run
    with pytest.raises(UserError, match=f"got .*{plain.folder.name}.* without any; name the runs that have them"):
        evaluate([runs[LEARNT].folder, plain.folder], splits, "gaussian:0", 1, chips=Chips(converters=LEARNT))


def test_the_pages_table_is_that_of_its_rows() -> None:
    docs = Path(__file__).parents[1] / "docs"
    page = (docs / "hardware_aware_training.md").read_text()
    rows = read_rows(docs / "results" / "hardware_aware_training.parquet")
    rows = rows[rows["metric"] == "accuracy"]
    read = rows[rows["converters"] != "none"].assign(converters="io")
    levels = summarize(read).set_index("method")
    clean = summarize(rows[rows["converters"] == "none"]).set_index("method")
    for name in ("none", "io", "learnt", "learnt, new ranges"):
        mean, noise, weight = levels.loc[name, ["mean", "noise_std", "weight_std"]]
        told = f"{mean:.1f} ± {noise:.1f} ± {weight:.1f}"
        if name in clean.index:
            told = f"| {clean.loc[name, 'mean']:.1f} ± {clean.loc[name, 'weight_std']:.1f} | {told} |"
        assert told in page
    for pair, form in {("io", "none"): " {} |", ("learnt", "none"): " {} |", ("learnt", "io"): "({})"}.items():
        one = paired(read, *pair).iloc[0]
        assert form.format(f"{one['mean']:+.1f} [{one['low']:+.1f}, {one['high']:+.1f}]") in page
