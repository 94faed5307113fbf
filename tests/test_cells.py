"""Noises around noise: averaging cells, bit slices, correlated errors, verified programming, against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from noiserobust import perturbed
from noiserobust.analog.noisy import NoisyWeights, Programmed
from noiserobust.data import Batch
from noiserobust.errors import UserError
from noiserobust.noise import (
    PCM,
    Cells,
    Chip,
    Correlated,
    Gaussian,
    Measured,
    NoiseModel,
    Sliced,
    StateIndependent,
    Stuck,
)
from noiserobust.noise import WriteVerify as Verified
from noiserobust.rng import Stream, seeded
from noiserobust.training import Engine, Method, Progress

STREAM = Stream(11, "test", "cells")
N = 20_000


def equal_weights(*levels: float, columns: int = N) -> Tensor:
    """A row of equal weights per level, and one of ones, so that the scale of the layer is 1."""
    return torch.tensor([*levels, 1.0], dtype=torch.float64).repeat(columns, 1).T.contiguous()


def assert_std(values: Tensor, expected: float) -> None:
    """Within 5 standard errors of a normal sample's: false-alarm rate 6e-7."""
    assert abs(float(values.std()) / expected - 1) < 5 / math.sqrt(2 * values.numel())


class TestCells:
    @pytest.mark.parametrize("number", [1, 4, 9])
    def test_independent_errors_average(self, number: int) -> None:
        w = equal_weights(0.3)
        error = Cells(Gaussian(0.1, reference="layer"), number).program(w, STREAM).programmed() - w
        assert_std(error, 0.1 / math.sqrt(number))

    def test_a_mean_error_does_not(self) -> None:
        """The mean decay of PCM after a day is that of one cell, its spread a third."""
        w = equal_weights(0.5)
        one, nine = (
            noise.program(w, STREAM).read(STREAM, 86400.0)[0]
            for noise in (PCM(reference="layer"), Cells(PCM(reference="layer"), 9))
        )
        assert abs(float(one.mean() - nine.mean())) < 5 * float(one.std()) * math.sqrt((1 + 1 / 9) / N)
        assert abs(float(one.std() / nine.std()) - 3) < 0.15

    def test_it_is_the_mean_of_its_cells(self) -> None:
        w = Stream(0, "w").normal((4, 5)).double()
        cells = [Gaussian(0.2).write(Chip(w), w, STREAM.child(cell)).programmed() for cell in range(3)]
        torch.testing.assert_close(Cells(Gaussian(0.2), 3).program(w, STREAM).programmed(), sum(cells) / 3)

    def test_filled_one_after_the_other(self) -> None:
        """Half of the largest in three cells: one full, one half full, one empty; by the errors of PCM at 1, 1/2, 0."""
        w = equal_weights(0.5)
        chip = Cells(PCM(reference="layer"), 3, fill="max", reference="layer").program(w, STREAM)
        held = [[float(target[0, 0]) for target in part.targets] for part in chip.parts]  # type: ignore[attr-defined]
        assert held == [[25.0, 0.0], [12.5, 0.0], [0.0, 0.0]]
        plain = PCM(reference="layer").program(equal_weights(0.0, 0.5), STREAM.child("plain")).programmed().var(1)
        assert_std(chip.programmed()[0], math.sqrt(float(plain.sum())) / 3)

    @pytest.mark.parametrize("fill", ["equal", "max"])
    def test_the_scale_is_that_of_the_clean_weight_behind_other_stages(self, fill: Literal["equal", "max"]) -> None:
        """Four cells with errors of 0.1 of the largest clean weight, all of them stuck at 0: a mean error of 0.05."""
        w = equal_weights(0.5)
        noise = Stuck(1.0) + Cells(Gaussian(0.1, reference="layer"), 4, fill=fill, reference="layer")
        assert_std(noise.program(w, STREAM).programmed(), 0.1 / 2)

    def test_aihwkit_fills_the_same_conductances(self) -> None:
        conductance = pytest.importorskip("aihwkit.inference.converter.conductance")
        w = Stream(0, "w").normal((6, 5))
        theirs, _ = conductance.NPairConductanceConverter([1.0, 1.0, 1.0], g_max=25.0).convert_to_conductances(w)
        chip = Cells(PCM(reference="layer"), 3, fill="max", reference="layer").program(w, STREAM)
        ours = [target for part in chip.parts for target in part.targets]  # type: ignore[attr-defined]
        torch.testing.assert_close(ours, theirs)

    def test_reads_are_of_each_cell_but_of_one_below(self) -> None:
        w, read = equal_weights(0.3), Gaussian(0.1, reference="layer", per="read")
        inside = (Gaussian(0.0) + Cells(read, 4)).program(w, STREAM).read(STREAM) - w
        below = (read + Cells(Gaussian(0.1, reference="layer"), 4)).program(w, STREAM)
        assert_std(inside, 0.1 / 2)
        assert_std(below.read(STREAM) - below.programmed(), 0.1)


