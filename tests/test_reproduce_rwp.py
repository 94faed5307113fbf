"""RWP's grid: its runs are those that the paper describes; what it alone measures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from grids import runs, value
from methods import batch, close, normed_net, sgd, weights

from noiserobust.analog.filters import filter_norms
from noiserobust.analog.weights import analog_weights
from noiserobust.data import load
from noiserobust.data.corrupted import load_corrupted
from noiserobust.minima import Surface, filter_norms_of
from noiserobust.papers import rwp
from noiserobust.papers.grid import MINI, PAPER, SMALL, Bench, grid_of
from noiserobust.papers.grid.corruptions import CORRUPTIONS, corrupted_copy
from noiserobust.papers.grid.derived import Drawn, Passes, percent, times
from noiserobust.papers.grid.measured import initial_radius, norms_of_filters, on_corrupted, variation_of_filters
from noiserobust.papers.grid.pieces import FineTuned, half_of_classes
from noiserobust.papers.grid.step_time import NoisyHalf
from noiserobust.rng import Stream, seeded
from noiserobust.storage.checkpoints import read_checkpoint
from noiserobust.sweep import Training
from noiserobust.training import Method, Progress, TrainSettings
from noiserobust.training.rules.base import Plain
from noiserobust.training.rules.rwp_mixed import MixedRWP
from noiserobust.training.rules.sam import SAM

TINY = dataclasses.replace(MINI, recipe=dataclasses.replace(MINI.recipe, epochs=1, batch_size=256), seeds=1, images=100)


class TestSettings:
    def test_as_published(self) -> None:
        at = grid_of("rwp", PAPER)
        cifar = rwp.sam(at, "CIFAR-100", "WRN-28-10")
        assert (cifar.epochs, cifar.batch_size, cifar.lr, cifar.weight_decay) == (200, 256, 0.1, 1e-3)
        assert (cifar.method, cifar.cutout, cifar.data) == (SAM(0.1), 8, "cifar100")
        assert rwp.sam(at, "CIFAR-10", "ResNet-18").method == SAM(0.05)
        assert rwp.rwp(at, "CIFAR-10", "ResNet-18").method == MixedRWP(0.01, 0.5)
        big = rwp.rwp(at, "ImageNet", "ResNet-50")
        assert (big.epochs, big.weight_decay, big.cutout, big.method) == (90, 1e-4, 0, MixedRWP(0.005))

    def test_half_the_epochs(self) -> None:
        assert {run.epochs for run in runs("rwp", PAPER, "table2")} == {100, 200}
        assert {run.method for run in runs("rwp", PAPER, "table2") if run.epochs == 200} == {Plain()}

    def test_transformers(self) -> None:
        at = grid_of("rwp", PAPER)
        vit = rwp.with_adam(at, "CIFAR-10", "ViT", epochs=400)["Adam-RWP"]
        assert (vit.optimizer, vit.lr, vit.epochs, vit.batch_size) == ("Adam", 1e-4, 400, 256)
        assert vit.method == MixedRWP(0.001)

    def test_figure_7_at_small(self) -> None:
        """The very runs: network, gamma and alpha; no SAM, and alpha 1 is plain training."""
        trained = runs("rwp", SMALL, "figure7")
        expected = {Plain(), *(Method.parse(f"rwp-mixed:0.02,alpha={alpha}") for alpha in (0.0, 0.2, 0.5, 0.8))}
        assert {run.method for run in trained} == expected
        assert {dataclasses.replace(run, method=Plain()) for run in trained} == {SMALL.recipe}
        assert len(trained) == 5


class TestQuantities:
    def test_times_and_percent(self) -> None:
        assert value(times(Passes(TrainSettings(method=SAM(0.1))), 0.5)) == 1
        assert value(percent(Drawn(((0.0, 3.0),)), Drawn(((0.0, 2.0),)))) == 150

    def test_initial_radius(self, tmp_path: Path) -> None:
        """E ||e||^2 = gamma^2 sum_k n_k ||w_k||^2, n_k the weights of filter k, at the run's own initial weights."""
        bench, draws = Bench(TINY, tmp_path), 200
        run = rwp.rwp(grid_of("rwp", TINY), "CIFAR-10", "ResNet-18")
        (piece,) = initial_radius(run, 0.02, draws).measurements(bench)
        squares = piece.measure()["value"] ** 2
        data = load("digits").train
        with seeded(Stream(0, "init")):
            model = run.model.build(data.channels, 10)
        known = {id(weight.parameter): weight for weight in analog_weights(model)}
        expected = 0.0
        for parameter in model.parameters():
            rows = known[id(parameter)].as_rows(parameter) if id(parameter) in known else parameter
            lengths = filter_norms(rows.detach())
            expected += 0.02**2 * (lengths.square() * (rows.numel() / lengths.numel())).sum().item()
        # 4.5 standard errors: a false alarm in 1 of 150,000 seeds.
        error = 4.5 * squares.std() / draws**0.5
        assert error < 0.05 * expected
        assert abs(squares.mean() - expected) < error

    def test_the_noisy_half_is_rwps_noisy_gradient(self) -> None:
        """All of the step at alpha 0, of one batch."""
        nets = normed_net(), normed_net()
        whole = MixedRWP(0.1, alpha=0.0, batches="same")
        for net, method in zip(nets, (whole, NoisyHalf(whole)), strict=True):
            method.step(sgd(net), batch(), Progress(3, 10))
        close(weights(nets[0]), weights(nets[1]), rtol=0, atol=0)


