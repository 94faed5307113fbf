"""What a network sees of its inputs: said, given by a person, and stored with what is trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from noiserobust import Compute, UserError, evaluate, landscape, sharpness
from noiserobust.cli import main
from noiserobust.data import Dataset, Splits, load
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.training import TrainSettings, fit

OWN = "factory:test_normalization:own"


def own(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, classes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """A file of weights that were trained on x in [-1, 1], and its accuracy there."""
    digits, model = load("digits"), own(1, 10)
    images, labels = 2 * digits.train.images - 1, digits.train.labels  # type: ignore[attr-defined]
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("own") / "own.pt"
    torch.save(model.state_dict(), path)
    answers = model(2 * digits.test.images - 1).argmax(1)  # type: ignore[attr-defined]
    return str(path), 100 * (answers == digits.test.labels).float().mean().item()


def test_a_network_of_ones_own_is_right_when_its_normalisation_is_given(
    trained: tuple[str, float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, right = trained
    line = f"evaluate {path} --model {OWN} --data digits --noise gaussian:0 --draws 1 --out {tmp_path}/rows.parquet"
    main(line.split())
    said = capsys.readouterr()
    assert "inputs: (x - .305) / .376" in said.out
    assert f"{right:.2f}" not in said.out
    assert "does not say how its inputs were normalised: taken as (x - .305) / .376" in caplog.text
    caplog.clear()
    # The same file of rows: another normalisation is another unit of work.
    main([*line.split(), "--mean", "0.5", "--std", "0.5"])
    said = capsys.readouterr()
    assert "inputs: (x - .5) / .5" in said.out
    assert f"{right:.2f}" in said.out
    assert not caplog.text


@pytest.mark.parametrize(
    "command",
    [
        "sensitivity {} --noise gaussian:0.05 --draws 2 --images 60",
        "keep-digital {} --noise gaussian:0.05 --draws 2 --images 60",
        "budget {} --vary gaussian:{{x}} --between 0 1 --within 5 --draws 2 --points 3 --tolerance 0.3 --images 60",
    ],
)
def test_designs_take_it(trained: tuple[str, float], command: str, tmp_path: Path, caplog: Any) -> None:
    line = f"{command.format(trained[0])} --model {OWN} --data digits --mean 0.5 --std 0.5 --out {tmp_path}/r.parquet"
    main(line.split())
    rows = pd.read_parquet(tmp_path / "r.parquet")
    assert set(rows["inputs"]) == {"(x - .5) / .5"}
    clean = rows[(rows["strength"] == 0) & (rows["metric"] == "accuracy")]
    assert (clean["value"] > 90).all()  # 85 on inputs that are normalised otherwise
    assert len(clean)
    assert not caplog.text


def test_chips_of_a_yield_have_it(trained: tuple[str, float], tmp_path: Path, capsys: Any) -> None:
    rows = f"{tmp_path}/rows.parquet"
    line = f"evaluate {trained[0]} --model {OWN} --data digits --noise gaussian:0.01 --draws 4 --out {rows}"
    main([*line.split(), "--mean", "0.5", "--std", "0.5"])
    capsys.readouterr()
    main(["yield", rows, "--above", f"{trained[1] - 3}"])
    assert re.search(r"own +4 +4 ", capsys.readouterr().out)


def test_corrupted_images_have_it(tmp_path: Path) -> None:
    images = torch.randint(256, (20, 8, 8, 1), dtype=torch.uint8)
    model, labels = own(1, 10), torch.arange(20).remainder(10)
    torch.save(model.state_dict(), tmp_path / "own.pt")
    np.save(tmp_path / "blur.npy", images.repeat(5, 1, 1, 1).numpy())
    np.save(tmp_path / "labels.npy", labels.repeat(5).numpy())
    line = f"corrupted {tmp_path}/own.pt --model {OWN} --folder {tmp_path} --corruptions blur --severities 1"
    main([*line.split(), *f"--mean 0.5 --std 0.25 --out {tmp_path}/r.parquet".split()])
    rows = pd.read_parquet(tmp_path / "r.parquet")
    assert set(rows["inputs"]) == {"(x - .5) / .25"}
    given = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    loss = nn.functional.cross_entropy(model(given), labels).item()
    assert rows[rows["metric"] == "loss"]["value"].item() == pytest.approx(loss, rel=1e-5)


def test_nothing_is_said_before_it_is_known_to_work(trained: tuple[str, float], caplog: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(f"evaluate {trained[0]} --data digits".split())
    assert "names its model" in capsys.readouterr().err
    assert not caplog.text


def test_every_function_takes_it_and_says_it(trained: tuple[str, float]) -> None:
    model = own(1, 10)
    model.load_state_dict(torch.load(trained[0]))
    digits = load("digits")
    x, y = 2 * digits.test.images - 1, digits.test.labels  # type: ignore[attr-defined]
    loss = nn.functional.cross_entropy(model(x), y).item()
    given = Compute(mean=0.5, std=[0.5])
    result = evaluate(model, digits, "gaussian:0", draws=1, compute=given)
    assert result.rows.query("metric == 'accuracy'")["value"].item() == pytest.approx(trained[1])
    assert list(result.inputs.values()) == ["(x - .5) / .5"]
    measured = sharpness(model, digits, "loss", compute=given)
    assert measured.rows.query("metric == 'loss'")["value"].item() == pytest.approx(loss, rel=1e-5)
    seen = landscape(model, (digits.test.images, y), 1, points=3, compute=given)  # type: ignore[attr-defined]
    assert seen.rows.query("x == 0")["value"].item() == pytest.approx(loss, rel=1e-5)
    assert list(evaluate(model, (x, y), "gaussian:0", draws=1).inputs.values()) == ["x"]


def test_training_stores_it(tmp_path: Path) -> None:
    images = torch.randint(256, (30, 3, 6, 6), dtype=torch.uint8)
    splits = Splits(Dataset(images, torch.arange(30) % 3), (images, torch.arange(30) % 3))
    settings = {"model": "factory:test_normalization:small", "epochs": 1, "select_on": "none", "validation": 0}
    plain = fit(TrainSettings(**settings), tmp_path, splits=splits)  # type: ignore[arg-type]
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    run = fit(TrainSettings(**settings, mean=mean, std=std), tmp_path, splits=splits)  # type: ignore[arg-type]
    about = read_checkpoint(run.checkpoint).about
    assert (tuple(about["mean"]), tuple(about["std"])) == (mean, std)
    # A data set that has this normalisation of its own gives the same run.
    same = Splits(*(part.with_normalization(mean, std) for part in (splits.train, splits.test)))
    assert fit(TrainSettings(**settings), tmp_path, splits=same).folder == run.folder != plain.folder  # type: ignore[arg-type]
    result = evaluate(run.folder, splits, "gaussian:0", draws=1, model=settings["model"])  # type: ignore[arg-type]
    assert list(result.inputs.values()) == ["(x - [.5, .4, .3]) / [.2, .2, .2]"]


def small(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36 * channels, classes))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"mean": 0.5}, "expected std beside mean"),
        ({"mean": [0.5, 0.5], "std": 1}, "expected mean of 1 or 1 values"),
        ({"mean": 0, "std": 0}, "std above 0"),
        ({"mean": float("nan"), "std": 1}, "finite mean"),
    ],
)
def test_a_normalisation_that_is_none_is_refused(given: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line):
        evaluate(own(1, 10), "digits", "gaussian:0", draws=1, compute=Compute(**given))  # type: ignore[arg-type]


def test_tokens_are_no_quantities() -> None:
    tokens = torch.arange(12).view(4, 3)
    model = nn.Sequential(nn.Embedding(12, 4), nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(UserError, match="no mean and std with tokens"):
        evaluate(model, (tokens, torch.arange(4) % 2), "gaussian:0", draws=1, compute=Compute(mean=0, std=2))


def flat(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36 * channels, 4), nn.BatchNorm1d(4), nn.Linear(4, classes))


def test_a_last_sample_alone_is_left_out_or_said(tmp_path: Path) -> None:
    images, labels = torch.randn(9, 1, 6, 6), torch.arange(9) % 3
    splits = Splits((images, labels), (images, labels))
    settings = {"model": "factory:test_normalization:flat", "epochs": 1, "batch_size": 4, "select_on": "none"}
    with pytest.raises(UserError, match="the last is alone; use drop_last"):
        fit(TrainSettings(**settings, validation=0), tmp_path, splits=splits)  # type: ignore[arg-type]
    run = fit(TrainSettings(**settings, validation=0, drop_last=True), tmp_path, splits=splits)  # type: ignore[arg-type]
    assert read_checkpoint(run.checkpoint).weights["2.num_batches_tracked"] == 2  # of three
