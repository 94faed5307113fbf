"""Rows of sharpness, landscapes, corrupted images and logs: by hand, resumed, refused; commands and pictures."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_rows import only, table
from methods import batch, normed_net, same_bits, state
from test_cli import TINY, refused
from torch import nn

from noiserobust import UserError, evaluate
from noiserobust.analog.noisy import report_stream
from noiserobust.cli import main
from noiserobust.cli.stored import stored_rows
from noiserobust.data.corrupted import load_corrupted
from noiserobust.evaluation import Where, corrupted, landscape, sharpness, summarize, trajectories
from noiserobust.evaluation.corruptions import Corrupted
from noiserobust.evaluation.training_logs import curves
from noiserobust.minima import Measure, Surface, measure
from noiserobust.models import build
from noiserobust.report import measure_table
from noiserobust.rng import Stream, seeded
from noiserobust.storage.checkpoints import save_checkpoint
from noiserobust.storage.rows import read_rows

MEASURES = ["ascent_sharpness:0.1", "average_sharpness:gaussian(0.1),draws=2", "weight_norm"]
DATA = (batch().inputs, batch().labels)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for method in ("plain", "sam:0.1"):
        log = ["--log", "ascent_sharpness:0.05", "path_length", "--log-images", "60", "--log-on", "train", "test"]
        main(["train", *TINY[2:], "--epochs", "2", "--method", method, "--seeds", "0", "1", *log, "--out", str(folder)])
    return folder


class TestSharpness:
    def test_rows_by_hand(self) -> None:
        models = {"a": [normed_net(0), normed_net(1)], "b": normed_net(2)}
        before = [state(model) for model in (*models["a"], models["b"])]
        result = sharpness(models, DATA, MEASURES, seed=3)
        rows = result.rows
        assert [state(m) for m in (*models["a"], models["b"])]
        assert all(same_bits(state(m), old) for m, old in zip((*models["a"], models["b"]), before, strict=True))
        own = rows[(rows["method"] == "a") & (rows["replicate"] == 1)]
        of = Surface(models["a"][1], [batch()])
        for text in MEASURES:
            one = Measure.parse(text)
            found = measure(of, [one], lambda draw: report_stream(3, 1, draw))[one]
            values = own[own["measure"] == str(one)].sort_values("draw")["value"]
            assert list(values) == [draw[""] for draw in found]
        place = own[own["metric"] == "average_sharpness"]
        assert set(zip(place["noise"], place["strength"], strict=True)) == {("gaussian:0.1", 0.1)}
        assert {"max_over_rms", "max_over_rms/largest", "max_over_rms/0.weight"} < set(rows["metric"])
        summary = result.summary()
        line = summary[(summary["method"] == "a") & (summary["metric"] == "average_sharpness")].iloc[0]
        assert (line["models"], line["draws"]) == (2, 2)
        assert line["low"] < line["mean"] < line["high"]
        assert "average_sharpness" in measure_table(summary)

    def test_parts_in_which_nothing_counts_have_no_share(self) -> None:
        images, labels = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)), torch.ones(4, 3, 3).long()
        labels[1] = 255
        network = nn.Conv2d(2, 2, 1)
        rest = [0, 2, 3]
        all_of, counted = (
            sharpness(network, data, "ascent_sharpness:0.1,m=1", task="segmentation").rows["value"]
            for data in ((images, labels), (images[rest], labels[rest]))
        )
        assert all_of.tolist() == pytest.approx(counted.tolist(), rel=1e-5)

    def test_weights_that_the_loss_does_not_reach(self) -> None:
        class Idle(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.idle = normed_net(0), nn.Linear(3, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.idle(x.new_zeros(1, 3))
                return self.net(x)

        measures = ["gradient_norm:over=analog", "hessian_top:over=analog"]
        rows = sharpness(Idle(), DATA, measures, where=Where(include=["idle.*"], exclude=["net.*"])).rows
        values = rows.set_index("metric")["value"]
        assert values[["gradient_norm/analog", "hessian_top/analog"]].tolist() == [0, 0]

    def test_layers_with_a_noise_of_their_own_have_it_beside_none(self) -> None:
        where = Where(layers={"0.*": {"noise": "gaussian:0.3"}})
        rows = [
            sharpness(normed_net(0), DATA, "average_sharpness:gaussian(0.0)", where=one).rows
            for one in (where, Where())
        ]
        steep, flat = (one[one["metric"] == "average_sharpness"]["value"] for one in rows)
        assert (steep != 0).any()
        assert (flat == 0).all()

    def test_resumed(self, tmp_path: Path) -> None:
        model, out = normed_net(), tmp_path / "rows.parquet"
        first = sharpness(model, DATA, MEASURES[:2], out=out).rows
        with patch("noiserobust.evaluation.measure_minima.measure", side_effect=AssertionError):
            again = sharpness(model, DATA, MEASURES[:2], out=out).rows
        pd.testing.assert_frame_equal(first, again)
        more = sharpness(model, DATA, MEASURES, out=out).rows
        assert len(read_rows(out)) == len(more) == len(first) + 1
        with torch.no_grad():
            model[0].weight.mul_(2)
        assert sharpness(model, DATA, MEASURES[:1], out=out).rows["value"].iloc[0] != first["value"].iloc[0]

    def test_files_of_another_kind_are_refused(self, tmp_path: Path) -> None:
        model = normed_net()
        sharpness(model, DATA, MEASURES[:1], out=tmp_path / "measures.parquet")
        evaluate(model, DATA, "gaussian:0.1", draws=1, out=tmp_path / "evaluation.parquet")
        with pytest.raises(UserError, match="got some that name their measure"):
            evaluate(model, DATA, "gaussian:0.1", draws=1, out=tmp_path / "measures.parquet")
        with pytest.raises(UserError, match="got a table without measure"):
            sharpness(model, DATA, MEASURES[:1], out=tmp_path / "evaluation.parquet")

    def test_sweep(self) -> None:
        rows = sharpness(normed_net(), DATA, ["perturbed_loss:ascent(1.0)", "loss"], strengths=(0.0, 0.1, 0.2)).rows
        swept = rows[rows["metric"] == "perturbed_loss"].set_index("strength")["value"]
        assert list(swept.index) == [0.0, 0.1, 0.2]
        assert swept[0.0] == rows[rows["metric"] == "loss"]["value"].iloc[0] < swept[0.1] < swept[0.2]
        with pytest.raises(UserError, match="expected a measure with a strength to sweep"):
            sharpness(normed_net(), DATA, "weight_norm", strengths=(0.1,))

    def test_refusals(self) -> None:
        with pytest.raises(UserError, match="expected at least one measure"):
            sharpness(normed_net(), DATA, [])
        with pytest.raises(UserError, match="expected part train or test"):
            sharpness(normed_net(), "digits", MEASURES, part="validation")  # type: ignore[arg-type]


class TestLandscape:
    def test_resumed_after_a_stop(self, tmp_path: Path) -> None:
        """Stopped in the middle, it goes on: nothing twice, the middle exact, the weights as before."""
        model, out = normed_net(), tmp_path / "rows.parquet"
        before, options = state(model), {"points": 3, "pairs": 2, "half_width": 0.5}
        whole = landscape(model, DATA, **options).rows  # type: ignore[arg-type]
        height, calls = "noiserobust.evaluation.landscapes.height", []

        def counting(of: Surface, first: object, second: object, x: float, y: float) -> float:
            calls.append((x, y))
            if len(calls) == 7:
                raise KeyboardInterrupt
            return real(of, first, second, x, y)  # type: ignore[arg-type]

        from noiserobust.minima.directions import height as real

        with patch(height, counting), pytest.raises(KeyboardInterrupt):
            landscape(model, DATA, out=out, **options)  # type: ignore[arg-type]
        assert len(read_rows(out)) == 6
        calls.extend([(9.0, 9.0)] * 10)  # past the one that stops
        with patch(height, counting):
            result = landscape(model, DATA, out=out, **options)  # type: ignore[arg-type]
        resumed = result.rows
        assert len(calls) == 17 + 12
        assert list(resumed["value"]) == list(whole["value"])
        middle = resumed[(resumed["x"] == 0) & (resumed["y"] == 0)]["value"]
        assert list(middle) == [Surface(model, [batch()]).loss()] * 2
        assert same_bits(state(model), before)
        assert result.summary()["n"].tolist() == [2] * 9

    def test_one_dimension_is_the_middle_line(self) -> None:
        line = landscape(normed_net(), DATA, 1, points=3).rows
        area = landscape(normed_net(), DATA, 2, points=3).rows
        assert list(line["value"]) == list(area[area["y"] == 0]["value"])

    @pytest.mark.parametrize(
        "bad", [{"dimensions": 3}, {"points": 4}, {"pairs": 0}, {"half_width": 0.0}, {"over": "x"}]
    )
    def test_refusals(self, bad: dict[str, int]) -> None:
        with pytest.raises(UserError, match=r"^(expected|landscape: expected)"):
            landscape(normed_net(), DATA, **bad)  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two corruptions of 4 images: labels, and 5 severities each, files as CIFAR-10-C's are."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "C"
    folder.mkdir()
    for name in ("fog", "snow"):
        np.save(folder / f"{name}.npy", generator.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8))
    np.save(folder / "labels.npy", np.tile([0, 3, 9, 1], 5))
    return folder


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    with seeded(Stream(0, "net")):
        weights = build("digits:2", 3, 10).state_dict()
    about = {"model": "digits:2", "channels": 3, "classes": [str(n) for n in range(10)], "label": "net", "seed": 0}
    return save_checkpoint(tmp_path / "net.safetensors", weights, about | {"mean": [0.5] * 3, "std": [0.25] * 3})


class TestCorrupted:
    def test_files(self, files: Path) -> None:
        found = list(load_corrupted(files, ["snow"], [2, 5]))
        assert [(name, severity) for name, severity, _ in found] == [("snow", 2), ("snow", 5)]
        raw = np.load(files / "snow.npy")
        assert np.array_equal(found[1][2].images.permute(0, 2, 3, 1).numpy(), raw[16:20])
        assert found[1][2].labels.tolist() == [0, 3, 9, 1]

    def test_grey_images(self, files: Path) -> None:
        np.save(files / "grey.npy", np.load(files / "fog.npy")[..., :1])
        ((_, _, data),) = load_corrupted(files, ["grey"], [1])
        assert data.images.shape == (4, 1, 32, 32)
        assert (data.mean, data.std) == ((0.0,), (1.0,))

    def test_a_value_that_is_no_number_is_not_left_out_of_the_mean(self) -> None:
        values = {"fog": float("nan"), "snow": 40.0}
        rows = [table({0: [value]}, corruption=name, severity=1) for name, value in values.items()]
        assert np.isnan(only(Corrupted(pd.concat(rows)).summary())["mean"])

    def test_rows(self, files: Path, trained: Path, tmp_path: Path) -> None:
        out = tmp_path / "rows.parquet"
        result = corrupted(str(trained), files, corruptions=["fog", "snow"], out=out)
        rows = result.rows
        accuracy = rows[rows["metric"] == "accuracy"]
        assert sorted(zip(accuracy["corruption"], accuracy["severity"], strict=True)) == [
            (name, severity) for name in ("fog", "snow") for severity in range(1, 6)
        ]
        for name, severity, data in load_corrupted(files, ["fog"], [3]):
            own = evaluate(str(trained), data, "gaussian:0", draws=1).rows
            place = rows[(rows["corruption"] == name) & (rows["severity"] == severity)]
            assert dict(zip(place["metric"], place["value"], strict=True)) == dict(
                zip(own["metric"], own["value"], strict=True)
            )
        stored = read_rows(out)
        columns = ["corruption", "severity", "metric", "value"]
        pd.testing.assert_frame_equal(
            stored[columns].sort_values(columns, ignore_index=True),
            rows[columns].sort_values(columns, ignore_index=True),
            check_dtype=False,
        )
        with patch("noiserobust.evaluation.on_chips.score", side_effect=AssertionError):
            again = corrupted(str(trained), files, corruptions=["fog", "snow"], out=out).rows
        assert list(again["value"]) == list(rows["value"])
        summary = result.summary()
        worst = summary[(summary["severity"] == 5) & (summary["metric"] == "accuracy")].iloc[0]
        assert worst["mean"] == pytest.approx(accuracy[accuracy["severity"] == 5]["value"].mean())

    def test_refusals(self, files: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"expected gaussian_noise.npy, .*: unpack CIFAR-10-C.tar"):
            list(load_corrupted(files))
        with pytest.raises(UserError, match=r"expected labels\.npy"):
            list(load_corrupted(tmp_path / "nowhere", ["fog"]))
        with pytest.raises(UserError, match="expected severities from 1 to 5, got 6"):
            list(load_corrupted(files, ["fog"], [6]))
        np.save(files / "fog.npy", np.zeros((19, 32, 32, 3), dtype=np.uint8))
        with pytest.raises(UserError, match=r"expected uint8 images N x H x W x C in fog.npy, N = 20"):
            list(load_corrupted(files, ["fog"]))
        (files / "fog.npy").write_bytes(b"no array")
        with pytest.raises(UserError, match=r"expected a NumPy file"):
            list(load_corrupted(files, ["fog"]))


class TestTrajectories:
    def test_tidy_and_averaged(self, runs: Path) -> None:
        rows = trajectories(runs).rows
        assert set(rows["method"]) == {"plain", "sam:0.1"}
        assert not rows.duplicated(["model", "epoch", "metric"]).any()
        lines = curves(rows, "train/loss", ["train/ascent_sharpness:0.05"])
        assert len(lines) == 2 * 2
        logs = [pd.read_csv(file) for file in sorted(runs.glob("plain-*/log.csv"))]
        own = lines[lines["method"] == "plain"]
        for name, column in (("x", "train/loss"), ("mean", "train/ascent_sharpness:0.05")):
            assert list(own[name]) == pytest.approx(list((logs[0][column] + logs[1][column]) / 2))
        with pytest.raises(UserError, match="expected a column that plain logged"):
            curves(rows, "epoch", ["sharpness"])

    def test_without_a_log(self, trained: Path) -> None:
        with pytest.raises(UserError, match=r"expected a run's folder with a log.csv"):
            trajectories(trained)


class TestCommands:
    def test_sharpness(self, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        files = {name: tmp_path / name for name in ("rows.parquet", "plot.png", "table.md")}
        flags = [
            "--out",
            str(files["rows.parquet"]),
            "--plot",
            str(files["plot.png"]),
            "--table",
            str(files["table.md"]),
        ]
        wanted = ["--measures", "loss", "perturbed_loss:random(gaussian(1.0),draws=2)", "--strengths", "0.1", "0.2"]
        main(["sharpness", str(runs), "--images", "50", "--part", "train", *wanted, *flags])
        out = capsys.readouterr().out
        assert "max_over_rms/largest" in out
        assert "conv1" not in out
        assert all(file.stat().st_size > 0 for file in files.values())
        assert "| perturbed_loss | gaussian:0.2 | sam:0.1 |" in files["table.md"].read_text()
        assert "max_over_rms/conv1.conv.weight" in set(read_rows(files["rows.parquet"])["metric"])
        assert summarize(read_rows(files["rows.parquet"])).shape[0] > 0

    @pytest.mark.parametrize("dimensions", ["1", "2"])
    def test_landscape(self, dimensions: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        flags = ["--out", str(tmp_path / "rows.parquet"), "--plot", str(tmp_path / "plot.png")]
        main(["landscape", str(runs), "--images", "20", "--points", "3", "--dimensions", dimensions, *flags])
        assert "in the middle" in capsys.readouterr().out
        assert (tmp_path / "plot.png").stat().st_size > 0

    def test_corrupted(self, files: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        flags = ["--out", str(tmp_path / "rows.parquet"), "--plot", str(tmp_path / "plot.png")]
        main(["corrupted", str(trained), "--folder", str(files), "--corruptions", "fog", "snow", *flags])
        assert "severity 5, mean over 2 corruptions" in capsys.readouterr().out
        assert (tmp_path / "plot.png").stat().st_size > 0

    def test_curves(self, runs: Path, tmp_path: Path) -> None:
        for x in ("epoch", "train/loss"):
            plot, out = tmp_path / "plot.png", tmp_path / "rows.parquet"
            main(["curves", str(runs), "--x", x, "--y", "path_length", "--plot", str(plot), "--out", str(out)])
            assert plot.stat().st_size > 0
            assert set(read_rows(out)) == {"model", "method", "replicate", "epoch", "metric", "value"}

    @pytest.mark.parametrize(
        ("arguments", "fragment"),
        [
            (["sharpness", "RUNS", "--measures", "flatness"], "expected a measure (accuracy, ascent_sharpness, "),
            (["sharpness", "RUNS", "--measures", "path_length"], "which only a training log knows"),
            (["sharpness", "RUNS", "--precision", "fp16"], "expected precision fp32 or bf16"),
            (["sharpness"], "expected at least one checkpoint"),
            (["landscape", "RUNS", "--points", "4"], "expected an odd number of points"),
            (["corrupted", "RUNS"], "expected --folder"),
            (["corrupted", "RUNS", "--folder", "nowhere"], "expected labels.npy, gaussian_noise.npy"),
            (["curves", "RUNS", "--y", "flatness"], "expected a column that plain logged"),
            (["train", "--log", "flatness"], "expected a measure (accuracy, ascent_sharpness, "),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_refusals(
        self,
        arguments: list[str],
        fragment: str,
        runs: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert fragment in refused([str(runs) if word == "RUNS" else word for word in arguments], capsys)


def _corrupted(model: nn.Module, data: Any, measures: str, seed: int) -> object:
    with TemporaryDirectory() as folder:
        np.save(f"{folder}/labels.npy", np.arange(5) % 3)
        np.save(f"{folder}/blur.npy", np.zeros((5, 2, 2, 1), np.uint8))
        return corrupted(nn.Sequential(nn.Flatten(), model), folder, seed=seed, corruptions=["blur"])


@pytest.mark.parametrize("function", [sharpness, lambda *args: landscape(*args[:2], 1, args[3]), _corrupted])
def test_seeds_that_rows_cannot_hold_are_refused(function: Any) -> None:
    with pytest.raises(UserError, match="expected a seed of at most 64 bits, got 9223372036854775808"):
        function(nn.Linear(4, 3), (torch.randn(9, 4), torch.arange(9) % 3), "loss", 2**63)


def test_values_that_are_no_numbers_are_said() -> None:
    network, data = normed_net(), DATA
    found = landscape(network, data, dimensions=1, half_width=3e38, points=3)
    assert not np.isfinite(found.rows["value"]).all()
    said = f"{(~np.isfinite(found.rows['value'])).sum()} of 3 values are NaN or infinite"
    assert said in found.nan_answers
    assert said in found.table()
    assert "NaN" not in landscape(network, data, dimensions=1, points=5).table()
    steep = sharpness(network, data, ["average_sharpness:gaussian(3e38)", "loss"])
    assert "values are NaN or infinite" in steep.table()
    assert "NaN" not in sharpness(network, data, "loss").table()
    with pytest.raises(UserError, match=r"half width that weights of torch.float32 can move by, got 1e\+300"):
        landscape(network, data, dimensions=1, half_width=1e300, points=3)


def test_files_of_measures_together_and_of_landscapes_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two measures of one metric's name are two rows; a landscape is no network's loss."""
    files = [tmp_path / f"{name}.parquet" for name in ("ten", "thirty", "around")]
    for file, probes in zip(files, (10, 30), strict=False):
        sharpness(normed_net(0), DATA, f"hessian_trace:{probes}", out=file)
    measured = [read_rows(file) for file in files[:2]]
    both = stored_rows(files[:2])
    assert sum(len(rows[rows["metric"].str.startswith("hessian")]) for rows in measured) == sum(
        both["metric"].str.startswith("hessian")
    )
    landscape(normed_net(0), DATA, 1, points=3, pairs=1, out=files[2])
    for words in ([], ["--page", str(tmp_path / "page.html")]):
        assert "got a landscape around them in" in refused(["report", str(files[2]), *words], capsys)
