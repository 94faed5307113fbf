"""The contract of every noise model, and the distribution of each against a scale worked out by naive loops."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from cases import CHANGING, DEVICES, NOISES, STACKED, assert_distributed, is_random, spares_groups_of_zeros
from torch import Tensor

from noiserobust.noise import Gaussian, Laplace, NoiseModel, Sum, reference_scale
from noiserobust.noise.reference import even_split
from noiserobust.rng import Stream

STREAM = Stream(3, "test", "noise")
each_noise = pytest.mark.parametrize("noise", [*NOISES, *CHANGING, *STACKED], ids=str)


def weight(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A weight whose groups have very different maxima."""
    rows = torch.linspace(0.1, 3, shape[0]).view(-1, *[1] * (len(shape) - 1))
    return (Stream(0, "weight").normal(shape) * rows).to(dtype)


@each_noise
class TestContract:
    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("shape", [(6, 5), (6, 3, 2, 2), (4,)])
    def test_a_sample_is_like_its_weight(
        self, noise: NoiseModel, shape: tuple[int, ...], dtype: torch.dtype, device: str
    ) -> None:
        clean = weight(*shape, dtype=dtype).to(device)
        before = clean.clone()
        noisy = noise.sample(clean, STREAM)
        assert (noisy.shape, noisy.dtype, noisy.device) == (clean.shape, clean.dtype, clean.device)
        assert torch.equal(clean, before)
        assert not torch.equal(noisy, clean)

    def test_the_name_alone_decides(self, noise: NoiseModel) -> None:
        clean = weight(6, 5)
        assert torch.equal(noise.sample(clean, STREAM), noise.sample(clean, Stream(3, "test", "noise")))
        other = noise.sample(clean, Stream(4, "test", "noise"))
        assert torch.equal(noise.sample(clean, STREAM), other) != is_random(noise)

    def test_scaled_multiplies_the_deviation(self, noise: NoiseModel) -> None:
        clean = weight(6, 5, dtype=torch.float64)
        deviation = noise.sample(clean, STREAM) - clean
        if noise in STACKED:
            assert noise.scaled(2.5) == Sum(tuple(part.scaled(2.5) for part in noise.parts))  # type: ignore[attr-defined]
        else:
            scaled = noise.scaled(2.5).sample(clean, STREAM) - clean
            torch.testing.assert_close(scaled, 2.5 * deviation, rtol=1e-9, atol=0)
        assert noise.scaled(0).is_identity
        assert torch.equal(noise.scaled(0).sample(clean, STREAM), clean)
        assert not noise.is_identity

    def test_precisions_see_one_draw(self, noise: NoiseModel) -> None:
        clean = weight(6, 5).bfloat16()
        noisy = noise.sample(clean, STREAM)
        assert torch.equal(noisy.float(), noise.sample(clean.float(), STREAM).bfloat16().float())

    def test_memory_format_changes_nothing(self, noise: NoiseModel) -> None:
        clean = weight(6, 3, 2, 2)
        other = clean.to(memory_format=torch.channels_last)
        assert not other.is_contiguous()
        assert torch.equal(noise.sample(other, STREAM), noise.sample(clean, STREAM))

    def test_weights_of_zero_get_no_noise(self, noise: NoiseModel) -> None:
        assert torch.equal(noise.sample(torch.zeros(6, 5), STREAM), torch.zeros(6, 5))

    def test_a_group_of_zeros_gets_none_beside_others(self, noise: NoiseModel) -> None:
        clean = weight(6, 5)
        clean[3] = 0
        assert torch.equal(noise.sample(clean, STREAM)[3], clean[3]) == spares_groups_of_zeros(noise)
        assert not torch.equal(noise.sample(clean, STREAM)[4], clean[4])

    @pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,)])
    def test_weights_without_entries(self, noise: NoiseModel, shape: tuple[int, ...]) -> None:
        for t in (None, 86400.0):
            assert noise.sample(torch.ones(shape), STREAM, t).shape == shape

    def test_gradients_pass_through(self, noise: NoiseModel) -> None:
        clean = weight(6, 5).requires_grad_()
        given = Stream(0, "gradient").normal((6, 5))
        noise.sample(clean, STREAM).backward(given)
        assert clean.grad is not None
        assert torch.equal(clean.grad, given)

    def test_the_global_generator_is_not_touched(self, noise: NoiseModel) -> None:
        before = torch.get_rng_state()
        noise.program(weight(6, 5), STREAM).read(STREAM, t=86400.0)
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_chip_is_reproducible_from_its_name(self, noise: NoiseModel) -> None:
        first, second = (noise.program(weight(6, 5), STREAM) for _ in range(2))
        assert torch.equal(first.programmed(), second.programmed())
        second.read(Stream(1), t=86400.0)  # having been read before, at another time, changes nothing
        assert torch.equal(first.read(Stream(0), t=172800.0), second.read(Stream(0), t=172800.0))


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_a_chip_keeps_its_error_over_reads(noise: NoiseModel) -> None:
    chip = noise.program(weight(6, 5), STREAM)
    assert torch.equal(chip.read(Stream(0)), chip.read(Stream(1), t=3600.0))
    assert torch.equal(chip.read(Stream(0)), chip.programmed())


