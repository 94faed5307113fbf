"""What real arrays do besides noise of one size: levels, stuck cells, log-normal error, parts per chip and per read."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
import torch
from cases import assert_distributed, assert_independent
from scipy import stats
from torch import Tensor, nn

from noiserobust import evaluate
from noiserobust.analog.noisy import NoisyWeights, Programmed
from noiserobust.errors import UserError
from noiserobust.evaluation import Chips
from noiserobust.noise import Gaussian, LogNormal, NoiseModel, Quantize, Stuck, reference_scale
from noiserobust.rng import Stream

STREAM = Stream(11, "test", "stages")


def weight(*shape: int) -> Tensor:
    """In float64, with groups of very different maxima."""
    return Stream(0, "weight").normal(shape).double() * torch.linspace(0.1, 3, shape[0]).view(-1, *[1] * len(shape[1:]))


class TestQuantize:
    @pytest.mark.parametrize("reference", ["filter", "layer", "tile"])
    @pytest.mark.parametrize("bits", [2, 3, 5])
    def test_against_the_definition_in_fractions(self, bits: int, reference: str) -> None:
        w = weight(6, 5)
        scale = reference_scale(w, reference, 3, 4).expand_as(w)  # type: ignore[arg-type]
        n = 2 ** (bits - 1) - 1
        tile = {"rows": 3, "columns": 4} if reference == "tile" else {}
        seen = Quantize(bits, reference, **tile).sample(w, STREAM)  # type: ignore[arg-type]
        for value, s, got in zip(w.flatten().tolist(), scale.flatten().tolist(), seen.flatten().tolist(), strict=True):
            nearest = round(n * Fraction(value) / Fraction(s))  # Python rounds halves to even, exactly
            assert got == pytest.approx(nearest / n * s, abs=1e-15)

    def test_halves_go_to_the_even_level(self) -> None:
        w = torch.tensor([[-1.0, -5 / 6, -0.5, -1 / 6, 0.0, 1 / 6, 0.5, 5 / 6, 1.0]], dtype=torch.float64)
        assert (3 * Quantize(3).sample(w, STREAM)).tolist() == [[-3, -2, -2, 0, 0, 0, 2, 2, 3]]

    @pytest.mark.parametrize("cell_bits", [1, 2, 4])
    def test_the_levels_are_those_of_a_pair_of_cells_with_a_bit_less(self, cell_bits: int) -> None:
        w = torch.linspace(-2, 2, 10_001).reshape(1, -1)
        top = 2**cell_bits - 1
        pair = {sign * g / top for sign in (-1, 1) for g in range(2**cell_bits)}  # one cell at 0, the other at any
        levels = Quantize(cell_bits + 1).sample(w, STREAM).unique()
        assert len(levels) == len(pair) == 2 ** (cell_bits + 1) - 1
        torch.testing.assert_close(levels, 2 * torch.tensor(sorted(pair)))

    def test_it_saturates_and_zero_is_a_level(self) -> None:
        w = weight(6, 50)
        seen = (Gaussian(0.5) + Quantize(4)).sample(w, STREAM)
        assert torch.equal(seen.abs().amax(1), w.abs().amax(1))
        assert (seen == 0).any()

    def test_strength_goes_from_the_weight_to_its_level(self) -> None:
        w = weight(6, 5)
        level = Quantize(3).sample(w, STREAM)
        torch.testing.assert_close(Quantize(3, strength=0.5).sample(w, STREAM), (w + level) / 2)


class TestComposition:
    def test_each_stage_acts_on_what_the_one_below_it_holds(self) -> None:
        w = weight(6, 50)
        s = w.abs().amax(1, keepdim=True)
        program = STREAM.child("program")
        written = (Quantize(3) + Gaussian(0.1)).sample(w, STREAM)
        z = program.child(1).normal(w.shape).double()
        torch.testing.assert_close(written, Quantize(3).sample(w, STREAM) + 0.1 * s * z)
        read_back = (Gaussian(0.1) + Quantize(3)).sample(w, STREAM)
        z = program.child(0).normal(w.shape).double()
        torch.testing.assert_close(read_back, (3 * (w + 0.1 * s * z) / s).clamp(-3, 3).round() / 3 * s)

    def test_devices_are_programmed_to_quantised_targets_or_read_back_in_levels(self) -> None:
        w = weight(6, 50).float()
        levels = {float(level) for level in torch.arange(-3, 4) / 3}
        s = w.abs().amax(1, keepdim=True)
        silent = "pcm:programming=0.0,drift=0.0,read=0.0"
        for text, on_levels in (
            ("quantize:3+pcm", False),
            ("pcm+quantize:3", True),
            (f"quantize:3+{silent}", True),
            (silent, False),
        ):
            seen = NoiseModel.parse(text).sample(w, STREAM) / s
            distance = torch.stack([(seen - level).abs() for level in levels]).amin(0)
            assert bool((distance < 1e-6).all()) == on_levels, text
        one, other = (NoiseModel.parse(text).sample(w, STREAM) for text in ("quantize:3+pcm", "pcm+quantize:3"))
        assert not torch.allclose(one, other, atol=1e-3)

    def test_a_stuck_cell_is_stuck_whatever_is_written_below_or_above_it(self) -> None:
        w = torch.full((1, 1000), 0.5)
        w[0, 0] = 1.0
        below = (Gaussian(0.1) + Stuck(0.3)).sample(w, STREAM)
        above = (Stuck(0.3) + Gaussian(0.1)).sample(w, STREAM)
        assert 200 < (below == 0).sum() < 400
        assert (above == 0).sum() == 0


class TestLogNormal:
    def test_the_logarithm_is_normal_and_signs_stay(self) -> None:
        w = weight(64, 1200)
        seen = LogNormal(0.3).sample(w, STREAM)
        assert torch.equal(seen.sign(), w.sign())
        assert_distributed((seen / w).log() / 0.3, "norm")

    def test_mean_and_spread_of_the_factor(self) -> None:
        """The docstring's formulas, each within 5 standard errors (false-alarm rate 6e-7 each; kurtosis of scipy)."""
        factor = LogNormal(0.3).sample(torch.ones(64, 1200, dtype=torch.float64), STREAM)
        expected = stats.lognorm(0.3)
        _, variance, excess = expected.stats(moments="mvk")
        assert expected.mean() == pytest.approx(torch.tensor(0.3**2 / 2).exp().item())
        assert abs(factor.mean() - expected.mean()) < 5 * (variance / factor.numel()) ** 0.5
        assert abs(factor.var() - variance) < 5 * variance * ((excess + 2) / factor.numel()) ** 0.5
        assert abs(float(factor.median()) - 1) < 5 * 0.3 * (torch.pi / 2 / factor.numel()) ** 0.5

    def test_it_multiplies_what_lies_below(self) -> None:
        w = weight(6, 50)
        total = (Quantize(3) + LogNormal(0.2)).sample(w, STREAM)
        assert torch.equal(total == 0, Quantize(3).sample(w, STREAM) == 0)