class TestCorrupted:
    def test_copies(self, tmp_path: Path) -> None:
        data = load("digits").test.sample(20, Stream(0, "test"))
        folder = corrupted_copy(data, tmp_path)
        before = (folder / "shot_noise.npy").read_bytes()
        assert corrupted_copy(data, tmp_path) == folder  # made once
        clean = (data.images * 255).round()
        for name in CORRUPTIONS:
            sets = list(load_corrupted(folder, [name]))
            assert [severity for _, severity, _ in sets] == [1, 2, 3, 4, 5]
            assert all(torch.equal(images.labels, data.labels) for _, _, images in sets)
            far = [(images.images - clean).abs().mean().item() for _, _, images in sets]
            assert 0 < far[0] < far[2] < far[4], name
        other = corrupted_copy(data, tmp_path / "again")
        assert (other / "shot_noise.npy").read_bytes() == before

    def test_accuracy_by_severity(self, tmp_path: Path) -> None:
        bench = Bench(TINY, tmp_path)
        run = rwp.plain(grid_of("rwp", TINY), "CIFAR-10", "ResNet-18")
        bench.training(run, 0).run()
        curve, worst = (on_corrupted(run, None, severity, TINY) for severity in (None, 5))
        for piece in curve.measurements(bench):
            piece.run()
        values = curve.values(bench)
        assert values["x"].tolist() == [1, 2, 3, 4, 5]
        assert worst.values(bench)["value"].tolist() == values["value"].tolist()[-1:]

    def test_a_folder_that_is_missing_is_said(self, tmp_path: Path) -> None:
        bench = Bench(TINY, tmp_path)
        run = rwp.plain(grid_of("rwp", TINY), "CIFAR-10", "ResNet-18")
        (piece,) = on_corrupted(run, str(tmp_path / "CIFAR-10-C"), 5, TINY).measurements(bench)
        bench.training(run, 0).run()
        with pytest.raises(Exception, match=r"expected labels\.npy, .* in .*CIFAR-10-C, got none: unpack"):
            piece.run()


def test_fine_tuning_starts_from_half_of_the_classes(tmp_path: Path) -> None:
    half = half_of_classes(load("digits"))
    assert half.train.classes == half.test.classes == ("0", "1", "2", "3", "4")
    assert sorted(half.test.labels.unique().tolist()) == [0, 1, 2, 3, 4]
    settings = dataclasses.replace(TINY.recipe, method=SAM(0.05))
    piece = FineTuned(Training(settings, tmp_path / "runs"), tmp_path / "pieces")
    rows = piece.measure()
    assert rows[rows["metric"] == "accuracy"]["value"].between(0, 100).all()
    # The one before and the one after; nothing from scratch.
    assert len(list((tmp_path / "runs").glob("*/model.safetensors"))) == 2


def test_filter_norms(tmp_path: Path) -> None:
    bench = Bench(TINY, tmp_path)
    run = rwp.plain(grid_of("rwp", TINY), "CIFAR-10", "ResNet-18")
    training = bench.training(run, 0)
    training.run()
    norms = norms_of_filters(run)
    for piece in norms.measurements(bench):
        piece.run()
    expected = filter_norms_of(Surface(read_checkpoint(training.result).build(), []))
    np.testing.assert_allclose(norms.values(bench)["value"], expected)
    assert value(variation_of_filters(run), bench) == pytest.approx(np.std(expected.numpy()) / expected.mean().item())