def naive_scale(w: Tensor, reference: str, rows: int, columns: int) -> Tensor:
    """max |w| of every weight's group, element by element from the definition."""
    matrix = w.reshape(w.shape[0], -1)
    tile_of_row = naive_tiles(matrix.shape[1], rows)
    tile_of_column = naive_tiles(matrix.shape[0], columns)
    largest: dict[object, float] = {}
    group = {
        "filter": lambda o, _: o,
        "layer": lambda _o, _i: None,
        "tile": lambda o, i: (tile_of_column[o], tile_of_row[i]),
        "tile-column": lambda o, i: (o, tile_of_row[i]),
    }[reference]
    places = list(product(*map(range, matrix.shape)))
    for o, i in places:
        largest[group(o, i)] = max(largest.get(group(o, i), 0.0), abs(float(matrix[o, i])))
    return torch.tensor([largest[group(o, i)] for o, i in places]).reshape(w.shape)


def naive_tiles(size: int, largest: int) -> list[int]:
    """Which tile each line is in: the fewest tiles, sizes at most one apart, larger ones first."""
    tiles = -(-size // largest)
    sizes = [size // tiles + (index < size % tiles) for index in range(tiles)]
    return [tile for tile, lines in enumerate(sizes) for _ in range(lines)]


class TestScale:
    @pytest.mark.parametrize("shape", [(11, 16), (6, 3, 2, 3)])
    @pytest.mark.parametrize("reference", ["filter", "layer", "tile", "tile-column"])
    def test_against_naive_loops(self, reference: str, shape: tuple[int, ...]) -> None:
        w = weight(*shape)
        scale = reference_scale(w, reference, rows=7, columns=5)  # type: ignore[arg-type]
        assert torch.equal(scale.expand_as(w), naive_scale(w, reference, 7, 5))

    def test_tiles_are_cut_evenly(self) -> None:
        """As aihwkit does: 576 inputs become 288 + 288, not 512 + 64."""
        assert [part.stop - part.start for part in even_split(576, 512)] == [288, 288]
        assert [part.stop - part.start for part in even_split(4608, 512)] == [512] * 9
        assert [part.stop - part.start for part in even_split(11, 4)] == [4, 4, 3]
        for size, largest in product(range(1, 60), range(1, 20)):
            tiles = [tile for tile, part in enumerate(even_split(size, largest)) for _ in range(size)[part]]
            assert tiles == naive_tiles(size, largest)

    def test_it_is_a_constant_for_autograd(self) -> None:
        assert not reference_scale(weight(3, 4).requires_grad_()).requires_grad


class TestDistribution:
    @pytest.mark.parametrize("shape", [(64, 1200), (40, 30, 8, 8)])
    @pytest.mark.parametrize("reference", ["filter", "layer", "tile", "tile-column"])
    @pytest.mark.parametrize(("kind", "name"), [(Gaussian, "norm"), (Laplace, "laplace")])
    def test_deviation_in_units_of_the_scale(
        self, kind: type[NoiseModel], name: str, reference: str, shape: tuple[int, ...]
    ) -> None:
        w = weight(*shape, dtype=torch.float64)
        noisy = kind(0.07, reference=reference).sample(w, STREAM)  # type: ignore[call-arg]
        scale = reference_scale(w, reference)  # type: ignore[arg-type] - checked against naive loops above
        assert_distributed((noisy - w) / (0.07 * scale), name)

    def test_the_literal_reading_has_that_variance(self) -> None:
        w = weight(64, 1200, dtype=torch.float64)
        noisy = Gaussian(0.07, reading="literal").sample(w, STREAM)
        largest = w.abs().amax(1, keepdim=True)
        assert_distributed((noisy - w) / (0.07**2 * largest).sqrt(), "norm")


class TestComposition:
    def test_every_stage_takes_its_scale_from_the_clean_weight(self) -> None:
        w = weight(6, 50, dtype=torch.float64)
        first, second = Gaussian(0.5), Laplace(0.25, reference="layer")
        program = STREAM.child("program")
        z, z2 = program.child(0).normal(w.shape).double(), program.child(1).laplace(w.shape).double()
        expected = w + 0.5 * w.abs().amax(1, keepdim=True) * z + 0.25 * w.abs().max() * z2
        torch.testing.assert_close((first + second).sample(w, STREAM), expected, rtol=1e-12, atol=0)
        # Had the second stage taken the maximum of noisy weights, it would be larger by far at this strength.
        inflated = first.sample(w, Stream(9)).abs().max() / w.abs().max()
        assert inflated > 1.1

    def test_stages_are_independent(self) -> None:
        w = weight(6, 50)
        twice = (Gaussian(0.1) + Gaussian(0.1)).sample(w, STREAM) - w
        once = Gaussian(0.1).sample(w, STREAM) - w
        assert not torch.allclose(twice, 2 * once, rtol=1e-2)

    def test_sums_flatten_and_are_written_left_to_right(self) -> None:
        total = Gaussian(0.1) + (Laplace(0.2) + Gaussian(0.3))
        assert str(total) == "gaussian:0.1+laplace:0.2+gaussian:0.3"
        assert NoiseModel.parse(str(total)) == total
        assert total.strength == 0.3
