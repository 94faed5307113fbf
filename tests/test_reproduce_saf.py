"""SAF's grid: the settings of its tables, and memory counted without storage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from grids import cells, every_scale, value

from noiserobust.data import load
from noiserobust.papers import saf
from noiserobust.papers.grid import MINI, PAPER, Bench, Scale, grid_of
from noiserobust.papers.grid.derived import Remembered, tensors_in
from noiserobust.papers.grid.estimate import KNOWN
from noiserobust.papers.grid.measured import step_time
from noiserobust.papers.grid.step_time import MixedStepTime, StepTime, engine_of, steps_of
from noiserobust.training import SAM, Plain, TrainSettings
from noiserobust.training.rules.base import Method
from noiserobust.training.rules.looksam import LookSAM
from noiserobust.training.rules.mesa import MESA
from noiserobust.training.rules.rst import RST
from noiserobust.training.rules.saf import SAF

AT = grid_of("saf", PAPER)


class TestSettings:
    def test_resnet_101_has_the_stem_of_its_data(self) -> None:
        assert str(saf.trained(AT, "ResNet-101", "ImageNet", "SGD").model) == "torchvision:resnet101"
        assert str(saf.trained(AT, "ResNet-101", "CIFAR-10", "SGD").model).startswith("resnet101")

    def test_imagenet(self) -> None:
        runs = {method: saf.trained(AT, "ResNet-50", "ImageNet", method) for method in ("SGD", "SAF", "MESA")}
        assert [run.weight_decay for run in runs.values()] == [3e-5, 1e-4, 1e-4]
        assert runs["SAF"].method == SAF(0.3, start=10)
        assert runs["MESA"].method == MESA(0.3, start=10, beta=0.9998)
        assert {(run.epochs, run.batch_size, run.lr) for run in runs.values()} == {(90, 4096, 1.4)}
        assert saf.trained(AT, "ResNet-101", "ImageNet", "MESA").weight_decay == 3e-5

    @every_scale
    def test_the_term_is_active_most_of_the_time_that_it_is_in_the_paper(self, scale: Scale) -> None:
        """Shares of training: E_start and E~ to half an epoch (or their one epoch), MESA's horizon to 1 % (or 2 steps).

        Half of training is without the term for the ViT, 2.5 to 11 % for the others.
        """
        for network, data, start, of in (
            ("ResNet-18", "CIFAR-10", 5, 200),
            ("ResNet-50", "ImageNet", 10, 90),
            ("ViT-S/32", "ImageNet", 150, 300),
        ):
            run = saf.trained(grid_of("saf", scale), network, data, "SAF")
            assert isinstance(run.method, SAF)
            assert abs(run.method.start - start / of * run.epochs) <= 0.5 or run.method.start == 1
            assert run.method.back == (3 if scale is PAPER else max(1, round(3 / of * run.epochs)))
            assert max(run.method.start, run.method.back) < 0.6 * run.epochs
            averaged = saf.trained(grid_of("saf", scale), network, data, "MESA").method
            assert isinstance(averaged, MESA)
            images = {"digits": 1297, "imagenet": 1_281_167}.get(scale.data[data])
            images = images or (50_000 if scale is PAPER else 5000)
            horizon = 1 / (1 - averaged.beta) / steps_of(run, images)
            assert 0.02 < horizon < 0.19

    @every_scale
    def test_strengths_are_as_published(self, scale: Scale) -> None:
        saf_run, mesa = (
            saf.trained(grid_of("saf", scale), "WRN-28-10", "CIFAR-100", name).method for name in ("SAF", "MESA")
        )
        assert isinstance(saf_run, SAF)
        assert isinstance(mesa, MESA)
        assert (saf_run.lam, saf_run.tau, mesa.lam, mesa.tau) == (0.3, 5.0, 0.8, 5.0)


def memory(row: str) -> float:
    (cell,) = (cell for cell in cells("saf", "table2") if cell.row == row)
    return value(cell.quantity, Bench(PAPER, Path("nowhere")))


class TestMemory:
    def test_imagenet_is_near_what_is_published(self) -> None:
        """14,643 and 98 MB are printed; 14,661 MiB are 3 x 1,281,167 x 1,000 numbers, and E~ epochs go with them."""
        assert memory("ResNet-50, SAF") == pytest.approx(14_643, rel=0.005)
        assert memory("ResNet-50, MESA") == pytest.approx(98, rel=0.005)

    def test_cifar_is_what_the_text_says(self) -> None:
        assert memory("ResNet-18, SAF") == pytest.approx(57, rel=0.02)

    @pytest.mark.parametrize("method", [SAF(back=2), MESA(), Plain()])
    def test_without_storage_it_is_what_a_run_holds(self, method: Method) -> None:
        run = TrainSettings(method=method, select_on="test")
        engine = engine_of(run, 1, 1297, 10, "cpu")
        method.prepare(engine)
        held = sum(tensor.nbytes for tensor in tensors_in(engine.memory))
        counted = value(Remembered(run, "CIFAR-10"))
        assert counted * 2**20 == pytest.approx(held, rel=1e-12)
        assert (held > 0) is not isinstance(method, Plain)

    def test_the_sizes_that_are_counted_with_are_the_datas(self) -> None:
        splits = load("digits")
        assert KNOWN["digits"] == (len(splits.train), len(splits.test), 1, 8, len(splits.train.classes))

    def test_tensors_are_found_wherever_they_lie(self) -> None:
        one, two = torch.zeros(2), torch.zeros(3)
        assert [len(tensor) for tensor in tensors_in({"a": [one, None], "b": {"c": two}, "d": 5})] == [2, 3]


class TestStepTimes:
    """Rules whose steps differ in cost are timed over the whole run, all others late in it."""

    def piece(self, method: Method, folder: Path) -> StepTime:
        settings = TrainSettings(method=method, epochs=2, batch_size=400)
        (piece,) = step_time(settings, "time").measurements(Bench(MINI, folder))
        assert isinstance(piece, StepTime)
        return piece

    @pytest.mark.parametrize("method", [RST(SAM(0.05), 0.5), LookSAM(0.05)])
    def test_mixed_steps_lie_evenly_over_the_run(self, method: Method, tmp_path: Path) -> None:
        piece = self.piece(method, tmp_path)
        assert isinstance(piece, MixedStepTime)
        places = [piece.place(at, 600) for at in range(piece.steps)]
        assert [place.step for place in places] == list(range(0, 600, 10))
        assert [place.epoch for place in places] == [0] * 30 + [1] * 30

    def test_a_late_start_is_past(self, tmp_path: Path) -> None:
        piece = self.piece(SAF(start=1), tmp_path)
        assert not isinstance(piece, MixedStepTime)
        places = [piece.place(at, 8) for at in range(4)]
        assert all(place.epoch > 1 for place in places)
        assert [place.epoch - places[0].epoch for place in places] == [0, 1, 2, 3]

    def test_minutes_are_those_of_all_steps(self, tmp_path: Path) -> None:
        """1,297 digits of which 130 are held out, in batches of 400: three steps an epoch."""
        settings = TrainSettings(method=SAM(0.05), epochs=2, batch_size=400)
        bench = Bench(MINI, tmp_path)
        values = {}
        for unit in ("minutes", "extra_minutes", "seconds_per_step", "time"):
            quantity = step_time(settings, unit)
            for piece in quantity.measurements(bench):
                piece.run()
            values[unit] = value(quantity, bench)
        assert values["minutes"] == pytest.approx(values["seconds_per_step"] * 6 / 60)
        assert values["extra_minutes"] == pytest.approx(values["minutes"] * (1 - 1 / values["time"]))
