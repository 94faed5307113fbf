"""Named streams: any part of any field can be made alone, and different names are independent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import assert_distributed, assert_independent
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from noiserobust import rng
from noiserobust.rng import Stream, seeded

FIELDS: dict[str, Callable[..., Tensor]] = {
    "norm": Stream.normal,
    "uniform": Stream.uniform,
    "laplace": Stream.laplace,
}
STREAM = Stream(5, "test", 3, "conv1")

every_field = pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads, and sets it back."""
    before = torch.get_num_threads()

    def use(count: int) -> None:
        torch.set_num_threads(count)
        rng._pool.cache_clear()

    yield use
    use(before)


class TestBlocks:
    SHAPE = (2100, 1000)  # blocks of 1,048 rows: two whole ones and one of four rows

    @every_field
    @given(
        shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
        rows=st.tuples(st.integers(0, 9), st.integers(0, 9)),
        block=st.sampled_from([1, 7, 20, 64]),
    )
    def test_a_slice_alone_equals_that_slice_of_the_whole(
        self, field: Callable[..., Tensor], shape: list[int], rows: tuple[int, int], block: int
    ) -> None:
        first, last = sorted(min(row, shape[0]) for row in rows)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rng, "BLOCK", block)
            whole = field(STREAM, shape)
            assert whole.shape == tuple(shape)
            assert torch.equal(field(STREAM, shape, rows=(first, last)), whole[first:last])

    def test_a_block_is_named_by_its_index(self) -> None:
        third = torch.empty(4, 1000).normal_(generator=STREAM.generator(block=2))
        assert torch.equal(STREAM.normal(self.SHAPE)[2096:], third)

    def test_a_row_longer_than_a_block_is_one_block(self) -> None:
        shape = (3, rng.BLOCK + 1)
        assert torch.equal(STREAM.normal(shape, rows=(1, 2)), STREAM.normal(shape)[1:2])

    def test_no_dimension_is_one_number_and_an_empty_field_is_empty(self) -> None:
        assert STREAM.normal(()).shape == ()
        assert STREAM.normal((0, 4)).shape == (0, 4)
        assert STREAM.normal((3, 0)).shape == (3, 0)

    @every_field
    def test_threads_change_nothing(self, field: Callable[..., Tensor], threads: Callable[[int], None]) -> None:
        made = []
        for count in (1, 2, 3):
            threads(count)
            made.append(field(STREAM, self.SHAPE))
        with ThreadPoolExecutor(3) as pool:
            made += pool.map(lambda _: field(STREAM, self.SHAPE), range(3))
        assert all(torch.equal(one, made[0]) for one in made)

    @pytest.mark.parametrize("rows", [(-1, 2), (2, 1), (0, 5)])
    def test_rows_outside_the_field_are_refused(self, rows: tuple[int, int]) -> None:
        with pytest.raises(IndexError, match="expected rows within 0 to 4"):
            STREAM.normal((4, 5), rows=rows)


class TestNames:
    @every_field
    def test_the_global_generator_is_neither_used_nor_touched(self, field: Callable[..., Tensor]) -> None:
        torch.manual_seed(1)
        first, state = field(STREAM, (40, 40)), torch.get_rng_state()
        torch.manual_seed(2)
        assert torch.equal(field(STREAM, (40, 40)), first)
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_same_name_gives_the_same_numbers(self) -> None:
        assert torch.equal(Stream(0, "a", 1).normal((9,)), Stream(0, "a").child(1).normal((9,)))
        assert Stream(0, "a", 1).integer() == Stream(0).child("a", 1).integer()

    def test_other_names_give_other_numbers(self) -> None:
        paths = [
            (),
            ("a",),
            ("a", "b"),
            ("b", "a"),
            ("ab",),
            ("a,b",),
            ('a", "b',),
            ("a", ""),
            (0,),
            (1,),
            ("1",),
            (1, 1),
            (11,),
        ]
        names = [Stream(0, *path) for path in paths]
        names += [Stream(1), Stream(-1), Stream(2**32), Stream(2**64), Stream(1, 0)]
        assert len({tuple(name.normal((8,)).tolist()) for name in names}) == len(names)
        assert len({name.integer() for name in names}) == len(names)
        assert len({tuple(name.child("x").normal((8,)).tolist()) for name in names}) == len(names)

    def test_seeds_that_torch_takes_for_one_another_differ(self) -> None:
        # The reason why a CPU stream writes the generator's whole state: manual_seed keeps only 32 bits of a seed.
        one, other = (torch.Generator().manual_seed(seed) for seed in (7, 7 + 2**32))
        assert torch.equal(torch.rand(100, generator=one), torch.rand(100, generator=other))
        assert_independent(Stream(7).normal((1 << 16,)), Stream(7 + 2**32).normal((1 << 16,)))

    @pytest.mark.parametrize("part", [0.5, True, None, ("a",)])
    def test_other_parts_of_a_name_are_refused(self, part: object) -> None:
        with pytest.raises(TypeError, match="expected strings and whole numbers"):
            Stream(0, part)  # type: ignore[arg-type]

    def test_an_integer_has_63_bits(self) -> None:
        values = [Stream(0, index).integer() for index in range(200)]
        assert all(0 <= value < 2**63 for value in values)
        assert max(values) > 2**62  # false-alarm rate 2^-200