class TestChipAndRead:
    @pytest.mark.parametrize("reading", ["std", "literal"])
    def test_a_part_per_read_is_drawn_anew_around_what_was_programmed(self, reading: str) -> None:
        w = weight(64, 1200)
        noise = Gaussian(0.2) + Gaussian(0.05, reading=reading, per="read")  # type: ignore[arg-type]
        chip = noise.program(w, STREAM)
        assert torch.equal(chip.programmed(), Gaussian(0.2).program(w, STREAM.child(0)).read(STREAM))
        s = w.abs().amax(1, keepdim=True)
        one, two = ((chip.read(Stream(k)) - chip.programmed()) / (s if reading == "std" else s.sqrt()) for k in (1, 2))
        assert_distributed(one / 0.05, "norm")
        assert_distributed(two / 0.05, "norm")
        assert_independent(one, two)
        assert torch.equal(chip.read(Stream(1)), chip.read(Stream(1)))

    def test_a_multiplicative_part_per_read(self) -> None:
        w = weight(64, 1200)
        chip = (LogNormal(0.2) + LogNormal(0.05, per="read")).program(w, STREAM)
        one, two = ((chip.read(Stream(k)) / chip.programmed()).log() / 0.05 for k in (1, 2))
        assert_distributed(one, "norm")
        assert_independent(one, two)

    def test_what_is_altered_above_alters_every_read(self) -> None:
        w = weight(6, 50)
        chip = (Gaussian(0.2, per="read") + Quantize(3) + Stuck(0.3)).program(w, STREAM)
        one, two = chip.read(Stream(1)), chip.read(Stream(2))
        assert not torch.equal(one, two)
        stuck = Stuck(0.3).program(torch.ones_like(w), STREAM.child(2)).read(STREAM) == 0
        for read in (one, two):
            assert not (read[stuck] > 0).any()
            assert (read[~stuck] > 0).any()
            levels = 3 * read / w.abs().amax(1, keepdim=True)
            torch.testing.assert_close(levels, levels.round())

    def test_reads_of_a_draw_differ_by_the_parts_per_read_alone(self) -> None:
        net = nn.Linear(40, 30)
        programmed = Programmed(NoisyWeights(net), Gaussian(0.2) + Gaussian(0.05, per="read"), STREAM)
        s = net.weight.detach().abs().amax(1, keepdim=True)
        mean = torch.stack([programmed.weight("weight", read=k) for k in range(100)]).mean(0)
        # The mean of 100 reads is the chip's own weight but for .005 s: 6 standard errors of 1,200 (alarm rate 2e-6).
        assert ((mean - programmed.chip("weight").programmed()) / s).abs().max() < 6 * 0.005
        assert ((mean - net.weight) / s).std() > 0.1

    def test_evaluation_reads_a_chip_again_and_again(self) -> None:
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        data = Stream(0, "x").normal((60, 1, 2, 2)), torch.arange(60) % 3
        texts = ["gaussian:0.3", "gaussian:0.3+gaussian:0.1,per=read", "lognormal:0.3,per=read"]
        rows = evaluate(net, data, texts, draws=2, chips=Chips(reads=3)).rows.query("metric == 'loss'")
        counts = rows.groupby(["noise", "draw"])["value"].nunique().unstack("draw")
        assert counts.loc[texts].to_numpy().tolist() == [[1, 1], [3, 3], [3, 3]]


