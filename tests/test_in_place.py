"""Noise added where the weights lie: bit for bit the plain composition, whatever the shape, layout and threads."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from cases import CHANGING, NOISES, STACKED
from hypothesis import given
from hypothesis import strategies as st
from methods import same_bits
from torch import Tensor, nn

from noiserobust import rng
from noiserobust.analog.noisy import NoisyWeights
from noiserobust.noise import Gaussian, Laplace, NoiseModel, in_place, reference_scale
from noiserobust.noise.in_place import add_in_place, adds_in_place
from noiserobust.rng import Stream, pieces, seeded

STREAM = Stream(7, "test", "in place")
DIRECT = [
    Gaussian(0.1),
    Gaussian(0.3, reference="layer", reading="literal"),
    Laplace(0.1),
]


def plain_normal(stream: Stream, shape: tuple[int, ...]) -> Tensor:
    """A normal field as simply as it can be said: every block of rows at once, from its own generator."""
    return plain_field(stream, shape, lambda block, generator: block.normal_(generator=generator))


def plain_field(stream: Stream, shape: tuple[int, ...], fill: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
    rows = max(1, rng.BLOCK // math.prod(shape[1:]))
    parts = [
        fill(torch.empty(min(rows, shape[0] - start), *shape[1:]), stream.generator(block=index))
        for index, start in enumerate(range(0, shape[0], rows))
    ]
    return torch.cat(parts)


def plain_laplace(block: Tensor, generator: torch.Generator) -> Tensor:
    """The inverse of the distribution: -sgn(v) ln|v| of v = (2 k + 1) / 2^31, k a signed number of 31 random bits."""
    bits = torch.empty(block.shape, dtype=torch.int32).random_(generator=generator).long()
    v = (2 * torch.where(bits < 2**30, bits, bits - 2**31) + 1).float() / 2**31
    return -v.sign() * v.abs().log()


def plain(noise: Gaussian | Laplace, weight: Tensor, stream: Stream) -> Tensor:
    """w + sigma s z as simply as it can be said."""
    dims = tuple(range(1 if noise.reference == "filter" else 0, weight.dim()))
    scale, stream = torch.linalg.vector_norm(weight, torch.inf, dim=dims, keepdim=True), stream.child("program")
    if isinstance(noise, Laplace):
        return weight + plain_field(stream, tuple(weight.shape), plain_laplace) * (noise.b * scale)
    std = noise.sigma * (scale.sqrt() if noise.reading == "literal" else scale)
    return weight + plain_normal(stream, tuple(weight.shape)) * std


def weight_of(shape: tuple[int, ...], channels_last: bool = False) -> Tensor:
    weight = STREAM.child("weight").normal(shape)
    weight[0] = 0  # a filter without a scale
    weight[-1].neg_()
    return weight.contiguous(memory_format=torch.channels_last) if channels_last else weight


SHAPES = [
    (5, 3),
    (2, 7),
    (1, 1),
    (64, 3, 3, 3),
    (40, 24, 3, 3),
    (300, 1000),
    (9, 40_001),
    (1200, 1000),
    (3, 2, 2, 2, 2),
]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    rng._pool.cache_clear()
    yield request.param
    torch.set_num_threads(before)
    rng._pool.cache_clear()


@pytest.mark.parametrize("noise", DIRECT, ids=str)
def test_every_shape_and_layout(noise: Gaussian, threads: int) -> None:
    weights = [weight_of(shape, last) for shape in SHAPES for last in (False, True) if not last or len(shape) == 4]
    streams = [STREAM.child(index) for index in range(len(weights))]
    expected = [plain(noise, weight, stream) for weight, stream in zip(weights, streams, strict=True)]
    sampled = [noise.sample(weight, stream) for weight, stream in zip(weights, streams, strict=True)]
    assert same_bits(sampled, expected)
    assert all(adds_in_place(noise, weight) for weight in weights)
    pairs = list(zip([weight.clone() for weight in weights], streams, strict=True))
    add_in_place(noise, pairs)
    assert same_bits([weight for weight, _ in pairs], expected)


@pytest.mark.parametrize("noise", DIRECT[::2], ids=str)
def test_the_default_type_does_not_matter(noise: Gaussian) -> None:
    weight = weight_of((5, 3))
    expected = plain(noise, weight, STREAM)
    try:
        torch.set_default_dtype(torch.float64)
        add_in_place(noise, [(weight, STREAM)])
    finally:
        torch.set_default_dtype(torch.float32)
    assert same_bits([weight], [expected])


@given(rows=st.integers(1, 40), width=st.integers(1, 40), grain=st.sampled_from([2, 16, 40, 64, 200]))
def test_pieces_of_a_block_get_the_blocks_bits(rows: int, width: int, grain: int) -> None:
    whole = torch.empty(rows, width).normal_(generator=STREAM.generator())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rng, "GRAIN", grain)
        cut = pieces(rows, width)
    assert sum(cut) == rows
    assert all(part > 0 for part in cut)
    generator, made = STREAM.generator(), torch.empty(rows, width)
    for part in made.split(cut):
        part.normal_(generator=generator)
    assert same_bits([made], [whole])


def test_pieces_fit_one_thread() -> None:
    assert max(pieces(512, 4608)) * 4608 < rng.GRAIN
    assert max(pieces(64, 27)) * 27 < rng.GRAIN
    assert pieces(1, 10**6) == [1]


def networks() -> dict[str, Callable[[], nn.Module]]:
    return {
        "mixed": lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.ConvTranspose2d(8, 6, 3, groups=2),
            nn.Linear(5, 4),
            nn.LSTM(4, 3),
            nn.Conv1d(2, 3, 5),
        ),
        "double": lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double(),
        "bfloat16": lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).bfloat16(),
    }


@pytest.mark.parametrize("noise", [*NOISES, *CHANGING, *STACKED], ids=str)
@pytest.mark.parametrize("network", networks())
def test_a_network_gets_what_sampling_each_weight_gives(noise: NoiseModel, network: str) -> None:
    with seeded(STREAM):
        model = networks()[network]()
    noisy = NoisyWeights(model)
    expected = [
        weight.from_rows(noise.sample(weight.as_rows(weight.parameter.detach()), STREAM.weight(weight.name)))
        for weight in noisy.weights
    ]
    clean = [weight.parameter.detach().clone() for weight in noisy.weights]
    with noisy.perturbed(noise, STREAM):
        assert same_bits([weight.parameter.detach() for weight in noisy.weights], expected)
    assert same_bits([weight.parameter.detach() for weight in noisy.weights], clean)


def test_a_failure_while_filling_restores_the_weights_when_no_thread_writes_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.set_num_threads(2)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(6)))
    clean = [p.detach().clone() for p in model.parameters()]
    started = threading.Event()

    def failing(self: Tensor, *, generator: torch.Generator) -> Tensor:
        if not started.is_set():
            started.set()
            raise MemoryError("here")
        time.sleep(0.05)  # still at work when the first one has failed
        return self.fill_(1.0)

    noisy = NoisyWeights(model)
    monkeypatch.setattr(in_place, "BLOCK", 0)
    monkeypatch.setattr(Tensor, "normal_", failing)
    try:
        with pytest.raises(MemoryError, match="here"), noisy.perturbed(Gaussian(0.1), STREAM):
            pass
        assert same_bits([p.detach() for p in model.parameters()], clean)
        time.sleep(0.2)
        assert same_bits([p.detach() for p in model.parameters()], clean)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_weights_are_those_of_vector_norm(dtype: torch.dtype) -> None:
    weight = weight_of((6, 3, 2, 2)).to(dtype)
    weight[1] = -0.0
    weight[2, 1, 0, 0] = float("nan")
    weight[3, 1, 0, 0] = -float("inf")
    for form in (torch.contiguous_format, torch.channels_last):
        laid = weight.contiguous(memory_format=form)
        own = torch.linalg.vector_norm(laid, torch.inf, dim=(1, 2, 3), keepdim=True)
        assert same_bits([reference_scale(laid)], [own])
        whole = torch.linalg.vector_norm(laid, torch.inf).reshape(1, 1, 1, 1)
        assert same_bits([reference_scale(laid, "layer")], [whole])
        assert same_bits([reference_scale(laid[:2], "layer")], [whole.new_zeros(1, 1, 1, 1)])


def test_what_it_does_not_take() -> None:
    weight = weight_of((4, 3))
    with torch.inference_mode():
        inference = weight.clone()
    for noise, refused in [
        (Gaussian(0.1, per="read"), weight),
        (Gaussian(0.1, reference="tile"), weight),
        (NoiseModel.parse("laplace:0.1,reference=tile"), weight),
        (NoiseModel.parse("gaussian:0.1+gaussian:0.1"), weight),
        (Gaussian(0.1), weight.double()),
        (Gaussian(0.1), weight.bfloat16()),
        (Gaussian(0.1), weight[0]),
        (Gaussian(0.1), nn.Parameter(weight)),
        (Gaussian(0.1), inference),
    ]:
        assert not adds_in_place(noise, refused)
    add_in_place(Gaussian(0.1), [])
    with pytest.raises(ValueError, match="in place"):
        add_in_place(Gaussian(0.1, per="read"), [])


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(5, 4))
        noisy, clean = NoisyWeights(model), model[0].weight.clone()
        expected = Gaussian(0.1).sample(clean, STREAM.child("weight"))
        with noisy.perturbed(Gaussian(0.1), STREAM):
            assert torch.equal(model[0].weight, expected)
        assert torch.equal(model[0].weight, clean)


def test_a_use_in_inference_mode_does_not_spoil_later_ones() -> None:
    weight = weight_of((5, 3))
    expected = plain(Gaussian(0.1), weight, STREAM)
    for inside in (True, False):
        noisy = weight.clone()
        with torch.inference_mode(inside):
            add_in_place(Gaussian(0.1), [(noisy, STREAM)])
        assert same_bits([noisy], [expected])