class TestDistribution:
    @pytest.mark.parametrize("name", FIELDS)
    def test_moments_and_shape(self, name: str) -> None:
        assert_distributed(FIELDS[name](Stream(1, name), (300, 1000)), name)

    @every_field
    def test_neighbours_are_independent(self, field: Callable[..., Tensor]) -> None:
        blocks = field(STREAM, (2 * rng.BLOCK,)).view(2, -1)
        assert_independent(blocks[0], blocks[1])
        shape, stream = (1 << 16,), Stream(0, "report", 0, 0)
        for a, b in [(("conv1",), ("conv2",)), (("layer", 0), ("layer", 1)), ((3,), (4,)), (("a",), ("a", "b"))]:
            assert_independent(field(stream.child(*a), shape), field(stream.child(*b), shape))

    def test_kinds_of_one_name_are_not_the_same_field(self) -> None:
        # They share a generator's state, so they are not independent either: no noise model uses two on one name.
        assert not torch.equal(STREAM.normal((99,)), STREAM.laplace((99,)))

    def test_laplace_is_finite_and_symmetric_at_the_ends_of_the_bits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bits = torch.tensor([0, 1, 2**30 - 1, 2**30, 2**31 - 2, 2**31 - 1], dtype=torch.int32)
        monkeypatch.setattr(Tensor, "random_", lambda self, generator: self.copy_(bits.view(self.shape)))
        ends = torch.tensor([31.0, 31.0]) * torch.tensor(2.0).log()
        ends[1] -= torch.tensor(3.0).log()  # the second smallest is 3 / 2^31
        expected = torch.cat([ends, torch.zeros(2), -ends.flip(0)])
        torch.testing.assert_close(STREAM.laplace((6,)), expected, rtol=1e-6, atol=0)

    def test_uniform_stays_below_one(self) -> None:
        field = STREAM.uniform((1 << 20,))
        assert field.min() >= 0
        assert field.max() < 1


class TestSurroundings:
    """What a caller has set for its own tensors does not reach a field."""

    @every_field
    def test_the_default_type(self, field: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rng, "BLOCK", 20)
        whole = field(STREAM, (9, 7))
        try:
            torch.set_default_dtype(torch.float64)
            assert torch.equal(field(STREAM, (9, 7), rows=(1, 8)), whole[1:8])
        finally:
            torch.set_default_dtype(torch.float32)

    @every_field
    def test_inference_mode_and_threads(
        self, field: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]
    ) -> None:
        threads(2)
        monkeypatch.setattr(rng, "BLOCK", 20)
        with torch.inference_mode():
            inside = field(STREAM, (9, 7))
        assert torch.equal(inside, field(STREAM, (9, 7)))


class TestSeeded:
    def test_inside_the_stream_decides_and_outside_all_is_as_before(self) -> None:
        state = torch.get_rng_state()
        with seeded(Stream(0, "init")):
            inside = torch.rand(5)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)
        with seeded(Stream(0, "init")):
            assert torch.equal(torch.rand(5), inside)
        with seeded(Stream(1, "init")):
            assert not torch.equal(torch.rand(5), inside)

    def test_an_exception_restores_too(self) -> None:
        state = torch.get_rng_state()
        with pytest.raises(KeyError), seeded(STREAM):
            {}[torch.rand(5)]
        assert torch.equal(torch.get_rng_state(), state)