class TestSlices:
    @pytest.mark.parametrize(("bits", "slices"), [(1, 4), (2, 2), (2, 4), (4, 1), (3, 3)])
    def test_without_noise_it_is_rounding(self, bits: int, slices: int) -> None:
        """Digit by digit, in whole numbers of Python."""
        w = Stream(0, "w").normal((3, 40)).double()
        seen = Sliced(Gaussian(1e-300), bits, slices).program(w, STREAM).programmed()
        largest = 2 ** (bits * slices) - 1
        for row, got in zip(w.tolist(), seen.tolist(), strict=True):
            scale = max(map(abs, row))
            rounded = [math.copysign(round(abs(value) / scale * largest), value) / largest * scale for value in row]
            np.testing.assert_allclose(got, rounded, rtol=0, atol=1e-12)

    def test_slices_hold_the_digits(self) -> None:
        w = torch.tensor([[1.0, -200 / 255, 27 / 255]], dtype=torch.float64)  # 3333, 3020, 0123 in base 4
        chip = Sliced(Gaussian(1e-300), bits=2, slices=4).program(w, STREAM)
        digits = [(3 * part.programmed()).round().int().tolist()[0] for part in chip.parts]  # type: ignore[attr-defined]
        assert digits == [[3, 0, 3], [3, -2, 2], [3, 0, 1], [3, -3, 0]]

    @pytest.mark.parametrize(("bits", "slices"), [(2, 4), (1, 3), (4, 2)])
    def test_errors_are_weighted_by_significance(self, bits: int, slices: int) -> None:
        """Var = sigma^2 sum_j c_j^2; the weights of 1 have no rounding."""
        noise = Sliced(Gaussian(0.1, reference="layer"), bits, slices, reference="layer")
        error = noise.program(equal_weights(), STREAM).programmed() - 1
        significance = np.array([2.0 ** (bits * place) for place in range(slices)])
        shares = significance / significance.sum()
        assert_std(error, 0.1 * math.sqrt(float((shares**2).sum())))

    def test_the_most_significant_slice_decides(self) -> None:
        one, four = (
            Sliced(PCM(reference="layer"), 4 // n, n, reference="layer").program(equal_weights(), STREAM)
            for n in (1, 4)
        )
        assert 0.5 < float(four.programmed().std() / one.programmed().std()) < 1


OVER = {
    "column": lambda o, i: o,
    "row": lambda o, i: i,
    "tile": lambda o, i: (o // 2, i // 3),
    "layer": lambda o, i: 0,
    "die": lambda o, i: 0,
}


class TestCorrelated:
    @pytest.mark.parametrize(
        ("text", "over"), [*(("gaussian(0.1)", over) for over in OVER), ("laplace(0.1)", "column")]
    )
    def test_covariance(self, over: str, text: str) -> None:
        """Over 1,500 chips of 4 x 6 weights: variance as without, correlation rho in a group and 0 else; bounds of
        5 standard errors for 276 pairs: false-alarm rate 2e-4 in all, with a fixed seed."""
        w, rho, chips = torch.ones(4, 6), 0.4, 1500
        tile = ",rows=3,columns=2" if over == "tile" else ""
        noise = NoiseModel.parse(f"correlated({text},share={rho},over={over}{tile})")
        errors = torch.stack([(noise.sample(w, Stream(5, "chip", chip)) - w).flatten() for chip in range(chips)])
        plain = 0.1 if text.startswith("gaussian") else 0.1 * math.sqrt(2)
        assert abs(float(errors.std(0).mean()) / plain - 1) < 0.04
        z = errors if text.startswith("gaussian") else to_normal(errors / 0.1)
        found = np.corrcoef(z.numpy().T)
        group = [OVER[over](place // 6, place % 6) for place in range(24)]
        expected = np.array([[1.0 if a == b else rho * (group[a] == group[b]) for b in range(24)] for a in range(24)])
        assert np.abs(found - expected).max() < 5 / math.sqrt(chips)

    def test_a_die_is_shared_by_layers_and_not_by_chips(self) -> None:
        with seeded(STREAM):
            net = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False))
        clean = [p.detach().clone() for p in net.parameters()]

        def shifts(draw: int, over: str = "die") -> list[float]:
            with perturbed(net, f"correlated(gaussian(0.1),share=1.0,over={over})", draw=draw):
                errors = [
                    (p.detach() - c) / c.abs().amax(1, keepdim=True)
                    for p, c in zip(net.parameters(), clean, strict=True)
                ]
            assert all(float(error.std()) < 1e-6 for error in errors)
            return [float(error.mean()) for error in errors]

        first, second, other = shifts(0), shifts(1), shifts(0, "layer")
        assert first[0] == pytest.approx(first[1], rel=1e-5)
        assert first[0] != pytest.approx(second[0], rel=1e-2)
        assert other[0] != pytest.approx(other[1], rel=1e-2)

    def test_a_die_reads_as_one(self) -> None:
        """Also of chips that are kept, and at each read anew."""
        with seeded(STREAM), torch.no_grad():
            net = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False)).requires_grad_(False)
        noise = NoiseModel.parse("correlated(gaussian(0.1,reference=layer,per=read),share=1.0,over=die)")
        chips = Programmed(NoisyWeights(net), noise, STREAM)

        clean = {name: p.detach().clone() for name, p in net.named_parameters()}

        def shifts(read: int) -> list[float]:
            return [float((chips.weight(name, read=read) - w).mean() / w.abs().max()) for name, w in clean.items()]

        assert shifts(0)[0] == pytest.approx(shifts(0)[1], rel=1e-5)
        assert shifts(0)[0] != pytest.approx(shifts(1)[0], rel=1e-2)

    def test_training_has_dies_too(self) -> None:
        with seeded(STREAM):
            net = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False))
        clean = [p.detach().clone() for p in net.parameters()]
        moved = []
        x, y = torch.ones(6, 5), torch.arange(6) % 3

        def loss(outputs: Tensor, labels: Tensor) -> Tensor:
            moved[:] = [(p.detach() - c) / c.abs().max() for p, c in zip(net.parameters(), clean, strict=True)]
            return nn.functional.cross_entropy(outputs, labels, reduction="none")

        engine = Engine(net, torch.optim.SGD(net.parameters(), 0.1), loss=loss)
        noise = "rwp:correlated(gaussian(0.1,reference=layer),share=1.0,over=die)"
        Method.parse(noise).step(engine, Batch(x, y), Progress(0, 9))
        assert float(moved[0].mean()) == pytest.approx(float(moved[1].mean()), rel=1e-4)
        assert abs(float(moved[0].mean())) > 1e-3

    def test_stuck_cells_come_in_columns_and_are_as_many(self) -> None:
        w = torch.ones(4000, 20)
        stuck = Correlated(Stuck(0.1), 0.99).sample(w, STREAM) == 0
        by_column = stuck.float().mean(1)
        # One column is nearly all or nothing: the std of 4,000 means of .1 is at most sqrt(.09 / 4000).
        assert abs(float(by_column.mean()) - 0.1) < 5 * math.sqrt(0.09 / 4000)
        assert float(((by_column < 0.1) | (by_column > 0.9)).float().mean()) > 0.8

    def test_the_field_keeps_its_distribution(self) -> None:
        stream = Correlated(Gaussian(1.0), 0.0)  # no share: the plain draw
        w = torch.ones(30, 40)
        assert torch.equal(stream.sample(w, STREAM), Gaussian(1.0).sample(w, STREAM))
        half = Correlated(NoiseModel.parse("stuck:0.3"), 0.5, over="row").sample(torch.ones(2, 40_000), STREAM)
        assert abs(float((half[0] == 0).float().mean()) - 0.3) < 5 * math.sqrt(0.21 / 40_000)

    def test_programming_and_each_read_of_devices(self) -> None:
        noise = Correlated(PCM(reference="layer"), 0.5, over="column")
        chip = noise.program(torch.ones(3000, 2, dtype=torch.float64), STREAM)
        programmed, early, late = chip.programmed(), chip.read(Stream(1), 0.0), chip.read(Stream(2), 0.0)
        for errors in (programmed - 1, early - programmed, early - late):
            assert abs(np.corrcoef(errors.numpy().T)[0, 1] - 0.5) < 5 / math.sqrt(3000)

    def test_two_levels_nest(self) -> None:
        """Die to die and column to column: the shares of the variance are .5 and .5 x .6."""
        noise = NoiseModel.parse("correlated(correlated(gaussian(0.1),share=0.6,over=column),share=0.5,over=layer)")
        w = torch.ones(2, 2)
        errors = torch.stack([(noise.sample(w, Stream(6, chip)) - w).flatten() for chip in range(1500)])
        found = np.corrcoef(errors.numpy().T)
        assert abs(found[0, 1] - 0.8) < 5 / math.sqrt(1500)
        assert abs(found[0, 2] - 0.5) < 5 / math.sqrt(1500)
        assert abs(float(errors.std()) / 0.1 - 1) < 0.1
        same = replace(noise, over="column")  # the same groups twice are two numbers
        errors = torch.stack([(same.sample(w, Stream(6, chip)) - w).flatten() for chip in range(500)])
        assert abs(float(errors.std()) / 0.1 - 1) < 0.1


