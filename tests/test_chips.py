"""Evaluation over time: one chip is read at several times, compensated, recalibrated, and named in the rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from noiserobust import Stream, UserError, coverage, evaluate, perturbed
from noiserobust.analog.noisy import NoisyWeights, Programmed, report_stream
from noiserobust.cli import main
from noiserobust.data import as_dataset
from noiserobust.evaluation import Chips
from noiserobust.evaluation.settings import grouped
from noiserobust.models.modes import recalibrated
from noiserobust.noise import NoiseModel
from noiserobust.rng import seeded
from noiserobust.storage.rows import read_rows, write_rows

TIMES = ["25s", "1d", "1y"]


def net(seed: int = 0) -> nn.Module:
    with seeded(Stream(seed, "net")):
        return nn.Sequential(nn.Conv2d(1, 6, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3))


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return Stream(0, "x").normal((90, 1, 4, 4)), torch.arange(90) % 3


def value(rows: pd.DataFrame, **where: object) -> float:
    chosen = rows[rows["metric"] == "loss"]
    for column, wanted in where.items():
        chosen = chosen[chosen[column].isna() if wanted is None else chosen[column] == wanted]
    (found,) = chosen["value"]
    return float(found)


def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    model.eval()
    with torch.no_grad():
        return nn.functional.cross_entropy(model(data[0]), data[1]).item()


class TestRows:
    def test_one_per_time_read_and_compensation(self, data: tuple[Tensor, Tensor]) -> None:
        rows = evaluate(
            [net(0), net(1)],
            data,
            "pcm",
            draws=2,
            chips=Chips(times=TIMES, reads=3, compensation=["none", "global", "column"]),
        ).rows
        assert len(rows) == 2 * 2 * 3 * 3 * 3 * 2
        assert sorted(rows["t"].unique()) == [25.0, 86400.0, 31536000.0]
        assert not rows.duplicated(["model", "draw", "t", "read", "compensation", "metric"]).any()

    def test_by_hand(self, data: tuple[Tensor, Tensor]) -> None:
        model = net()
        rows = evaluate(model, data, "pcm", draws=2, seed=4, chips=Chips(times=TIMES)).rows
        for draw, t in ((0, 25.0), (1, 86400.0), (1, 31536000.0)):
            with perturbed(model, "pcm", seed=4, draw=draw, t=t):
                assert value(rows, draw=draw, t=t) == pytest.approx(loss(model, data))

    def test_compensation_by_hand(self, data: tuple[Tensor, Tensor]) -> None:
        model = net()
        rows = evaluate(model, data, "pcm", draws=1, chips=Chips(times=["1y"], compensation=["none", "column"])).rows
        stream, noise = report_stream(0, 0, 0), NoiseModel.parse("pcm")
        programmed = Programmed(NoisyWeights(model), noise, stream)
        clean = {name: weight.clone() for name, weight in model.state_dict().items()}
        for name in ("0.weight", "4.weight"):
            now = programmed.weight(name, 31536000.0)
            factor = programmed.chip(name).programmed().flatten(1).abs().mean(1) / now.flatten(1).abs().mean(1)
            model.get_parameter(name).data = now * factor.view(-1, *[1] * (now.dim() - 1))
        assert value(rows, compensation="column") == pytest.approx(loss(model, data), rel=1e-5)
        assert value(rows, compensation="none") != pytest.approx(loss(model, data), rel=1e-5)
        model.load_state_dict(clean)

    def test_a_chip_is_the_same_whichever_times_are_asked_for(self, data: tuple[Tensor, Tensor]) -> None:
        model = net()
        all_times = evaluate(model, data, "pcm", draws=2, chips=Chips(times=[*TIMES, None], reads=2)).rows
        alone = evaluate(model, data, "pcm", draws=2, chips=Chips(times=["1y"])).rows
        for draw in range(2):
            assert value(alone, draw=draw) == value(all_times, draw=draw, t=31536000.0, read=0)
        assert value(all_times, draw=0, t=25.0, read=0) != value(all_times, draw=0, t=25.0, read=1)
        own_time = evaluate(model, data, "pcm", draws=2).rows
        assert value(own_time, draw=1) == value(all_times, draw=1, t=None, read=0)

    def test_reads_of_a_static_chip_agree(self, data: tuple[Tensor, Tensor]) -> None:
        rows = evaluate(net(), data, "gaussian:0.2", draws=2, chips=Chips(times=["1h", "1d"], reads=2)).rows
        for draw in range(2):
            assert rows[(rows["draw"] == draw) & (rows["metric"] == "loss")]["value"].nunique() == 1

    def test_what_is_done_is_found_again(self, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
        out, model = tmp_path / "rows.parquet", net()
        first = evaluate(model, data, "pcm", draws=2, out=out, chips=Chips(times=TIMES)).rows
        again = evaluate(
            model, data, "pcm", draws=2, out=out, chips=Chips(times=TIMES, compensation=["none", "global"])
        ).rows
        stored = read_rows(out)
        assert len(stored) == 2 * len(first)
        for draw in range(2):
            assert value(again, draw=draw, t=25.0, compensation="none") == value(first, draw=draw, t=25.0)

    def test_rows_of_earlier_versions_are_understood(self, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
        out, model = tmp_path / "rows.parquet", net()
        old = evaluate(model, data, "gaussian:0.1", draws=2).rows
        old = old.drop(columns=["compensation", "recalibration", "converters", "backend"])
        write_rows(old.assign(value=-1.0), out)
        rows = evaluate(model, data, "gaussian:0.1", draws=2, out=out).rows
        assert set(rows["value"]) == {-1.0}


class TestRecalibration:
    def test_batch_norm_learns_the_chip(self, data: tuple[Tensor, Tensor]) -> None:
        """By hand: statistics of the noisy network's activations, averaged over batches of 128."""
        model = net()
        model(data[0])  # statistics that are not the initial ones
        model.eval()
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        rows = evaluate(model, data, "pcm", draws=1, chips=Chips(times=["1y"], recalibration=60, calibration=data)).rows
        assert (rows["recalibration"] == 60).all()
        for name, weight in model.state_dict().items():
            assert torch.equal(weight, before[name]), name
        plain = evaluate(model, data, "pcm", draws=1, chips=Chips(times=["1y"])).rows
        assert value(plain) != value(rows)
        images = as_dataset(data).sample(60, Stream(0, "calibration")).images
        with perturbed(model, "pcm", t=31536000.0):
            activations = model[0](images)
            model[1].running_mean = activations.mean((0, 2, 3)).detach()
            model[1].running_var = activations.var((0, 2, 3)).detach()
            assert value(rows) == pytest.approx(loss(model, data), rel=1e-5)

    def test_other_images_are_another_piece_of_work(self, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
        out, other = tmp_path / "rows.parquet", (Stream(1, "x").normal((90, 1, 4, 4)), data[1])
        options = {"draws": 1, "times": ["1y"], "recalibration": 60, "out": out}
        first = evaluate(net(), data, "pcm", **grouped(options | {"calibration": data})).rows
        second = evaluate(net(), data, "pcm", **grouped(options | {"calibration": other})).rows
        assert value(first) != value(second)
        assert len(read_rows(out)) == 4

    def test_everything_comes_back_after_an_exception(self) -> None:
        model = net().train()
        norm = model[1]
        before = {name: value.clone() for name, value in norm.state_dict().items()}
        with pytest.raises(ZeroDivisionError), recalibrated(model, []):
            1 / 0  # noqa: B018
        assert norm.momentum == 0.1
        assert norm.training
        for name, kept in norm.state_dict().items():
            assert torch.equal(kept, before[name])

    def test_it_needs_batch_norm(self, data: tuple[Tensor, Tensor]) -> None:
        bare = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        with pytest.raises(
            UserError, match="expected a network with batch norm to recalibrate, got none in Sequential"
        ):
            evaluate(bare, data, "pcm", chips=Chips(recalibration=10, calibration=data))

    def test_it_needs_training_images(self, data: tuple[Tensor, Tensor]) -> None:
        with pytest.raises(UserError, match="expected calibration="):
            evaluate(net(), data, "pcm", chips=Chips(recalibration=10))


class Everything(nn.Module):
    """Every kind of layer that lies in crossbars, and some that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.grouped = nn.Conv2d(4, 6, 3, groups=2)
        self.transposed = nn.ConvTranspose2d(4, 6, 3, groups=2)
        self.lstm = nn.LSTM(8, 4)
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)


@pytest.mark.parametrize("noise", ["pcm", "pcm:reference=tile,rows=5,columns=4", "hermes", "reram_cmo"])
def test_every_kind_of_layer_lies_in_arrays(noise: str) -> None:
    with seeded(Stream(0, "net")):
        model = Everything()
    found = coverage(model)
    noisy = {row.name for row in found.rows if row.noisy}
    assert noisy == {
        *("grouped.weight", "transposed.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"),
        *("attention.in_proj_weight", "attention.out_proj.weight", "head.weight"),
    }
    assert "1 x embedding" in found.summary
    clean = {name: value.clone() for name, value in model.state_dict().items()}
    with perturbed(model, noise, t=86400.0):
        for name, value in model.state_dict().items():
            assert torch.equal(value, clean[name]) == (name not in noisy), name
    for name, value in model.state_dict().items():
        assert torch.equal(value, clean[name]), name


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"times": []}, "expected times and compensations, got []"),
        ({"times": ["soon"]}, "expected a time such as 25s, 1h, 1d, 1y"),
        ({"reads": 0}, "expected reads >= 1, got 0"),
        ({"recalibration": -1}, "expected recalibration >= 0, got -1"),
        ({"compensation": "local"}, "expected compensation none, global, column, got 'local'"),
        ({"noises": "reram_wan2022", "times": ["1h"]}, "measured at 1s, 1d and 2d only"),
    ],
)
def test_refusals(options: dict[str, object], fragment: str, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError) as caught:
        evaluate(net(), **grouped({"data": data, "noises": "pcm"} | options))
    assert fragment in str(caught.value)


def test_one_time_is_a_list_of_one(data: tuple[Tensor, Tensor]) -> None:
    listed, alone = (evaluate(net(), data, "pcm", 1, chips=Chips(times=times)).rows for times in (["1d"], "1d"))
    assert listed["value"].tolist() == alone["value"].tolist()
    assert alone["t"].unique().tolist() == [86400.0]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--epochs", "1", "--batch-size", "400", "--model", "digits:4", "--select-draws", "1"]
    main(["train", *tiny, "--out", str(tmp_path / "runs")])
    capsys.readouterr()
    command = ["evaluate", str(tmp_path / "runs"), "--noise", "pcm", "--times", "25s,1h", "1y", "--draws", "2"]
    command += ["--compensation", "none", "global", "--images", "60", "--out", str(tmp_path / "rows.parquet")]
    main([*command, "--recalibration", "40", "--plot", str(tmp_path / "time.png")])
    printed = capsys.readouterr().out
    assert "noise: pcm, global compensation, batch norm from 40 images" in printed
    assert "t 25 s" in printed
    assert "t 1 y" in printed
    assert (tmp_path / "time.png").stat().st_size > 10_000