class TestStuck:
    def test_outcomes_of_a_pair_have_their_probabilities(self) -> None:
        """Exact binomial test per outcome: false-alarm rate 1e-7 each, 1e-6 for all."""
        zero, top, n = 0.1, 0.04, 200_000
        w = torch.full((2, n), 0.25, dtype=torch.float64) * torch.tensor([[1.0], [-1.0]])
        w[:, 0] = 1.0
        seen = Stuck(zero, top).sample(w, STREAM)[:, 1:]
        obeys = 1 - zero - top
        expected = {
            0.25: obeys * (1 - top),
            0.0: zero * (1 - top) + top * top,
            1.0: top * (1 - top),
            -0.75: obeys * top,
            -1.0: zero * top,
        }
        assert sum(expected.values()) == pytest.approx(1)
        for row, sign in zip(seen, (1, -1), strict=True):
            assert set((sign * row).tolist()) <= set(expected)
            for value, share in expected.items():
                assert stats.binomtest(int((sign * row == value).sum()), n - 1, share).pvalue > 1e-7

    def test_a_weight_of_zero_goes_to_either_end(self) -> None:
        w = torch.zeros(1, 10_000)
        w[0, 0] = 2.0
        seen = Stuck(0.5, at_max=0.1).sample(w, STREAM)[0, 1:]
        assert set(seen.tolist()) == {-2.0, 0.0, 2.0}
        for end in (-2.0, 2.0):
            assert stats.binomtest(int((seen == end).sum()), 9_999, 0.1 * 0.9).pvalue > 1e-7

    def test_larger_shares_stick_the_same_cells_and_more(self) -> None:
        w = weight(6, 500)
        few, many = (Stuck(p, at_max=p).sample(w, STREAM) != w for p in (0.05, 0.2))
        assert (many | ~few).all()
        assert many.sum() > 2 * few.sum()

    def test_what_obeys_is_given_back_bit_for_bit(self) -> None:
        w = weight(6, 500).float()
        noisy, seen = ((Gaussian(0.1) + Stuck(p, at_max=p)).sample(w, STREAM) for p in (0.0, 0.05))
        same = seen == noisy
        assert 0.8 < same.float().mean() < 0.95  # .95^3 = .857 obey where it shows
        s = w.abs().amax(1, keepdim=True).expand_as(w)
        changed = torch.stack([seen.abs(), (seen.abs() - s).abs(), ((seen - noisy).abs() - s).abs()]).amin(0)
        assert changed[~same].max() < 1e-6

    def test_all_cells_stuck(self) -> None:
        w = weight(6, 5)
        assert torch.equal(Stuck(1.0).sample(w, STREAM), torch.zeros_like(w))
        assert torch.equal(Stuck(0.0, at_max=1.0).sample(w, STREAM), torch.zeros_like(w))  # s - s


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("quantize:1", "quantize: expected 2 to 24 bits, got 1; b bits are 2^b - 1 levels"),
        ("quantize:25", "expected 2 to 24 bits, got 25"),
        ("quantize:6.0", "quantize: bits: expected a whole number, got '6.0'"),
        ("quantize:6,reference=row", "expected one of filter, layer, tile, tile-column, got 'row'"),
        ("quantize:6,strength=-1", "quantize: expected a finite strength >= 0, got -1.0"),
        ("stuck:1.1", "expected shares of cells at_zero, at_max >= 0 with a sum of at most 1, got 1.1 and 0.0"),
        ("stuck:0.6,at_max=0.6", "got 0.6 and 0.6"),
        ("stuck:-0.1", "got -0.1 and 0.0"),
        ("stuck:nan", "got nan and 0.0"),
        ("stuck", "stuck needs at_zero"),
        ("lognormal:-1", "lognormal: expected a finite sigma >= 0, got -1.0; it is the standard deviation of ln w"),
        ("lognormal:inf", "expected a finite sigma >= 0, got inf"),
        ("lognormal:0.1,per=day", "lognormal: per: expected one of chip, read, got 'day'"),
        ("gaussian:0.1,per=day", "gaussian: per: expected one of chip, read, got 'day'"),
    ],
)
def test_refusals(text: str, fragment: str) -> None:
    with pytest.raises(UserError, match=re.escape(fragment)):
        NoiseModel.parse(text)
    with pytest.raises(UserError, match="gaussian: per: expected one of chip, read, got 'day'"):
        Gaussian(0.1, per="day")  # type: ignore[arg-type]