def to_normal(values: Tensor) -> Tensor:
    return torch.from_numpy(stats.norm.ppf(stats.laplace.cdf(values.double().numpy())))


class TestWriteVerify:
    @pytest.mark.parametrize("iterations", [1, 2, 5])
    @pytest.mark.parametrize("devices", [False, True])
    def test_the_truncated_distribution(self, iterations: int, devices: bool) -> None:
        """Of a Gaussian error; the devices are single ones amid their range, of std .1 of it."""
        sigma, tolerance = 0.1, 0.08
        cells = StateIndependent(sigma=2.5, drift=0.0, read=0.0, mapping="offset", reference="layer")
        noise = Verified(cells if devices else Gaussian(sigma, reference="layer"), tolerance, iterations)
        error = noise.program(equal_weights(0.0), STREAM).programmed()[0]
        error = error / 2 if devices else error  # x = 2 (g - g_min) / (g_max - g_min) - 1
        a = tolerance / sigma
        p = 2 * stats.norm.cdf(a) - 1
        inside = 1 - (1 - p) ** iterations
        within = error.abs() <= tolerance
        assert abs(float(within.double().mean()) - inside) < 5 * math.sqrt(inside * (1 - inside) / N)
        assert stats.kstest(error[within].numpy(), stats.truncnorm(-a, a, scale=sigma).cdf).pvalue > 1e-6
        variance = sigma**2 * (1 - 2 * a * stats.norm.pdf(a) / p)
        assert abs(float(error[within].var()) / variance - 1) < 5 * math.sqrt(2 / N / inside)
        left = (sigma**2 - p * variance) / (1 - p)
        assert abs(float(error[~within].square().mean()) / left - 1) < 0.1

    def test_the_first_try_is_the_draw_itself(self) -> None:
        w = Stream(0, "w").normal((4, 5))
        for noise in (PCM(), Gaussian(0.1)):
            once = Verified(noise, 0.01, iterations=1).program(w, STREAM).programmed()
            torch.testing.assert_close(once, noise.program(w, STREAM).programmed())
            kept = Verified(noise, 10.0).program(w, STREAM).programmed()
            torch.testing.assert_close(kept, once)

    def test_both_devices_of_a_pair_are_verified(self) -> None:
        chip = Verified(PCM(read=0.0, reference="layer"), 0.01, iterations=200).program(equal_weights(0.5), STREAM)
        for target, got in zip(chip.targets, chip.conductances, strict=True):  # type: ignore[attr-defined]
            assert float((got - target).abs().max()) <= 0.01 * 25

    def test_read_noise_blurs_the_verification(self) -> None:
        w = equal_weights(0.5)
        quiet, loud = (
            Verified(PCM(read=read, reference="layer"), 0.01, iterations=50).program(w, STREAM).programmed()[0].std()
            for read in (0.0, 1.0)
        )
        assert loud > 1.2 * quiet

    def test_what_relaxes_later_is_not_verified(self) -> None:
        """A table with times: programming is exact to the tolerance, the growth of the std is still all there."""
        table = Measured(table="example-retention", reference="layer", mapping="offset")
        w = equal_weights(0.0)  # amid the range: 20 µS of 40
        chip = Verified(table, 0.002, iterations=400).program(w, STREAM)
        assert float((chip.programmed()[0]).abs().max()) <= 0.004 * (1 + 1e-9)
        first, day = (float(table.devices().surface("std", torch.tensor(20.0), t)) for t in (1.0, 86400.0))
        assert_std(chip.read(STREAM, 86400.0)[0] * 20, math.sqrt(day**2 - first**2))


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("cells(pcm,number=0)", "cells: expected a number of cells from 1 to 64, got 0"),
        ("cells:pcm", "cells needs number"),
        (
            "sliced(pcm,bits=0,slices=2)",
            "sliced: expected bits and slices >= 1, of 24 bits in all at most, got 0 and 2",
        ),
        ("sliced(pcm,bits=5,slices=5)", "of 24 bits in all at most, got 5 and 5"),
        ("correlated(pcm,share=1.5)", "correlated: expected a share of the variance from 0 to 1, got 1.5"),
        ("correlated(pcm,share=0.5,over=wafer)", "expected one of column, row, tile, layer, die, got 'wafer'"),
        (
            "sliced(pcm,bits=2,slices=3,others=pcm)",
            "expected others for all slices but the most significant one, 2, got 1",
        ),
        ("correlated(pcm,share=0.5,rows=4)", "expected rows and columns only beside over=tile, got over=column"),
        ("write_verify(pcm+gaussian(0.1),tolerance=0.1)", "expected a device profile, or noise with a reference group"),
        ("write_verify(lognormal(0.1),tolerance=0.1)", "verify one stage"),
        ("write_verify(pcm,tolerance=-1)", "write_verify: expected a finite tolerance >= 0, got -1.0"),
        ("write_verify(pcm,tolerance=0.1,iterations=0)", "write_verify: expected iterations from 1 to 1000, got 0"),
    ],
)
def test_refusals(text: str, fragment: str) -> None:
    with pytest.raises(UserError) as caught:
        NoiseModel.parse(text)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_with_a_sum_inside_reads_back() -> None:
    text = "quantize:6+cells(pcm+gaussian(0.01),number=2)+gaussian:0.01"
    noise = NoiseModel.parse(text)
    assert str(noise) == text
    assert [part.name for part in noise.stages] == ["quantize", "cells", "gaussian"]
    assert NoiseModel.parse(f"cells({text},number=2)").nested() == f"cells({noise.nested()},number=2)"
    assert NoiseModel.parse("cells:pcm,number=2") == NoiseModel.parse("cells(pcm,number=2)")


def test_every_slice_has_a_noise_of_its_own() -> None:
    """The slices by hand: digits of 2 bits, most significant first in the text; moments by the docstring's equation."""
    noise = NoiseModel.parse("sliced(gaussian(0.01),bits=2,slices=3,others=gaussian(0.04);gaussian(0.2))")
    assert NoiseModel.parse(str(noise)) == noise
    assert Sliced(noise.noise, 2, 3, others=tuple(noise.others)) == noise  # type: ignore[attr-defined]
    w = torch.tensor([[1.0] * 5000]) * torch.tensor([[1.0], [-1.0]])
    error = noise.sample(w, STREAM) - w
    shares = [4**j * 3 / 63 for j in (2, 1, 0)]
    expected = sum((c * sigma) ** 2 for c, sigma in zip(shares, (0.01, 0.04, 0.2), strict=True)) ** 0.5
    # 10,000 values: relative standard error 0.7 %
    assert float(error.std()) == pytest.approx(expected, rel=0.035)
    assert str(noise.changed(reference="layer").others[0]) == "gaussian:0.04,reference=layer"  # type: ignore[attr-defined]
